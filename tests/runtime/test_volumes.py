"""Containers with volumes, on fakes: which images they hold, what is made ready, what is undone."""

from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import ImageVolumeMountFailed, Invalid, ToolFailed, Unavailable
from sampan.model.image import Image, ImageConfig
from sampan.runtime.volumes import VolumeWork
from sampan.spec.facts import Source
from tests.fake_volumes import FakeVolumes
from tests.runtime.system import IMAGE, System, until, wire

MODELS = Image(
    id="sha256:" + "3" * 64,
    config=ImageConfig(),
    layers=("sha256:" + "4" * 64,),
    tags=("docker.io/library/models:1",),
)
STORE = msgspec.structs.replace(
    IMAGE,
    id="sha256:" + "5" * 64,
    config=ImageConfig(cmd=("sh",), volumes=("/data", "/cache")),
    tags=("docker.io/library/store:1",),
)
CALLS = ["volumes.show", "volumes.make", "facts.sources", "bundles.write", "oci.create"]


async def system() -> System:
    made = wire()
    await made.state.commit(MODELS, STORE)
    return made


def fake(made: System) -> FakeVolumes:
    return cast(FakeVolumes, made.machine.volumes)


def shown(**fields: Any) -> cri.Mount:
    usual: dict[str, Any] = {
        "container_path": "/m",
        "image": cri.ImageSpec(image="models:1"),
        "readonly": True,
    }
    return cri.Mount(**(usual | fields))


def own_users() -> cri.LinuxPodSandboxConfig:
    config = cri.LinuxPodSandboxConfig()
    options = config.security_context.namespace_options.userns_options
    options.mode = cri.POD
    for ids in (options.uids, options.gids):
        ids.append(cri.IDMapping(host_id=5000, container_id=0, length=10))
    return config


def mounts(made: System, id: str) -> dict[str, str]:
    return {mount["destination"]: mount["source"] for mount in made.world.bundles[id]["mounts"]}


async def test_images_are_shown_and_on_record_in_the_order_of_the_mounts() -> None:
    made = await system()
    box = shown(container_path="/b", image=cri.ImageSpec(image="box"))
    id = await made.container(await made.pod(), mounts=[shown(), box])
    assert made.state.containers[id].volume_images == (MODELS.id, IMAGE.id)
    assert made.journal.rows["container", id] == made.state.containers[id]
    assert mounts(made, id)["/m"] == f"/shown/{id}/0" and mounts(made, id)["/b"] == f"/shown/{id}/1"


async def test_an_image_that_is_shown_outlives_its_removal_and_goes_with_the_last_container() -> None:
    made = await system()
    images = made.containers._images
    released: list[Any] = []

    class Intake:
        async def release(self, layers: Any) -> None:
            released.append(layers)

    images._records._intake = cast(Any, Intake())
    pod = await made.pod()
    first, second = [await made.container(pod, name, mounts=[shown()]) for name in ("a", "b")]
    await images.remove("models:1")
    assert images.find("models:1") is None and made.state.images[MODELS.id].removed
    await made.containers.remove(first)
    await images.collect()
    assert not released
    await made.containers.remove(second)
    await until(lambda: released)
    assert MODELS.id not in made.state.images and released == [MODELS.layers]


async def test_a_restart_goes_on_holding_the_image() -> None:
    made = await system()
    await made.container(await made.pod(), mounts=[shown()])
    again = wire(made.world, made.journal)
    await again.recovery.run()
    await again.containers._images.remove("models:1")
    assert again.state.images[MODELS.id].removed


async def test_an_image_that_is_not_there_is_told_with_the_token() -> None:
    made = await system()
    pod = await made.pod()
    before = made.world.census()
    absent = cri.Mount(container_path="/n", image=cri.ImageSpec(image="absent:1"), readonly=True)
    with pytest.raises(
        ImageVolumeMountFailed, match=r"^ImageVolumeMountFailed: mounts\[1\].image: .*'absent:1'"
    ):
        await made.container(pod, mounts=[shown(), absent])
    assert made.world.census() == before and not made.state.containers


@pytest.mark.parametrize("call", CALLS)
async def test_a_create_that_fails_leaves_no_volume_and_holds_no_image(call: str) -> None:
    made = await system()
    made.world.sources["/h"] = Source("/h", True, "private")
    pod = await made.pod()
    before = made.world.census()
    wanted: dict[str, Any] = {
        "image": cri.ImageSpec(image="store:1"),
        "mounts": [shown(), cri.Mount(container_path="/x", host_path="/h")],
    }
    made.world.fail(call)
    with pytest.raises(ToolFailed):
        await made.container(pod, **wanted)
    assert made.world.census() == before and not made.containers._images._records._held
    id = await made.container(pod, **wanted)
    assert made.world.shown == {id}
    await made.containers.remove(id)
    assert made.world.census() == before


async def test_a_failed_sub_path_is_undone() -> None:
    made = await system()
    pod = await made.pod()
    before = made.world.census()
    with pytest.raises(ImageVolumeMountFailed, match="image_sub_path 'gone'"):
        await made.container(pod, mounts=[shown(image_sub_path="gone")])
    assert made.world.census() == before


async def test_a_container_without_images_costs_no_call_to_volumes() -> None:
    made = await system()
    id = await made.container(await made.pod())
    await made.containers.remove(id)
    assert not [call for call in made.world.calls if call.startswith("volumes.")]


async def test_an_intent_that_was_cut_short_is_unmounted_at_boot() -> None:
    made = await system()
    id = await made.container(await made.pod(), mounts=[shown()])
    intent = msgspec.structs.replace(made.state.containers[id], init=None, monitor=None)
    await made.journal.write([("container", id, intent)])
    made.world.shown.add("lost")  # of a record that is gone
    again = wire(made.world, made.journal)
    await again.recovery.run()
    assert not made.world.shown and not again.state.containers


# --- VOLUMEs ------------------------------------------------------------------------------------------------


async def test_volumes_of_the_image_are_made_and_mounted() -> None:
    made = await system()
    data = cri.Mount(container_path="/data", host_path="/h")
    made.world.sources["/h"] = Source("/h", True, "private")
    pod = await made.pod()
    whole = await made.container(pod, "a", image=cri.ImageSpec(image="store:1"))
    partly = await made.container(pod, "b", image=cri.ImageSpec(image="store:1"), mounts=[data])
    assert mounts(made, whole)["/cache"] == f"/volumes/{whole}/0"
    assert mounts(made, whole)["/data"] == f"/volumes/{whole}/1"
    assert (mounts(made, partly)["/cache"], mounts(made, partly)["/data"]) == (f"/volumes/{partly}/0", "/h")
    assert set(fake(made).made.values()) == {(0, 0)}


async def test_volumes_of_the_image_can_be_switched_off() -> None:
    made = await system()
    config = replace(made.config, images=replace(made.config.images, ignore_volumes=True))
    made.containers._gathering._volumes = VolumeWork(config, made.state, made.machine)
    id = await made.container(await made.pod(), image=cri.ImageSpec(image="store:1"))
    assert "/data" not in mounts(made, id) and not fake(made).made


# --- the host's directories -----------------------------------------------------------------------------------


async def test_only_what_is_mounted_with_mapped_ids_is_tried_beforehand() -> None:
    made = wire()
    made.machine = replace(made.machine, host=replace(made.machine.host, user_namespaces=True))
    for part in (made.pods, made.containers, made.containers._gathering, made.containers._gathering._volumes):
        cast(Any, part)._machine = made.machine
    made.world.sources |= {path: Source(f"/real{path}", True, "private") for path in ("/h", "/other")}
    ids = [cri.IDMapping(host_id=5000, container_id=0, length=10)]
    asked = [
        cri.Mount(container_path="/a", host_path="/h", uidMappings=ids, gidMappings=ids),
        cri.Mount(container_path="/b", host_path="/other"),
    ]
    pod = await made.pod(linux=own_users())
    made.world.fail("volumes.check_idmaps", Invalid("/real/h lies on /, a nope file system"))
    with pytest.raises(Invalid, match="nope"):
        await made.container(pod, mounts=asked)
    assert fake(made).probed == ["/real/h"] and not made.world.roots
    assert await made.container(pod, mounts=asked)


async def test_labels_are_given_where_selinux_runs() -> None:
    made = wire()
    made.machine = replace(made.machine, host=replace(made.machine.host, selinux=True))
    for part in (made.containers, made.containers._gathering, made.containers._gathering._volumes):
        cast(Any, part)._machine = made.machine
    made.world.sources["/h"] = Source("/srv/h", True, "private")
    pod = await made.pod()
    asked = [cri.Mount(container_path="/a", host_path="/h", selinux_relabel=True)]
    made.world.fail("volumes.relabel", Unavailable("relabelling /srv/h for SELinux takes too long"))
    with pytest.raises(Unavailable, match="takes too long"):
        await made.container(pod, mounts=asked)
    id = await made.container(pod, mounts=asked)
    assert fake(made).relabelled[-1][0] == "/srv/h"
    assert fake(made).relabelled[-1][1] == made.world.bundles[id]["linux"]["mountLabel"]


async def test_labels_are_ignored_where_it_does_not() -> None:
    made = wire()
    made.world.sources["/h"] = Source("/etc", True, "private")
    asked = [cri.Mount(container_path="/a", host_path="/h", selinux_relabel=True)]
    assert await made.container(await made.pod(), mounts=asked)
    assert not fake(made).relabelled
