"""Labels and profiles on their way from a request to a spec: what a pod keeps, what is looked up for each container."""

from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec.process import for_exec
from tests.fake_volumes import FakeVolumes
from tests.fakes import World
from tests.runtime.system import IMAGE, System, wire

LOCALHOST = cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref="web")


def host(**facts: Any) -> World:
    world = World()
    world.host = replace(world.host, **facts)
    return world


def secured(**context: Any) -> cri.LinuxContainerConfig:
    return cri.LinuxContainerConfig(
        security_context=cri.LinuxContainerSecurityContext(
            namespace_options=cri.NamespaceOption(pid=cri.CONTAINER), **context
        )
    )


def label(system: System, id: str) -> str:
    found: str = system.world.bundles[id]["process"]["selinuxLabel"]
    return found


async def test_the_containers_of_a_pod_share_a_level_and_pods_do_not() -> None:
    system = wire(host(selinux=True))
    pods = [await system.pod(name) for name in ("one", "two")]
    labels = [[label(system, await system.container(pod, name)) for name in ("app", "side")] for pod in pods]
    assert labels[0][0] == labels[0][1] and labels[1][0] == labels[1][1] and labels[0][0] != labels[1][0]
    assert labels[0][0].startswith("system_u:system_r:container_t:s0:c")


async def test_a_level_outlives_the_daemon() -> None:
    system = wire(host(selinux=True))
    pod = await system.pod()
    before = label(system, await system.container(pod))
    again = wire(system.world, system.journal)
    assert label(again, await again.container(pod, "side")) == before


async def test_no_level_is_given_where_none_is_wanted() -> None:
    system = wire(host(selinux=True))
    options = cri.LinuxSandboxSecurityContext(selinux_options=cri.SELinuxOption(level="s0:c1,c2"))
    pod = await system.pod(linux=cri.LinuxPodSandboxConfig(security_context=options))
    assert system.state.pods[pod].selinux_level == ""
    assert label(system, await system.container(pod)).endswith(":s0:c1,c2")
    plain = wire()
    assert plain.state.pods[await plain.pod()].selinux_level == ""


async def test_a_profile_counts_as_soon_as_it_is_loaded() -> None:
    system = wire(host(apparmor=True))
    pod = await system.pod()
    with pytest.raises(Invalid, match="'web' is not loaded"):
        await system.container(pod, linux=secured(apparmor=LOCALHOST))
    system.world.apparmor_profiles.add("web")
    id = await system.container(pod, linux=secured(apparmor=LOCALHOST))
    assert system.world.bundles[id]["process"]["apparmorProfile"] == "web"
    system.world.apparmor_profiles.add("sampan-default")
    plain = await system.container(pod, "plain")
    assert system.world.bundles[plain]["process"]["apparmorProfile"] == "sampan-default"


@pytest.mark.parametrize(
    ("apparmor", "context"),
    [(False, {}), (True, {"apparmor": cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)})],
)
async def test_nobody_looks_at_profiles_that_play_no_part(apparmor: bool, context: dict[str, Any]) -> None:
    system = wire(host(apparmor=apparmor))
    await system.container(await system.pod(), linux=secured(**context))
    assert "facts.apparmor_profiles" not in system.world.calls


async def test_an_exec_keeps_the_label_and_the_profile() -> None:
    world = host(apparmor=True, selinux=True)
    world.apparmor_profiles.add("sampan-default")
    system = wire(world)
    id = await system.started(await system.pod(), linux=secured(no_new_privs=True))
    process = system.world.bundles[id]["process"]
    run = for_exec(process, ["true"], tty=False)
    kept = ("selinuxLabel", "apparmorProfile", "noNewPrivileges", "capabilities", "user")
    assert {name: run[name] for name in kept} == {name: process[name] for name in kept}


async def test_what_is_mounted_for_a_container_has_its_label_and_what_it_shares_the_pods() -> None:
    system = wire(host(selinux=True))
    await system.state.commit(msgspec.structs.replace(IMAGE, id="sha256:" + "3" * 64, tags=("m:1",)))
    shown = cri.Mount(container_path="/m", image=cri.ImageSpec(image="sha256:" + "3" * 64), readonly=True)
    pod = await system.pod()
    volumes = cast(FakeVolumes, system.machine.volumes)
    of_pod = system.world.sandboxes[pod].label
    assert of_pod == f"system_u:object_r:container_file_t:{system.state.pods[pod].selinux_level}"
    plain = await system.container(pod, mounts=[shown])
    assert system.world.labels[plain] == volumes.labels[plain] == of_pod
    own = cri.SELinuxOption(level="s0:c7")
    other = await system.container(pod, "other", mounts=[shown], linux=secured(selinux_options=own))
    assert system.world.labels[other] == volumes.labels[other] == "system_u:object_r:container_file_t:s0:c7"
    for id in (plain, other):
        assert system.world.bundles[id]["linux"]["mountLabel"] == system.world.labels[id]


async def test_nothing_is_mounted_with_a_label_where_selinux_is_not() -> None:
    system = wire()
    pod = await system.pod()
    id = await system.container(pod, linux=secured(selinux_options=cri.SELinuxOption(level="s0:c7")))
    assert system.world.sandboxes[pod].label == system.world.labels[id] == ""
