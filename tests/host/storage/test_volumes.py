"""Images shown and VOLUMEs filled on the real kernel."""

import asyncio
import os
import stat
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.host import mounts, syscalls
from sampan.host.storage import volumes as volumes_module
from sampan.host.storage.relabel import relabel
from sampan.host.storage.volumes import HostVolumes
from sampan.host.threads import in_slow_thread, in_thread
from sampan.model.errors import ImageVolumeMountFailed, Invalid
from sampan.model.paths import Paths
from sampan.runtime.image_ports import IdMapped, ImageMount
from sampan.spec.userns import Mappings, Range
from sampan.wire import mountinfo
from tests.host import stores
from tests.host.stores import Store, canary, d, f, fingerprint, s
from tests.images import Entry

pytestmark = pytest.mark.root
ID = "c" * 64


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    canary(tmp_path / "canary")
    before = fingerprint(tmp_path / "canary")
    async with stores.opened(tmp_path) as store:
        yield store
        await HostVolumes(store.paths, store.layers).remove(ID)
        await store.rootfs.remove(ID)
        assert not mountinfo.beneath(mounts.table(), str(store.paths.bundle(ID)))
    assert fingerprint(tmp_path / "canary") == before
    assert not mountinfo.beneath(mounts.table(), str(tmp_path))


@pytest.fixture
def volumes(store: Store) -> HostVolumes:
    return HostVolumes(store.paths, store.layers)


@pytest.fixture
def users() -> Iterator[IdMapped]:
    """A user namespace whose root is 100000 (uid) and 200000 (gid) of the host."""
    holder = subprocess.Popen(["unshare", "--user", "cat"], stdin=subprocess.PIPE)
    try:
        ours = Path("/proc/self/ns/user").readlink()
        namespace = Path(f"/proc/{holder.pid}/ns/user")
        while namespace.readlink() == ours:
            os.sched_yield()
        Path(f"/proc/{holder.pid}/uid_map").write_text("0 100000 65536")
        Path(f"/proc/{holder.pid}/gid_map").write_text("0 200000 65536")
        yield IdMapped(namespace, Mappings(Range(100_000, 65_536), Range(200_000, 65_536)))
    finally:
        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait(10)


async def rooted(
    store: Store, *layers: list[Entry], users: IdMapped | None = None
) -> tuple[Path, tuple[str, ...]]:
    chain = await store.chain(*layers)
    return await store.rootfs.prepare(ID, chain, users), tuple(chain)


# --- images -------------------------------------------------------------------------------------------------


async def test_an_image_is_shown_whole_and_read_only(store: Store, volumes: HostVolumes) -> None:
    _, chain = await rooted(store, [f("a", b"1"), f("gone")], [f("b", b"2"), f(".wh.gone")])
    shown = Path(await volumes.show(ID, ImageMount(0, chain)))
    assert sorted(path.name for path in shown.iterdir()) == ["a", "b"]
    (mount,) = (one for one in mounts.table() if one.point == str(shown))
    assert {"ro", "nosuid", "nodev"} <= mount.options and mount.propagation == "private"
    with pytest.raises(OSError, match="Read-only"):
        (shown / "new").touch()


async def test_an_image_without_layers_is_not_shown(store: Store, volumes: HostVolumes) -> None:
    await store.rootfs.prepare(ID, [])
    with pytest.raises(ImageVolumeMountFailed, match="no layers"):
        await volumes.show(ID, ImageMount(0, ()))


@pytest.mark.parametrize("layers", [1, 3, 40])
async def test_an_image_of_any_number_of_layers_is_shown(
    store: Store, volumes: HostVolumes, layers: int
) -> None:
    await store.rootfs.prepare(ID, [])
    chain = await store.chain(*([f(f"f{number}")] for number in range(layers)))
    shown = Path(await volumes.show(ID, ImageMount(0, tuple(chain))))
    assert len(list(shown.iterdir())) == layers


async def test_an_image_is_shown_with_the_ids_of_the_pod(
    store: Store, volumes: HostVolumes, users: IdMapped
) -> None:
    _, chain = await rooted(store, [f("a")], [Entry("b", data=b"x", uid=7, gid=8)])
    shown = Path(await volumes.show(ID, ImageMount(0, chain), users))
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in shown.iterdir()}
    assert owners == {"a": (100_000, 200_000), "b": (100_007, 200_008)}
    assert len(mountinfo.beneath(mounts.table(), str(store.paths.image_mounts(ID)))) == 1


SUB_PATHS = {  # each with where it leads in the image; "" is nowhere
    "": "/",
    ".": "/",
    "dir": "/dir",
    "dir/": "/dir",
    "/dir": "/dir",
    "dir/./deep": "/dir/deep",
    "link": "/dir/deep",
    "up": "/",
    "rooted": "/dir",
    "dir/deep/file": "",
    "file": "",
    "fifo": "",
    "absent": "",
    "dir/absent": "",
    "dead": "",
    "loop": "",
    "host": "",
    "proc/self/root": "",
    "file/..": "",
    "link/../../..": "/",
}


@pytest.mark.parametrize(("sub_path", "leads_to"), SUB_PATHS.items())
async def test_a18_a_sub_path_never_leaves_the_image(
    store: Store, volumes: HostVolumes, tmp_path: Path, sub_path: str, leads_to: str
) -> None:
    content = [d("dir"), d("dir/deep"), f("dir/deep/file"), f("file"), Entry("fifo", "fifo"), d("proc")]
    links = {"link": "dir/deep", "up": "../../../..", "rooted": "/dir", "dead": "nowhere", "loop": "loop"}
    links |= {"host": str(tmp_path / "canary"), "proc/self": "/proc/self"}
    _, chain = await rooted(store, [*content, *(s(name, link) for name, link in links.items())])
    top = store.paths.image_mounts(ID) / "4"
    wanted = ImageMount(4, chain, sub_path)
    if leads_to:
        assert await volumes.show(ID, wanted) == str(top) + leads_to.rstrip("/")
        return
    with pytest.raises(ImageVolumeMountFailed, match=r"^ImageVolumeMountFailed: mounts\[4\].image_sub_path"):
        await volumes.show(ID, wanted)


async def test_a_layer_that_is_gone_is_told_with_the_token(store: Store, volumes: HostVolumes) -> None:
    await store.rootfs.prepare(ID, [])
    with pytest.raises(ImageVolumeMountFailed, match=r"^ImageVolumeMountFailed: .*sha256:0"):
        await volumes.show(ID, ImageMount(0, ("sha256:0",)))


async def test_a_file_system_that_maps_no_ids_is_told_with_the_token(
    store: Store, volumes: HostVolumes, users: IdMapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, chain = await rooted(store, [f("a")])
    monkeypatch.setattr(type(store.layers), "root", Path("/sys/kernel"))
    with pytest.raises(ImageVolumeMountFailed, match=r"^ImageVolumeMountFailed: .*ids mapped"):
        await volumes.show(ID, ImageMount(0, chain), users)


async def test_a_mount_that_is_in_use_is_removed_all_the_same(store: Store, volumes: HostVolumes) -> None:
    _, chain = await rooted(store, [d("a")])
    shown = Path(await volumes.show(ID, ImageMount(0, chain)))
    held = os.open(shown / "a", os.O_RDONLY)
    try:
        await asyncio.gather(*(volumes.remove(ID) for _ in range(3)))
    finally:
        os.close(held)
    assert not store.paths.image_mounts(ID).exists()


async def test_a_sweep_unmounts_what_nobody_owns(store: Store, volumes: HostVolumes) -> None:
    _, chain = await rooted(store, [d("a")])
    shown = Path(await volumes.show(ID, ImageMount(0, chain)))
    await volumes.sweep({ID})
    assert shown.is_mount()
    await volumes.sweep(set())
    assert not shown.exists()


# --- VOLUMEs ------------------------------------------------------------------------------------------------


async def test_a_volume_has_what_the_image_has_there(store: Store, volumes: HostVolumes) -> None:
    root, _ = await rooted(
        store,
        [
            Entry("data", "dir", mode=0o1750, uid=5, gid=6, mtime=99),
            Entry("data/f", data=b"one", uid=7, mode=0o4711),
        ],
        [Entry("data/g", data=b"two", gid=8), d("data/sub")],
    )
    made = await volumes.make(ID, root, ("/data", "/absent/deep"))
    data = Path(made["/data"])
    assert (data / "f").read_bytes() + (data / "g").read_bytes() == b"onetwo"
    status, file = data.stat(), (data / "f").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime) == (0o1750, 5, 6, 99)
    assert (file.st_mode & 0o7777, file.st_uid) == (0o4711, 7)
    absent = Path(made["/absent/deep"])
    assert stores.is_empty(absent) and (absent.stat().st_mode & 0o7777, absent.stat().st_uid) == (0o755, 0)
    assert not (root / "absent").exists()


async def test_volumes_count_as_written_and_go_with_the_root(store: Store, volumes: HostVolumes) -> None:
    root, _ = await rooted(store, [f("data/f", b"x" * 100_000)])
    before = await store.rootfs.usage(ID)
    await volumes.make(ID, root, ("/data",))
    after = await store.rootfs.usage(ID)
    assert after.bytes - before.bytes >= 100_000 and after.inodes - before.inodes == 3
    await store.rootfs.remove(ID)
    assert not store.paths.volumes(ID).exists()


async def test_volumes_of_a_pod_with_its_own_users_are_its_roots(
    store: Store, volumes: HostVolumes, users: IdMapped
) -> None:
    root, _ = await rooted(store, [d("data"), Entry("data/f", data=b"x", uid=7, gid=8)], users=users)
    made = await volumes.make(ID, root, ("/data", "/new"), users)
    found = {name: Path(made[name]).stat() for name in made} | {"f": Path(made["/data"], "f").stat()}
    owners = {name: (status.st_uid, status.st_gid) for name, status in found.items()}
    assert owners == {"/data": (100_000, 200_000), "/new": (100_000, 200_000), "f": (100_007, 200_008)}


async def test_a1_a_link_in_the_image_never_leads_a_volume_out_of_it(
    store: Store, volumes: HostVolumes, tmp_path: Path
) -> None:
    root, _ = await rooted(store, [s("v", "/"), s("up", "../../.."), d("inside"), f("inside/own")])
    made = await volumes.make(ID, root, (f"/v{tmp_path}/canary", f"/up{tmp_path}/canary", "/v/inside"))
    assert set(made) == {f"{tmp_path}/canary", "/inside"}
    assert stores.is_empty(Path(made[f"{tmp_path}/canary"]))
    assert (Path(made["/inside"]) / "own").exists()


@pytest.mark.parametrize(
    "place", ["/dead", "/loop", "/file", "/file/below", "/link/below", "/dead/below", "/fifo"]
)
async def test_a_volume_that_is_no_directory_is_refused(
    store: Store, volumes: HostVolumes, place: str
) -> None:
    root, _ = await rooted(
        store, [s("dead", "nowhere"), s("loop", "loop"), f("file"), s("link", "file"), Entry("fifo", "fifo")]
    )
    with pytest.raises(Invalid, match=f"VOLUME {place}"):
        await volumes.make(ID, root, (place,))


async def test_links_of_a_volumes_place_are_resolved(store: Store, volumes: HostVolumes) -> None:
    root, _ = await rooted(
        store, [d("run"), d("var"), s("var/run", "../run"), s("kernel", "/proc"), d("proc")]
    )
    made = await volumes.make(ID, root, ("/var/run/app", "/kernel/x", "/run/app"))
    assert set(made) == {"/run/app", "/proc/x"}  # what may not be there is refused by the spec


async def test_making_again_starts_afresh(store: Store, volumes: HostVolumes) -> None:
    root, _ = await rooted(store, [f("data/f")])
    made = await volumes.make(ID, root, ("/data",))
    (Path(made["/data"]) / "half").touch()
    again = await volumes.make(ID, root, ("/data",))
    assert made == again and not (Path(made["/data"]) / "half").exists()


# --- the host's directories -----------------------------------------------------------------------------------


async def test_directories_that_can_be_mapped_pass(
    volumes: HostVolumes, users: IdMapped, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    await volumes.check_idmaps([str(tmp_path), str(tmp_path / "file")], users)
    assert stat.S_ISREG((tmp_path / "file").stat().st_mode)


async def test_one_that_cannot_be_mapped_is_named_with_its_file_system(
    volumes: HostVolumes, users: IdMapped, tmp_path: Path
) -> None:
    with pytest.raises(Invalid, match=r"/sys/kernel lies on /sys, a sysfs file system that .*ext4"):
        await volumes.check_idmaps([str(tmp_path), "/sys/kernel"], users)


async def test_one_that_cannot_be_mounted_elsewhere_is_named_too(
    volumes: HostVolumes, users: IdMapped, tmp_path: Path
) -> None:
    place = tmp_path / "fixed"
    place.mkdir()
    syscalls.mount("x", place, "tmpfs")
    try:
        syscalls.mount("", place, "", syscalls.MS_UNBINDABLE)
        with pytest.raises(Invalid, match=rf"{place} cannot be mounted in a container.*unbindable"):
            await volumes.check_idmaps([str(place)], users)
        with pytest.raises(Invalid, match="absent"):
            await volumes.check_idmaps([str(tmp_path / "absent")], users)
    finally:
        mounts.detach(place)


async def test_two_containers_at_once_get_their_volumes_and_others_wait(
    volumes: HostVolumes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What waits for them holds none of the threads that other long work needs."""
    release, begun = threading.Event(), threading.Semaphore(0)

    def work(id: str, *_: object) -> dict[str, str]:
        begun.release()
        release.wait(20)
        return {id: id}

    monkeypatch.setattr(volumes, "_make", work)
    making = [asyncio.ensure_future(volumes.make(f"{number}", tmp_path, ["/v"])) for number in range(6)]
    try:
        async with asyncio.timeout(10):
            assert await in_thread(begun.acquire) and await in_thread(begun.acquire)
            assert await in_slow_thread(lambda: "at once") == "at once"
            assert not begun.acquire(blocking=False)
    finally:
        release.set()
        assert await asyncio.gather(*making) == [{f"{number}": f"{number}"} for number in range(6)]


async def test_trees_are_labelled(volumes: HostVolumes, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    await volumes.relabel([str(tmp_path / "v")], "system_u:object_r:container_file_t:s0:c1,c2", 10)
    assert os.getxattr(tmp_path / "v", "security.selinux").startswith(b"system_u:object_r:container_file_t")


async def test_labelling_ends_with_the_create_that_wanted_it(
    volumes: HostVolumes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/file").touch()
    begun, go_on, ended = threading.Event(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def held(*args: Any) -> int:
        begun.set()
        assert go_on.wait(10)
        try:
            return relabel(*args)
        finally:
            loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr(volumes_module, "relabel", held)
    work = asyncio.create_task(volumes.relabel([str(tmp_path / "v")], "system_u:object_r:t:s0", 10))
    await asyncio.to_thread(begun.wait, 10)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    go_on.set()
    await asyncio.wait_for(ended.wait(), 10)
    for path in (tmp_path / "v", tmp_path / "v/file"):
        assert "security.selinux" not in os.listxattr(path)


async def test_volumes_can_be_labelled_where_a_link_leads_to_our_root(store: Store, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(store.paths.root)
    volumes = HostVolumes(Paths(tmp_path / "way", store.paths.state), store.layers)
    root, _ = await rooted(store, [f("a", b"1")])
    made = await volumes.make(ID, root, ["/data"])
    await volumes.relabel(list(made.values()), "system_u:object_r:t:s0", 10)
    assert os.getxattr(made["/data"], "security.selinux") == b"system_u:object_r:t:s0\0"


async def test_an_image_is_shown_with_the_containers_label(
    store: Store, volumes: HostVolumes, users: IdMapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stores.without_labels(monkeypatch)
    _, chain = await rooted(store, [f("a", b"1")])
    for number, owners in enumerate((None, users)):
        await volumes.show(ID, ImageMount(number, chain), owners, stores.LABEL)
        assert seen[-1].endswith(f"redirect_dir=nofollow,{stores.CONTEXT}")
    await volumes.show(ID, ImageMount(2, chain))
    assert "context" not in seen[-1]
