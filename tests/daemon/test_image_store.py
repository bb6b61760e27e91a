"""The image store of a whole daemon: damage that a pull mends, disks that are full, kills while images go."""

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import sampan_pb2 as own
from sampan.api import sampan_pb2_grpc as own_rpc
from tests import census, images
from tests.conftest import PushImage
from tests.daemon.conftest import Live
from tests.images import Entry

pytestmark = pytest.mark.root

MIB = 1 << 20


def pull(daemon: Live, name: str) -> str:
    request = cri.PullImageRequest(image=cri.ImageSpec(image=name))
    return daemon.images.PullImage(request, timeout=60).image_ref


def remove(daemon: Live, name: str) -> None:
    daemon.images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=name)), timeout=30)


def present(daemon: Live, name: str) -> bool:
    request = cri.ImageStatusRequest(image=cri.ImageSpec(image=name))
    return daemon.images.ImageStatus(request, timeout=30).HasField("image")


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return reason(caught.value)


def reason(error: Any) -> tuple[str, str]:
    """Code and words of a refused call; the stubs' types know neither."""
    return error.code().name, error.details() or ""


def settled(true: Callable[[], bool], what: str = "it") -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, f"{what} never came to be"
        time.sleep(0.02)


# --- damage -------------------------------------------------------------------------------------------------


def place_of(daemon: Live, content: str) -> Path:
    """The directory of the layer that has this file."""
    (found,) = daemon.own.root.glob(f"layers/*/fs/{content}")
    return found.parents[1]


def swapped(path: Path, kind: str) -> None:
    away = path.parents[len(path.parents) - 4] / f"away-{time.monotonic_ns()}"
    shutil.move(path, away)
    if kind == "file":
        path.touch()
    elif kind == "link":
        path.symlink_to(away)


def other_record(place: Path) -> None:
    found = json.loads((place / "layer.json").read_text())
    (place / "layer.json").write_text(json.dumps({**found, "chain_id": "sha256:" + "f" * 64}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no record": lambda place: (place / "layer.json").unlink(),
    "half a record": lambda place: os.truncate(place / "layer.json", 50),
    "a record of zeros": lambda place: (place / "layer.json").write_bytes(bytes(400)),
    "the record of another layer": other_record,
    "no content": lambda place: shutil.rmtree(place / "fs"),
    "a file as content": lambda place: swapped(place / "fs", "file"),
    "a link as content": lambda place: swapped(place / "fs", "link"),
    "no layer": shutil.rmtree,
    "a file as the layer": lambda place: swapped(place, "file"),
    "a link as the layer": lambda place: swapped(place, "link"),
}


@pytest.mark.parametrize("restart", [False, True], ids=["while it runs", "before a start"])
def test_a_damaged_layer_is_noticed_and_mended_by_a_pull(
    daemon: Live, push_image: PushImage, restart: bool
) -> None:
    for number, (what, damage) in enumerate(DAMAGE.items()):
        file = f"extra{number}"
        name = push_image(
            f"store/mend{number}-{int(restart)}", images.busybox([Entry(file, data=b"right\n")])
        )
        image = pull(daemon, name)
        pod = daemon.pod(f"p{number}")
        user = daemon.started(pod, name="user", image=cri.ImageSpec(image=name))
        base = place_of(daemon, "bin/busybox").lstat().st_ino
        damage(place_of(daemon, file))
        if restart:
            daemon.kill()
            daemon.start()
        else:
            code, said = refusal(lambda: daemon.container(pod, name="early", image=cri.ImageSpec(image=name)))  # noqa: B023 - called at once
            assert (code, "pull it again" in said) == ("DATA_LOSS", True), (what, said)
        assert not present(daemon, name), what
        assert daemon.exec(user, "cat", "/etc/passwd").exit_code == 0, what
        assert pull(daemon, name) == image
        assert place_of(daemon, "bin/busybox").lstat().st_ino == base, f"{what}: a whole layer came again"
        again = daemon.started(pod, name="again", image=cri.ImageSpec(image=name))
        assert daemon.exec(again, "cat", f"/{file}").stdout == b"right\n", what
        assert daemon.exec(user, "true").exit_code == 0, what
        daemon.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod))
        remove(daemon, name)
        assert not present(daemon, name)


# --- disks that are full --------------------------------------------------------------------------------------


@contextmanager
def disk(place: Path, mib: int) -> Iterator[Path]:
    """A small file system at `place`."""
    place.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs"]
    subprocess.run(["mount", *options, str(place)], check=True, timeout=20)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=20)


def fill(place: Path, left: int) -> Path:
    """Take all of a disk but `left` bytes."""
    found = os.statvfs(place)
    filler = place / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(found.f_bavail * found.f_frsize - left, 1))
    return filler


def big(mib: int) -> images.Image:
    return images.image([images.layer([Entry(f"big{n}", data=os.urandom(MIB)) for n in range(mib)])])


def store(daemon: Live, *extra: Path) -> census.Census:
    """The files of the daemon and of an image disk, and the images that it lists."""
    ignore = ("*/state.db-*", "*/filler", "*/usage")
    found = daemon.images.ListImages(cri.ListImagesRequest(), timeout=30).images
    return {
        "files": Counter(census.files(census.Scope(roots=(daemon.own.root, *extra), ignore=ignore))),
        "images": Counter(each.SerializeToString().hex() for each in found),
    }


def left_as_it_was(daemon: Live, before: census.Census, *extra: Path) -> None:
    settled(lambda: census.diff(before, store(daemon, *extra)) == "", "the store as it was")


def test_a_pull_that_fills_the_disk_of_images_leaves_nothing(daemon: Live, push_image: PushImage) -> None:
    name = push_image("store/full", big(16))
    daemon.kill()
    with disk(daemon.own.directory / "images", 40) as place:
        with daemon.own.config.open("a") as config:
            config.write(f'[images]\nroot = "{place}"\n')
        daemon.start()
        try:
            before = store(daemon, place)
            for left in (0, 1, 2, 4, 8, 12, 16, 17):
                filler = fill(place, left * MIB)
                code, said = refusal(lambda: pull(daemon, name))
                assert code == "RESOURCE_EXHAUSTED", (left, said)
                assert "free" in said or "full" in said or "space" in said
                left_as_it_was(daemon, before, place)
                filler.unlink()
            pull(daemon, name)
            info = daemon.images.ImageFsInfo(cri.ImageFsInfoRequest())
            (layers,), (written,) = info.image_filesystems, info.container_filesystems
            assert layers.fs_id.mountpoint == f"{place}/layers"
            assert written.fs_id.mountpoint == str(daemon.own.root)
            remove(daemon, name)
            left_as_it_was(daemon, before, place)
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True, timeout=20)
            code, said = refusal(lambda: pull(daemon, name))
            assert "Read-only file system" in said, (code, said)
            subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True, timeout=20)
            pull(daemon, name)
        finally:
            daemon.kill()


def test_a_pull_that_the_database_cannot_take_leaves_nothing(daemon: Live, push_image: PushImage) -> None:
    name = push_image("store/row", images.busybox([Entry("row", data=b"x")]))
    daemon.kill()
    place = daemon.own.directory / "images"
    place.mkdir()
    with daemon.own.config.open("a") as config:
        config.write(f'[images]\nroot = "{place}"\n')
    shutil.rmtree(daemon.own.root)
    with disk(daemon.own.root, 4):
        daemon.start()
        try:
            before = store(daemon, place)
            for left in (0, 4096, 8192, 16384):
                filler = fill(daemon.own.root, left)
                try:
                    pull(daemon, name)
                except grpc.RpcError as error:
                    code, said = reason(error)
                    assert code == "RESOURCE_EXHAUSTED" and "state.db" in said, said
                    left_as_it_was(daemon, before, place)
                else:
                    assert left, "there was room for the row"
                filler.unlink()
                pull(daemon, name)
                remove(daemon, name)
                left_as_it_was(daemon, before, place)
        finally:
            daemon.kill()


# --- kills ----------------------------------------------------------------------------------------------------


def used(daemon: Live) -> tuple[int, int]:
    (found,) = daemon.images.ImageFsInfo(cri.ImageFsInfoRequest(), timeout=30).image_filesystems
    return found.used_bytes.value, found.inodes_used.value


def measured(daemon: Live) -> tuple[int, int]:
    """What `du` says of layers and downloads."""
    found: dict[int, int] = {}
    for top in (daemon.own.root / "layers", daemon.own.root / "blobs"):
        for directory, inner, names in os.walk(top):
            for path in (Path(directory), *(Path(directory, name) for name in [*inner, *names])):
                with suppress(FileNotFoundError):  # it is being deleted
                    status = path.lstat()
                    found[status.st_ino] = status.st_blocks * 512
    return sum(found.values()), len(found)


@pytest.mark.parametrize("action", ["kill", "fail"])
def test_a_removal_that_ends_anywhere_is_whole_or_not_begun(
    daemon: Live, push_image: PushImage, action: str
) -> None:
    name = push_image(f"store/kill-{action}", images.busybox([Entry("extra", data=bytes(MIB))]))
    settled(lambda: used(daemon) == measured(daemon), "the true figure")
    baseline, before = used(daemon), store(daemon)
    met = 0
    for step in ("image.remove", "state.commit", "store.write", "image.layer.remove", "layer.remove"):
        for skip in (0, 1):
            image = pull(daemon, name)
            daemon.faults.write_text(json.dumps([{"step": step, "action": action, "skip": skip}]))
            try:
                remove(daemon, name)
            except grpc.RpcError:
                met += 1
            daemon.faults.unlink(missing_ok=True)
            if action == "kill" and (daemon.own.process is None or daemon.own.process.poll() is not None):
                daemon.ended()
                daemon.start()
            if present(daemon, name):
                assert pull(daemon, name) == image
                remove(daemon, name)
            settled(
                lambda: used(daemon) == measured(daemon) == baseline, f"the baseline after {action} at {step}"
            )
            left_as_it_was(daemon, before)
    assert met >= (5 if action == "kill" else 3)


# --- prune ----------------------------------------------------------------------------------------------------


def test_a_prune_gives_back_what_it_says(daemon: Live, push_image: PushImage) -> None:
    stub = own_rpc.ImagesStub(daemon.own.cri.channel)
    kept = {image.id for image in daemon.images.ListImages(cri.ListImagesRequest()).images}
    pod = daemon.pod()
    daemon.started(pod)
    pull(daemon, push_image("store/prune", images.busybox([Entry("extra", data=os.urandom(2 * MIB))])))
    settled(lambda: used(daemon) == measured(daemon), "the true figure")
    before = used(daemon)[0]
    (gone,) = stub.Prune(own.PruneRequest(all=True)).images
    assert {image.id for image in daemon.images.ListImages(cri.ListImagesRequest()).images} == kept
    assert 2 * MIB <= gone.bytes < 3 * MIB
    settled(lambda: used(daemon) == measured(daemon), "the true figure")
    assert before - used(daemon)[0] >= gone.bytes
