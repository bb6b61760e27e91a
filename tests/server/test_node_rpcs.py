"""Status, RuntimeConfig, Version and UpdateRuntimeConfig, over fakes."""

import json
from dataclasses import replace
from typing import Any, cast

import pytest

from sampan.api import cri_pb2 as cri
from sampan.config import loads
from sampan.model.errors import Invalid
from sampan.runtime.handler_ports import HandlerStatus, Trouble
from sampan.runtime.state import State
from sampan.server.node_rpcs import NodeRpcs
from sampan.server.streaming.sessions import Sessions
from sampan.server.use_cases import UseCases
from sampan.spec.facts import Host
from sampan.wire.oci_features import Features
from tests.fakes import ABLE, FakeJournal, World, machine

CONFIG = loads("[runtime.handlers.runc]\n[runtime.handlers.absent]\n")
OLD = HandlerStatus(
    "runc", "/usr/sbin/runc", Features(name="runc", recursive_read_only=True, user_namespaces=True)
)
ABSENT = HandlerStatus("absent", problem="absent is not installed", features=ABLE.features)


class Node:
    def __init__(self, damage: str = "", *, host: dict[str, Any] | None = None) -> None:
        self.world = World(handlers={"crun": ABLE, "runc": OLD, "absent": ABSENT})
        facts = replace(Host(user_namespaces=True), **(host or {}))
        none = cast(Any, None)
        cases = UseCases(
            **{**dict.fromkeys(UseCases.__dataclass_fields__, none), "config": CONFIG, "damage": damage,
               "machine": replace(machine(self.world), host=facts), "state": State(FakeJournal()),
               "sessions": Sessions(none, none, keep_input=False)}
        )  # fmt: skip
        self.rpcs = NodeRpcs(cases)

    async def status(self, *, verbose: bool = False) -> cri.StatusResponse:
        return await self.rpcs.Status(cri.StatusRequest(verbose=verbose), None)

    async def condition(self, name: str) -> tuple[bool, str, str]:
        conditions = (await self.status()).status.conditions
        (found,) = [one for one in conditions if one.type == name]
        return found.status, found.reason, found.message

    async def handlers(self) -> dict[str, tuple[bool, bool]]:
        rows = (await self.status()).runtime_handlers
        assert [row.name for row in rows] == sorted(row.name for row in rows)
        return {
            row.name: (row.features.recursive_read_only_mounts, row.features.user_namespaces) for row in rows
        }


async def test_all_is_well() -> None:
    node = Node()
    for name in ("RuntimeReady", "NetworkReady", "StateIntact"):
        assert await node.condition(name) == (True, "", "")
    assert not (await node.status()).info


async def test_each_condition_says_what_is_wrong() -> None:
    node = Node(damage="torn page")
    node.world.network_ready = False
    node.world.trouble = Trouble("RuntimeHandlerUnusable", "crun is gone")
    assert await node.condition("RuntimeReady") == (False, "RuntimeHandlerUnusable", "crun is gone")
    ready, reason, message = await node.condition("NetworkReady")
    assert (ready, reason) == (False, "NetworkPluginNotReady") and "/nowhere" in message
    assert await node.condition("StateIntact") == (False, "DatabaseSetAside", "torn page")


async def test_a_full_directory_is_told_and_the_kubelet_may_go_on_removing_pods() -> None:
    node = Node()
    node.world.trouble = Trouble("DirectoryFull", "/run is full", fatal=False)
    assert await node.condition("RuntimeReady") == (True, "DirectoryFull", "/run is full")


@pytest.mark.parametrize(
    ("host", "features"),
    [
        ({}, {"": (True, True), "absent": (False, False), "crun": (True, True), "runc": (True, False)}),
        (
            {"recursive_read_only": False},
            {"": (False, True), "absent": (False, False), "crun": (False, True), "runc": (False, False)},
        ),
        (
            {"user_namespaces": False},
            {"": (True, False), "absent": (False, False), "crun": (True, False), "runc": (True, False)},
        ),
    ],
)
async def test_a_handler_can_do_what_its_runtime_and_the_kernel_can(
    host: dict[str, bool], features: dict[str, tuple[bool, bool]]
) -> None:
    assert await Node(host=host).handlers() == features


@pytest.mark.parametrize("able", [True, False])
async def test_the_features_of_the_node(able: bool) -> None:
    found = (await Node(host={"user_namespaces": able}).status()).features
    assert (found.supplemental_groups_policy, found.mount_options) == (True, True)
    assert found.user_namespaces_host_network is able


async def test_the_verbose_status_is_json_by_key() -> None:
    found = (await Node().rpcs.Status(cri.StatusRequest(verbose=True), None)).info
    assert json.loads(found["config"])["containerd"]["defaultRuntimeName"] == "crun"
    assert json.loads(found["handlers"])["absent"]["problem"] == "absent is not installed"
    assert found["lastCNILoadStatus"] == "OK"
    assert json.loads(found["sessions"]) == {"exec": 0, "attach": 0, "portforward": 0}


@pytest.mark.parametrize(("systemd", "driver"), [(True, cri.SYSTEMD), (False, cri.CGROUPFS)])
async def test_the_kubelet_learns_the_cgroup_driver(
    systemd: bool, driver: "cri.CgroupDriver.ValueType"
) -> None:
    answer = await Node(host={"systemd_cgroup": systemd}).rpcs.RuntimeConfig(cri.RuntimeConfigRequest(), None)
    assert answer.linux.cgroup_driver == driver


async def test_the_version_is_the_one_that_the_kubelet_knows() -> None:
    answer = await Node().rpcs.Version(cri.VersionRequest(version="v1"), None)
    assert (answer.version, answer.runtime_name, answer.runtime_api_version) == ("0.1.0", "sampan", "v1")
    assert answer.runtime_version


def told(network: cri.NetworkConfig | None) -> cri.UpdateRuntimeConfigRequest:
    return cri.UpdateRuntimeConfigRequest(runtime_config=cri.RuntimeConfig(network_config=network))


@pytest.mark.parametrize(
    ("network", "calls"),
    [
        (None, []),
        (cri.NetworkConfig(pod_cidr=""), []),
        (cri.NetworkConfig(pod_cidr="10.88.0.0/16"), ["network.pod_cidrs 10.88.0.0/16"]),
        (
            cri.NetworkConfig(pod_cidr="10.88.0.0/16, fd00::/64"),
            ["network.pod_cidrs 10.88.0.0/16,fd00::/64"],
        ),
    ],
)
async def test_pod_cidrs_reach_the_network(network: cri.NetworkConfig | None, calls: list[str]) -> None:
    node = Node()
    await node.rpcs.UpdateRuntimeConfig(told(network), None)
    assert node.world.calls == calls


async def test_an_update_of_nothing_changes_nothing() -> None:
    node = Node()
    await node.rpcs.UpdateRuntimeConfig(cri.UpdateRuntimeConfigRequest(), None)
    assert node.world.calls == []


async def test_what_is_no_cidr_is_refused() -> None:
    with pytest.raises(Invalid, match="pod CIDR"):
        await Node().rpcs.UpdateRuntimeConfig(told(cri.NetworkConfig(pod_cidr="10.88.0.0/16,")), None)
