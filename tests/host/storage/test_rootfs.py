"""Containers' roots on the real overlayfs."""

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.host import mounts, syscalls
from sampan.host.storage import layer_store
from sampan.model.errors import Invalid, NotFound, WrongState
from sampan.wire import mountinfo
from tests.host import stores
from tests.host.stores import Store, canary, fingerprint
from tests.images import Entry

pytestmark = pytest.mark.root

BASE = [Entry("etc", "dir"), Entry("etc/passwd", data=b"root:x:0:0::/:\n"), Entry("dev", "dir")]
ID = "c" * 64


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    canary(tmp_path / "canary")
    before = fingerprint(tmp_path / "canary")
    async with stores.opened(tmp_path) as store:
        yield store
    assert fingerprint(tmp_path / "canary") == before
    assert not mountinfo.beneath(mounts.table(), str(tmp_path))


async def test_a_root_shows_the_layers_and_takes_writes(store: Store) -> None:
    layers = await store.chain(
        [Entry("./", "dir", mode=0o751, uid=3, mtime=9), *BASE], [Entry("etc/passwd", data=b"new")]
    )
    root = await store.rootfs.prepare(ID, layers)
    assert root == store.paths.rootfs(ID)
    assert (root / "etc/passwd").read_bytes() == b"new"
    assert (root.stat().st_mode & 0o7777, root.stat().st_uid, root.stat().st_mtime) == (0o751, 3, 9)
    (root / "etc/passwd").write_text("mine")
    (root / "dev").rmdir()
    assert (store.layers.directory(layers[1]) / "etc/passwd").read_bytes() == b"new"
    assert (store.layers.directory(layers[0]) / "dev").is_dir()
    await store.rootfs.remove(ID)
    assert not root.exists()
    assert not store.paths.writable(ID).exists()


async def test_removing_twice_and_removing_nothing_are_fine(store: Store) -> None:
    await store.rootfs.prepare(ID, await store.chain(BASE))
    await asyncio.gather(*(store.rootfs.remove(ID) for _ in range(5)))
    await store.rootfs.remove(ID)
    await store.rootfs.remove("never")


async def test_an_image_without_layers_has_an_empty_root(store: Store) -> None:
    root = await store.rootfs.prepare(ID, [])
    assert not any(root.iterdir())
    (root / "file").touch()
    assert not any((store.paths.layers / layer_store.EMPTY / "fs").iterdir())
    await store.rootfs.remove(ID)


async def test_five_hundred_layers_are_mounted(store: Store) -> None:
    layers = await store.chain(*([Entry(f"f{number}")] for number in range(3)))
    await store.layers.commit(layers)
    chain = [layers[0]] * 1  # the rest are made by hand: a record and a directory are all a layer is
    await store.layers.close()
    for number in range(500, 999):
        place = store.paths.layers / str(number)
        (place / "fs").mkdir(parents=True)
        (place / "fs" / f"n{number}").touch()
        record = store.layers.directory(layers[0]).parent / "layer.json"
        text = record.read_text().replace(layers[0], f"sha256:{number}")
        (place / "layer.json").write_text(text)
        chain.append(f"sha256:{number}")
    await store.layers.open()
    root = await store.rootfs.prepare(ID, chain)
    assert len(list(root.iterdir())) == 500
    await store.rootfs.remove(ID)
    with pytest.raises(Invalid):
        await store.rootfs.prepare(ID, [*chain, "sha256:998"])


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
@pytest.mark.parametrize("kind", ["symlink", "file", "fifo", "hardlink"])
async def test_kernel_directories_must_be_directories(
    store: Store, tmp_path: Path, name: str, kind: str
) -> None:
    link = str(tmp_path / "canary") if kind == "symlink" else "etc/passwd"
    layers = await store.chain([*BASE[:2], Entry(name, kind, link=link if "link" in kind else "")])
    with pytest.raises(Invalid, match=f"/{name} is not a directory"):
        await store.rootfs.prepare(ID, layers)
    assert str(store.paths.rootfs(ID)) not in [mount.point for mount in mounts.table()]
    await store.rootfs.remove(ID)


async def test_a_layer_that_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.rootfs.prepare(ID, ["sha256:absent"])


async def test_the_mount_is_private_and_leads_nowhere_else(store: Store) -> None:
    root = await store.rootfs.prepare(ID, await store.chain(BASE))
    mount = next(mount for mount in mounts.table() if mount.point == str(root))
    assert (mount.propagation, mount.fstype) == ("private", "overlay")
    assert "volatile" not in mount.super_options
    for option in ("index=on", "metacopy=on", "redirect_dir=on"):
        assert option not in mount.super_options
    await store.rootfs.remove(ID)


async def test_device_nodes_of_the_image_work(store: Store) -> None:
    """What may be opened is the device cgroup's decision, not the mount's."""
    root = await store.rootfs.prepare(ID, await store.chain([Entry("null", "char", device=(1, 3))]))
    assert (root / "null").read_bytes() == b""
    await store.rootfs.remove(ID)


async def test_preparing_again_mounts_once(store: Store) -> None:
    layers = await store.chain(BASE)
    for _ in range(3):
        root = await store.rootfs.prepare(ID, layers)
    assert sum(mount.point == str(root) for mount in mounts.table()) == 1
    await store.rootfs.remove(ID)


async def test_what_was_mounted_inside_is_unmounted_not_deleted(store: Store, tmp_path: Path) -> None:
    root = await store.rootfs.prepare(ID, await store.chain(BASE))
    for target in (root / "etc", root / "etc/etc", store.paths.writable(ID) / "upper"):
        syscalls.mount(tmp_path / "canary", target, "", syscalls.MS_BIND)
    await store.rootfs.remove(ID)
    assert not store.paths.writable(ID).exists()


async def test_nothing_is_deleted_while_something_stays_mounted(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.rootfs.prepare(ID, await store.chain(BASE))
    target = store.paths.writable(ID) / "upper"
    syscalls.mount(tmp_path / "canary", target, "", syscalls.MS_BIND)
    detach = mounts.detach
    with monkeypatch.context() as patch, pytest.raises(WrongState, match="still mounted"):
        patch.setattr(mounts, "detach", lambda path: None if path == target else detach(path))
        await store.rootfs.remove(ID)
    assert (target / "etc/passwd").read_text() == "outside"
    await store.rootfs.remove(ID)


async def test_usage_is_what_was_written(store: Store) -> None:
    root = await store.rootfs.prepare(ID, await store.chain(BASE))
    before = await store.rootfs.usage(ID)
    (root / "big").write_bytes(os.urandom(1 << 20))
    after = await store.rootfs.usage(ID)
    assert after.inodes == before.inodes + 1
    assert 1 << 20 <= after.bytes - before.bytes <= (1 << 20) + 65536
    await store.rootfs.remove(ID)
    assert (await store.rootfs.usage(ID)).inodes == 0


async def test_a_root_is_prepared_and_removed_in_a_blink(store: Store) -> None:
    """A median of a few ms at most, on whatever runs the tests; the budget is 1.5."""
    layers = await store.chain(BASE, [Entry("a")], [Entry("b")])
    times = []
    for number in range(15):
        begun = time.perf_counter()
        await store.rootfs.prepare(f"id{number}", layers)
        await store.rootfs.remove(f"id{number}")
        times.append(time.perf_counter() - begun)
    assert sorted(times)[7] < 0.05


# --- reading ------------------------------------------------------------------------------------------------


def make_inside(root: Path, outside: Path) -> None:
    (root / "system/etc").mkdir(parents=True)
    (root / "system/etc/passwd").write_text("inside")
    (root / "etc").symlink_to("/system/etc")
    (root / "up").symlink_to("../../../../system/etc/passwd")
    (root / "out").symlink_to(outside / "etc/passwd")
    (root / "zero").symlink_to("/dev/zero")
    (root / "magic").symlink_to("/proc/self/root/etc/passwd")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    os.mknod(root / "char", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (root / "dev").mkdir()
    os.mknod(root / "dev/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with (root / "sparse").open("wb") as file:
        file.truncate(2 << 30)


@pytest.mark.parametrize("path", ["/etc/passwd", "etc/passwd", "/up", "//system/../../etc/./passwd"])
async def test_a_file_is_read_inside_the_root(store: Store, tmp_path: Path, path: str) -> None:
    (tmp_path / "inside").mkdir()
    make_inside(tmp_path / "inside", tmp_path / "canary")
    assert await store.rootfs.read(tmp_path / "inside", path, 100) == b"inside"


@pytest.mark.parametrize("path", ["/absent", "/etc/absent", "/etc/passwd/x", "/out", "/magic"])
async def test_what_is_absent_inside_is_none(store: Store, tmp_path: Path, path: str) -> None:
    (tmp_path / "inside").mkdir()
    make_inside(tmp_path / "inside", tmp_path / "canary")
    assert await store.rootfs.read(tmp_path / "inside", path, 100) is None


@pytest.mark.parametrize(
    "path", ["/", "/system", "/fifo", "/char", "/zero", "/loop", "/sparse", "/" + "x" * 300]
)
async def test_what_is_no_plain_small_file_is_invalid(store: Store, tmp_path: Path, path: str) -> None:
    (tmp_path / "inside").mkdir()
    make_inside(tmp_path / "inside", tmp_path / "canary")
    begun = time.monotonic()
    with pytest.raises(Invalid):
        await store.rootfs.read(tmp_path / "inside", path, 10 << 20)
    assert time.monotonic() - begun < 1


async def test_a_file_as_large_as_the_limit_is_read(store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(100))
    assert await store.rootfs.read(tmp_path, "f", 100) == bytes(100)
    with pytest.raises(Invalid, match="the limit is 99"):
        await store.rootfs.read(tmp_path, "f", 99)


async def test_a_root_has_the_containers_label(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = stores.without_labels(monkeypatch)
    layers = await store.chain(BASE)
    await store.rootfs.prepare(ID, layers, label=stores.LABEL)
    assert seen[-1].endswith(f"redirect_dir=nofollow,{stores.CONTEXT}")
    await store.rootfs.remove(ID)
    await store.rootfs.prepare(ID, layers)
    assert "context" not in seen[-1]
    await store.rootfs.remove(ID)


@pytest.mark.skipif(Path("/sys/fs/selinux/enforce").exists(), reason="this kernel runs SELinux")
async def test_a_kernel_without_selinux_takes_no_label(store: Store) -> None:
    with pytest.raises(OSError):  # what says that the option reaches the kernel
        await store.rootfs.prepare(ID, await store.chain(BASE), label=stores.LABEL)
    await store.rootfs.remove(ID)
