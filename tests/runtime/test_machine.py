"""Each pod gets what the runtime of its own handler can do, whatever the others can."""

from dataclasses import replace

import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.config import loads
from sampan.model.errors import Invalid, RROUnsupported, Unavailable
from sampan.runtime.handler_ports import HandlerStatus
from sampan.spec.facts import Source
from sampan.wire.oci_features import Features
from tests.fakes import ABLE, World, machine
from tests.runtime.system import System, container_config, pod_config, wire

POOR = HandlerStatus("poor", "/usr/bin/poor", Features(name="poor"), privileged_devices=False)
RRO = cri.Mount(host_path="/data", container_path="/data", readonly=True, recursive_read_only=True)


def system(*handlers: HandlerStatus) -> System:
    world = World(handlers={each.name: each for each in (ABLE, POOR, *handlers)})
    made = wire(world)
    # beside crun, which is always there
    config = loads('root = "/tmp/sampan-root"\nstate = "/tmp/sampan-state"\n[runtime.handlers.poor]\n'
                   "[runtime.handlers.absent]\n")  # fmt: skip
    for user in (made.pods, made.containers):
        user._config = config
    return made


@pytest.mark.parametrize(
    "fact", ["seccomp", "apparmor", "selinux", "recursive_read_only", "user_namespaces", "privileged_devices"]
)
def test_a_handler_has_what_both_the_machine_and_its_runtime_have(fact: str) -> None:
    world = World(handlers={"crun": ABLE, "poor": POOR})
    able = replace(machine(world).host, apparmor=True, selinux=True, user_namespaces=True)
    whole = replace(machine(world), host=able)
    assert getattr(whole.host_of("crun"), fact) is True
    assert getattr(whole.host_of("poor"), fact) is False
    if fact != "privileged_devices":
        bare = replace(whole, host=replace(able, **{fact: False}))  # type: ignore[arg-type]
        assert getattr(bare.host_of("crun"), fact) is False


@pytest.mark.parametrize("name", ["crun", "runc"])
def test_of_runc_alone_it_is_known_that_it_binds_devices_in_user_namespaces(name: str) -> None:
    of_name = replace(ABLE, features=msgspec.structs.replace(ABLE.features, name=name))
    assert machine(World(handlers={"crun": of_name})).host_of("crun").binds_devices is (name == "runc")


@pytest.mark.parametrize(
    ("name", "version", "keeps"),
    [
        ("crun", (1, 8, 1), False),
        ("crun", (1, 20), False),
        ("crun", (1, 21), True),
        ("crun", (1, 28, 2), True),
        ("crun", (), False),
        ("runc", (1, 1, 5), True),
    ],
)
def test_an_old_crun_does_not_keep_what_is_mounted_beneath_a_source(
    name: str, version: tuple[int, ...], keeps: bool
) -> None:
    known = replace(ABLE, features=msgspec.structs.replace(ABLE.features, name=name, version=version))
    assert machine(World(handlers={"crun": known})).host_of("crun").keeps_submounts is keeps


async def test_a_handler_that_cannot_be_used_refuses_its_pods_before_anything_is_made() -> None:
    absent = HandlerStatus("absent", problem="absent is not installed")
    it = system(absent)
    with pytest.raises(Unavailable, match="runtime handler absent cannot be used: absent is not installed"):
        await it.pods.run(pod_config(), "absent")
    with pytest.raises(Invalid, match="no runtime handler 'x' is configured; known are: absent, crun, poor"):
        await it.pods.run(pod_config(), "x")
    assert it.world.census() == {} and not it.state.pods


async def test_a_pod_whose_handler_is_gone_takes_no_new_containers_and_is_removed_all_the_same() -> None:
    it = system()
    pod = await it.pods.run(pod_config(), "poor")
    first = await it.containers.create(pod, container_config("first"))
    it.world.handlers["poor"] = replace(POOR, problem="poor is not installed", features=Features())
    with pytest.raises(Unavailable, match="poor cannot be used: poor is not installed"):
        await it.containers.create(pod, container_config("second"))
    with pytest.raises(Unavailable, match="poor is not installed"):
        it.machine.host_of("poor")
    await it.containers.stop(first, 0)
    await it.pods.stop(pod)
    await it.pods.remove(pod)
    assert it.world.census() == {}


async def test_recursive_read_only_is_refused_where_the_runtime_of_the_pod_has_it_not() -> None:
    it = system()
    it.world.sources["/data"] = Source("/data", is_directory=True, propagation="private")
    able = await it.pods.run(pod_config("able"), "")
    assert await it.containers.create(able, container_config(mounts=[RRO]))
    poor = await it.pods.run(pod_config("poor"), "poor")
    with pytest.raises(RROUnsupported):
        await it.containers.create(poor, container_config(mounts=[RRO]))


async def test_what_a_handler_adds_is_in_its_containers_alone() -> None:
    base = {"hooks": {}, "annotations": {"a": "b"}, "mounts": [], "process": {"rlimits": []}, "linux": {}}
    it = system(replace(POOR, base_spec=base))
    for handler, expected in (("poor", "b"), ("", None)):
        pod = await it.pods.run(pod_config(f"p{handler}"), handler)
        id = await it.containers.create(pod, container_config())
        assert it.world.bundles[id].get("annotations", {}).get("a") == expected
