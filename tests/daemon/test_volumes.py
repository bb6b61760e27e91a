"""Volumes of a whole daemon: images in containers, VOLUMEs, mapped ids, and what is left of them after a kill -9."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.host import mounts as host_mounts
from sampan.wire import oci_features
from scripts import private_daemon
from tests import census, cgroup_drivers, images
from tests.daemon.conftest import Live, clean_up, import_image
from tests.images import Entry

pytestmark = pytest.mark.root

MODELS, STORE = "localhost/models:1", "localhost/store:1"
FIRST, COUNT = 700_000, 65_536
CONTENT = [
    Entry("small", "dir"),
    Entry("small/weights", data=b"1 2 3", uid=5),
    Entry("run", data=b"#!/bin/sh\necho ran\n", mode=0o755),
]
DATA = [
    Entry("data", "dir", mode=0o1770, uid=33, gid=33),
    Entry("data/seed", data=b"from the image", uid=33, gid=33),
    Entry("link", "symlink", link="/data"),
]


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of an image to mount and one that declares VOLUMEs."""
    path = tmp_path_factory.mktemp("archive") / "more.tar"
    declared: dict[str, Any] = {"Volumes": {"/data": {}, "/new/place": {}, "/sys/fs/cgroup": {}}}
    of_models, of_store = images.image([images.layer(CONTENT)]), images.busybox(DATA, declared)
    path.write_bytes(images.oci_layout({MODELS: of_models, STORE: of_store}))
    return path


@pytest.fixture(scope="module")
def shared(archive: Path, more: Path) -> Iterator[Live]:
    """One daemon for all of this file."""
    live = Live(os.getpid() % 200 + 20, cgroup_drivers.DRIVERS[-1])
    try:
        live.start()
        import_image(live, archive)
        import_image(live, more)
        live.life()
        yield live
    finally:
        with private_daemon.uninterrupted():
            clean_up(live)


@pytest.fixture
def live(shared: Live) -> Iterator[Live]:
    """The daemon without any pod."""
    yield shared
    remove_all(shared)


def shown(**fields: Any) -> cri.Mount:
    image = cri.ImageSpec(image=MODELS)
    return cri.Mount(container_path="/models", image=image, readonly=True, **fields)


def of_store(**fields: Any) -> dict[str, Any]:
    return {"image": cri.ImageSpec(image=STORE), **fields}


def own_users() -> cri.LinuxPodSandboxConfig:
    """A user namespace of the pod's own."""
    config = cri.LinuxPodSandboxConfig()
    options = config.security_context.namespace_options.userns_options
    options.mode = cri.POD
    for ids in (options.uids, options.gids):
        ids.append(cri.IDMapping(host_id=FIRST, container_id=0, length=COUNT))
    return config


def mapped() -> dict[str, Any]:
    ids = [cri.IDMapping(host_id=FIRST, container_id=0, length=COUNT)]
    return {"uidMappings": ids, "gidMappings": ids}


def flags(live: Live, container: str, place: str) -> set[str]:
    """The options of the container's mount at `place`."""
    table = live.exec(container, "cat", "/proc/self/mountinfo").stdout.decode()
    (found,) = (line.split()[5] for line in table.splitlines() if line.split()[4] == place)
    return set(found.split(","))


def remove(live: Live, container: str) -> None:
    live.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=container))


def there(live: Live) -> set[str]:
    listed = live.images.ListImages(cri.ListImagesRequest()).images
    return {tag for image in listed for tag in image.repo_tags}


def layers(live: Live) -> int:
    """Layers on disk."""
    return len(list((live.own.root / "layers").glob("*/layer.json")))


def settled(live: Live, before: census.Census) -> str:
    for _ in range(100):
        now = {kind: items for kind, items in live.census().items() if kind not in ("descriptors", "threads")}
        if not (left := census.diff(before, now)):
            return ""
        time.sleep(0.05)
    return left


def lasting(live: Live) -> census.Census:
    return {kind: items for kind, items in live.census().items() if kind not in ("descriptors", "threads")}


# --- images -------------------------------------------------------------------------------------------------


def test_an_image_is_mounted_and_outlives_its_removal_and_the_daemon(live: Live, more: Path) -> None:
    pod = live.pod()
    many = layers(live)
    container = live.started(pod, mounts=[shown()])
    assert live.exec(container, "cat", "/models/small/weights").stdout == b"1 2 3"
    assert {"ro", "nosuid", "nodev"} <= flags(live, container, "/models")
    assert live.exec(container, "sh", "-c", "/models/run").exit_code == 0
    assert live.exec(container, "touch", "/models/new").exit_code
    echoed = live.status(container).mounts[0]
    id = live.images.ImageStatus(cri.ImageStatusRequest(image=cri.ImageSpec(image=MODELS))).image.id
    assert (echoed.image.image, echoed.image.image_ref, echoed.readonly) == (MODELS, id, True)
    live.images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=MODELS)))
    assert MODELS not in there(live)
    live.kill()
    live.start()
    assert live.exec(container, "cat", "/models/small/weights").stdout == b"1 2 3"
    assert layers(live) == many
    remove(live, container)
    for _ in range(100):
        if layers(live) == many - 1:
            break
        time.sleep(0.05)
    assert layers(live) == many - 1
    assert container not in Path("/proc/self/mountinfo").read_text()
    import_image(live, more)


def test_a_sub_path_of_an_image_is_mounted(live: Live) -> None:
    container = live.started(live.pod(), mounts=[shown(image_sub_path="small")])
    assert live.exec(container, "ls", "/models").stdout == b"weights\n"
    assert live.status(container).mounts[0].image_sub_path == "small"


@pytest.mark.parametrize(
    ("mount", "code", "words"),
    [
        (
            shown(image_sub_path="absent"),
            "UNKNOWN",
            "ImageVolumeMountFailed: mounts[0].image_sub_path 'absent'",
        ),
        (shown(image_sub_path="run"), "UNKNOWN", "ImageVolumeMountFailed: mounts[0].image_sub_path 'run'"),
        (shown(image_sub_path="../.."), "UNKNOWN", "ImageVolumeMountFailed: mounts[0].image_sub_path"),
        (
            cri.Mount(container_path="/m", image=cri.ImageSpec(image="absent"), readonly=True),
            "UNKNOWN",
            "ImageVolumeMountFailed: mounts[0].image",
        ),
        (
            cri.Mount(container_path="/m", image=cri.ImageSpec(image=MODELS)),
            "INVALID_ARGUMENT",
            "mounts[0].image",
        ),
    ],
)
def test_an_image_that_cannot_be_mounted_is_told_and_leaves_nothing(
    live: Live, mount: cri.Mount, code: str, words: str
) -> None:
    pod = live.pod()
    remove(live, live.container(pod))
    before = lasting(live)
    with pytest.raises(grpc.RpcError) as refused:
        live.container(pod, mounts=[mount])
    assert refused.value.code().name == code and (refused.value.details() or "").startswith(words)
    assert not settled(live, before)


# --- VOLUMEs ------------------------------------------------------------------------------------------------


def test_volumes_of_an_image_are_the_containers_own_and_go_with_it(live: Live) -> None:
    pod = live.pod()
    remove(live, live.container(pod))
    before = lasting(live)
    read_only = cri.LinuxContainerConfig(
        security_context=cri.LinuxContainerSecurityContext(readonly_rootfs=True)
    )
    first = live.started(pod, name="a", linux=read_only, **of_store())
    second = live.started(pod, name="b", **of_store())
    assert live.exec(first, "cat", "/link/seed").stdout == b"from the image"
    assert (
        live.exec(first, "stat", "-c", "%a %u %g", "/data", "/new/place").stdout == b"1770 33 33\n755 0 0\n"
    )
    script = "echo own > /data/own && echo own > /new/place/own && echo x > /data/seed"
    assert live.exec(first, "sh", "-c", script).exit_code == 0
    assert live.exec(second, "ls", "/data", "/new/place").stdout.split() == [
        b"/data:",
        b"seed",
        b"/new/place:",
    ]
    assert live.exec(second, "cat", "/data/seed").stdout == b"from the image"
    live.kill()
    live.start()
    assert live.exec(first, "cat", "/new/place/own").stdout == b"own\n"
    for container in (first, second):
        remove(live, container)
    assert not settled(live, before)


def test_what_the_request_mounts_wins_over_the_images_volume(live: Live, tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    mount = cri.Mount(container_path="/data", host_path=str(tmp_path / "users"))
    container = live.started(live.pod(), **of_store(mounts=[mount]))
    assert live.exec(container, "touch", "/data/mine").exit_code == 0
    assert [path.name for path in (tmp_path / "users").iterdir()] == ["mine"]


# --- ids ----------------------------------------------------------------------------------------------------


def test_ids_are_those_of_the_pod_in_volumes_of_every_kind(live: Live, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "roots").touch()
    (volume / "users").touch()
    os.chown(volume / "users", 1000, 1000)
    pod = live.pod(linux=own_users())
    mounts = [
        cri.Mount(container_path="/mapped", host_path=str(volume), **mapped()),
        cri.Mount(container_path="/plain", host_path=str(volume)),
        shown(**mapped()),
    ]
    container = live.started(pod, **of_store(mounts=mounts))
    owners = ["stat", "-c", "%n %u", "/mapped/roots", "/mapped/users", "/plain/roots"]
    assert live.exec(container, *owners).stdout.decode().split() == [
        *("/mapped/roots", "0", "/mapped/users", "1000", "/plain/roots", "65534")
    ]
    of_images = ["stat", "-c", "%u", "/models/run", "/models/small/weights", "/data/seed", "/new/place"]
    assert live.exec(container, *of_images).stdout.split() == [b"0", b"5", b"33", b"0"]
    assert live.exec(container, "touch", "/mapped/new", "/new/place/new").exit_code == 0
    assert live.exec(container, "touch", "/plain/new").exit_code
    assert (volume / "new").stat().st_uid == 0
    written = live.own.root / "containers" / container / "volumes"
    assert {path.stat().st_uid for path in written.glob("*/new")} == {FIRST}


def test_ids_are_those_of_the_pod_also_where_its_containers_share_their_pids(
    live: Live, tmp_path: Path
) -> None:
    (tmp_path / "users").touch()
    os.chown(tmp_path / "users", 1000, 1000)
    mounts = [cri.Mount(container_path="/mapped", host_path=str(tmp_path), **mapped())]
    pod = live.pod(pid=cri.POD, linux=own_users())
    sharing = live.started(pod, name="sharing", pid=cri.POD, mounts=mounts)
    target = cri.NamespaceOption(pid=cri.TARGET, target_id=sharing)
    security = cri.LinuxContainerSecurityContext(namespace_options=target)
    debugging = live.started(
        pod, name="debugging", linux=cri.LinuxContainerConfig(security_context=security), mounts=mounts
    )
    for container in (sharing, debugging):
        assert live.exec(container, "stat", "-c", "%u:%g", "/mapped/users").stdout == b"1000:1000\n"
        script = "touch /mapped/roots /mapped/last && chown 65535:40000 /mapped/last"
        assert live.exec(container, "sh", "-c", script).exit_code == 0
        owners = [(tmp_path / name).stat() for name in ("roots", "last")]
        assert [(owner.st_uid, owner.st_gid) for owner in owners] == [(0, 0), (65535, 40000)]
        for name in ("roots", "last"):
            (tmp_path / name).unlink()


@pytest.mark.parametrize("ids", [mapped(), {}])
def test_what_is_mounted_beneath_a_volume_is_there_or_the_volume_refused(
    live: Live, tmp_path: Path, ids: dict[str, Any]
) -> None:
    """Written to a mount that was left out, data would lie hidden under the host's."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "plain").mkdir()
    host_mounts.tmpfs(tmp_path / "disk", 1 << 20, 0o755)
    try:
        (tmp_path / "disk/seed").touch()
        pod = live.pod(linux=own_users())
        over, beside = (
            cri.Mount(container_path="/v", host_path=str(path), **ids)
            for path in (tmp_path, tmp_path / "plain")
        )
        assert live.exec(live.started(pod, name="beside", mounts=[beside]), "ls", "/v").stdout == b""
        if _keeps_submounts():
            container = live.started(pod, mounts=[over])
            assert live.exec(container, "ls", "/v/disk").stdout == b"seed\n"
        else:
            with pytest.raises(grpc.RpcError) as refused:
                live.container(pod, mounts=[over])
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert f"'{tmp_path}' has other mounts beneath it" in (refused.value.details() or "")
        with_hosts = live.started(
            live.pod("hosts"), mounts=[cri.Mount(container_path="/v", host_path=str(tmp_path))]
        )
        assert live.exec(with_hosts, "ls", "/v/disk").stdout == b"seed\n"
    finally:
        remove_all(live)
        host_mounts.detach(tmp_path / "disk")


def _keeps_submounts() -> bool:
    said = subprocess.run(["crun", "--version"], capture_output=True, check=True, timeout=20).stdout
    return oci_features.version(said) >= (1, 21)


def test_a_volume_whose_ids_cannot_be_mapped_is_named(live: Live) -> None:
    pod = live.pod(linux=own_users())
    with pytest.raises(grpc.RpcError) as refused:
        live.container(pod, mounts=[cri.Mount(container_path="/k", host_path="/sys/kernel", **mapped())])
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "/sys/kernel lies on /sys, a sysfs file system" in (refused.value.details() or "")


# --- options ------------------------------------------------------------------------------------------------


def test_options_hold_in_the_container_and_are_echoed(live: Live, tmp_path: Path) -> None:
    mounts = [
        cri.Mount(container_path="/a", host_path=str(tmp_path), mount_options=["noexec", "nodev"]),
        cri.Mount(container_path="/b", host_path=str(tmp_path), readonly=True, mount_options=["nosuid"]),
        cri.Mount(container_path="/c", host_path=str(tmp_path), readonly=True, recursive_read_only=True),
        cri.Mount(container_path="/d", host_path=str(tmp_path)),
    ]
    container = live.started(live.pod(), mounts=mounts)
    kinds = {"ro", "rw", "noexec", "nodev", "nosuid"}
    found = {place: flags(live, container, place) & kinds for place in ("/a", "/b", "/c", "/d")}
    assert found == {"/a": {"rw", "noexec", "nodev"}, "/b": {"ro", "nosuid"}, "/c": {"ro"}, "/d": {"rw"}}
    assert list(live.status(container).mounts) == mounts


# --- kill -9 ------------------------------------------------------------------------------------------------


def life(live: Live, tmp_path: Path) -> None:
    """A pod with every kind of volume, through every verb."""
    pod = live.pod("k", linux=own_users())
    mounts = [
        shown(**mapped()),
        cri.Mount(container_path="/mapped", host_path=str(tmp_path), **mapped()),
        cri.Mount(
            container_path="/sub", image=cri.ImageSpec(image=MODELS), image_sub_path="small", readonly=True
        ),
    ]
    container = live.started(pod, **of_store(mounts=mounts))
    assert live.exec(container, "cat", "/sub/weights", "/data/seed").stdout == b"1 2 3from the image"
    remove(live, container)
    live.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod))


def remove_all(live: Live) -> None:
    for pod in live.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items:
        live.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod.id))


def steps(live: Live, tmp_path: Path) -> list[tuple[str, int]]:
    """The steps of volumes in such a life, each with the number of times it came before."""
    seen = live.faults.with_suffix(".seen")
    seen.unlink(missing_ok=True)
    life(live, tmp_path)
    names = [name for name in seen.read_text().split() if name.startswith("volume.")]
    assert {"volume.image.mount", "volume.make", "volume.image.unmount"} <= set(names)
    return [(name, names[:number].count(name)) for number, name in enumerate(names)]


@pytest.mark.parametrize("action", ["kill", "fail", "enospc"])
def test_whatever_befalls_a_step_of_volumes_nothing_is_left(live: Live, tmp_path: Path, action: str) -> None:
    life(live, tmp_path)
    before = lasting(live)
    for step, skip in steps(live, tmp_path):
        live.faults.write_text(json.dumps([{"step": step, "action": action, "skip": skip}]))
        try:
            life(live, tmp_path)
        except grpc.RpcError:
            pass
        finally:
            live.faults.unlink(missing_ok=True)
        if action == "kill":
            live.ended()
            live.start()
        remove_all(live)
        left = settled(live, before)
        assert not left, f"after {action} at {step} ({skip}):\n{left}"
        assert {MODELS, STORE} <= there(live)
