"""What a user namespace of a pod means to the use cases: it is made, recorded, joined, and looked for at boot."""

from dataclasses import replace
from typing import Any

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.model.pod import PodState
from sampan.spec.userns import Mappings, Range
from tests.fakes import World
from tests.runtime.system import System, wire

USERS = cri.UserNamespace(
    mode=cri.POD,
    uids=[cri.IDMapping(host_id=100000, length=65536)],
    gids=[cri.IDMapping(host_id=200000, length=65536)],
)
MAPS = Mappings(Range(100000, 65536), Range(200000, 65536))
OPTIONS = cri.NamespaceOption(userns_options=USERS)


def in_pod(options: cri.NamespaceOption = OPTIONS) -> cri.LinuxPodSandboxConfig:
    context = cri.LinuxSandboxSecurityContext(namespace_options=options)
    return cri.LinuxPodSandboxConfig(security_context=context)


def in_container(options: cri.NamespaceOption = OPTIONS, **more: Any) -> cri.LinuxContainerConfig:
    context = cri.LinuxContainerSecurityContext(namespace_options=options, **more)
    return cri.LinuxContainerConfig(security_context=context)


@pytest.fixture
def system() -> System:
    world = World()
    world.host = replace(world.host, user_namespaces=True)
    return wire(world)


async def test_the_plan_has_the_maps_and_everything_is_owned_by_it(system: System) -> None:
    id = await system.pod(linux=in_pod())
    assert system.state.pods[id].namespaces == {"net", "ipc", "uts", "user"}
    plan = system.world.sandboxes[id]
    assert plan.namespaces == {"net", "ipc", "uts", "user"}
    assert plan.userns == MAPS
    assert plan.sysctls["net.ipv4.ping_group_range"] == "200000 265535"


async def test_a_pod_without_one_has_none(system: System) -> None:
    id = await system.pod()
    app = await system.container(id)
    assert system.world.sandboxes[id].userns is None
    assert system.world.users[app] is None
    assert "uidMappings" not in system.world.bundles[app]["linux"]


async def test_containers_and_the_init_join_it_and_own_their_files(system: System) -> None:
    id = await system.pod(pid=cri.POD, linux=in_pod())
    app = await system.container(id, pid=cri.POD, linux=in_container())
    place = system.config.paths.namespace(id, "user")
    for bundle in (system.world.bundles[app], system.world.bundles[id]):
        assert {"type": "user", "path": str(place)} in bundle["linux"]["namespaces"]
        assert bundle["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 100000, "size": 65536}]
        assert bundle["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 200000, "size": 65536}]
    users = system.world.users[app]
    assert users is not None
    assert (users.namespace, users.maps) == (place, MAPS)


async def test_a_user_that_it_lacks_is_refused_and_nothing_is_left(system: System) -> None:
    id = await system.pod(linux=in_pod())
    with pytest.raises(Invalid, match="user 70000 does not exist"):
        await system.container(id, linux=in_container(run_as_user=cri.Int64Value(value=70000)))
    assert not system.state.containers
    assert not system.world.roots


async def test_a_host_without_them_refuses_before_any_effect() -> None:
    system = wire()
    with pytest.raises(Invalid, match="runtime handler or this host cannot"):
        await system.pod(linux=in_pod())
    assert (system.world.census(), system.journal.rows) == ({}, {})


async def test_a_pod_whose_user_namespace_is_gone_is_not_ready_after_a_boot(system: System) -> None:
    id = await system.pod(linux=in_pod())
    plan = system.world.sandboxes[id]
    system.world.sandboxes[id] = replace(plan, namespaces=plan.namespaces - {"user"})
    again = wire(system.world, system.journal)
    await again.recovery.run()
    assert again.state.pods[id].state is PodState.NOT_READY
