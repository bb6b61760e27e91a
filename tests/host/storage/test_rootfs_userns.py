"""Roots of containers in a user namespace: idmapped layers, and the slow way where there is none."""

import os
import stat
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.host import mounts, process, syscalls
from sampan.host.sandbox.sandboxes import PinnedSandboxes
from sampan.host.storage import chown, rootfs
from sampan.host.storage.rootfs import OverlayRootfs
from sampan.model.errors import Unavailable, WrongState
from sampan.runtime.image_ports import IdMapped
from sampan.runtime.ports import SandboxPlan
from sampan.spec.userns import Mappings, Range
from sampan.wire import mountinfo
from tests.host import stores
from tests.host.stores import Store
from tests.images import Entry

pytestmark = pytest.mark.root

ID, POD = "c" * 64, "d" * 64
MAPS = Mappings(Range(100000, 65536), Range(200000, 65536))
BASE = [
    Entry("./", "dir", uid=7, gid=8),
    Entry("etc", "dir"),
    Entry("etc/passwd", data=b"root:x:0:0::/:\n"),
    Entry("home", "dir", uid=1000, gid=1001),
    Entry("home/file", data=b"mine", uid=1000, gid=1001),
    Entry("home/link", "symlink", link="file", uid=1000, gid=1001),
    Entry("bin", "dir"),
    Entry("bin/su", data=b"#!", mode=0o4755),
    Entry("far", data=b"", uid=70000, gid=70000),
]
RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep, as an image has it
TOP = [Entry("etc/group", data=b"root:x:0:\n", uid=3)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with stores.opened(tmp_path) as store:
        yield store
    assert not mountinfo.beneath(mounts.table(), str(tmp_path))


@pytest.fixture
async def users(store: Store) -> AsyncIterator[IdMapped]:
    """A pod's pinned user namespace."""
    pods = PinnedSandboxes(store.paths)
    await pods.create(SandboxPlan(POD, frozenset({"user"}), "", {}, {}, 0, MAPS))
    yield IdMapped(store.paths.namespace(POD, "user"), MAPS)
    await pods.remove(POD)
    mounts.detach(store.paths.pod(POD).parent)


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


async def as_root_of(users: IdMapped, root: Path, *argv: str) -> None:
    """Run a program of the host as root of the namespace, in the directory `root`."""
    enter = ["nsenter", f"--user={users.namespace}", "--setuid", "0", "--setgid", "0", "--"]
    async with process.spawn([*enter, *argv], directory=str(root)) as child:
        (await child.finished()).check()


async def test_files_of_the_image_belong_to_the_namespace(store: Store, users: IdMapped) -> None:
    layers = await store.chain(BASE, TOP)
    root = await store.rootfs.prepare(ID, layers, users)
    shown = {name: owner(root / name) for name in ("", "etc/passwd", "home/file", "home/link", "etc/group")}
    assert shown == {
        "": (100007, 200008),
        "etc/passwd": (100000, 200000),
        "home/file": (101000, 201001),
        "home/link": (101000, 201001),
        "etc/group": (100003, 200000),
    }
    assert owner(root / "far") == (65534, 65534)
    assert (root / "bin/su").stat().st_mode & stat.S_ISUID
    assert owner(store.layers.directory(layers[0]) / "etc/passwd") == (0, 0)


async def test_c16_what_root_in_the_container_writes_belongs_to_its_id_on_the_host(
    store: Store, users: IdMapped
) -> None:
    root = await store.rootfs.prepare(ID, await store.chain(BASE), users)
    await as_root_of(users, root, "touch", "etc/new")
    await as_root_of(users, root, "sh", "-c", "echo more >>etc/passwd; chown 5:6 home/file")
    upper = store.paths.writable(ID) / "upper"
    assert owner(upper / "etc/new") == owner(upper / "etc/passwd") == (100000, 200000)
    assert owner(upper / "home/file") == (100005, 200006)
    assert (root / "etc/passwd").read_text() == "root:x:0:0::/:\nmore\n"


async def test_a_file_capability_counts_in_the_namespace(store: Store, users: IdMapped) -> None:
    layers = await store.chain(BASE)
    ping = store.layers.directory(layers[0]) / "bin/su"
    os.setxattr(ping, "security.capability", RAW)
    root = await store.rootfs.prepare(ID, layers, users)
    capability = os.getxattr(root / "bin/su", "security.capability")
    assert int.from_bytes(capability[:4], "little") >> 24 == 3
    assert int.from_bytes(capability[20:24], "little") == 100000


async def test_many_layers_are_one_mount_more_and_that_for_a_moment(store: Store, users: IdMapped) -> None:
    layers = await store.chain(*([Entry(f"file{number}", data=b"x")] for number in range(60)))
    root = await store.rootfs.prepare(ID, layers, users)
    assert [mount.point for mount in mountinfo.beneath(mounts.table(), str(store.paths.bundle(ID)))] == [
        str(root)
    ]
    assert {owner(root / f"file{number}") for number in range(60)} == {(100000, 200000)}
    assert not (store.paths.bundle(ID) / rootfs.LAYERS).exists()


async def test_preparing_again_is_harmless_also_after_a_kill_in_the_middle(
    store: Store, users: IdMapped
) -> None:
    layers = await store.chain(BASE)
    root = await store.rootfs.prepare(ID, layers, users)
    (root / "mine").touch()
    left = store.paths.bundle(ID) / rootfs.LAYERS
    left.mkdir()
    syscalls.mount(store.paths.root, left, "", syscalls.MS_BIND)
    assert await store.rootfs.prepare(ID, layers, users) == root
    assert (root / "mine").exists()
    assert not left.exists()
    await store.rootfs.remove(ID)
    assert not root.exists()


async def test_the_label_is_given_where_ids_are_mapped_too(
    store: Store, users: IdMapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stores.without_labels(monkeypatch)
    await store.rootfs.prepare(ID, await store.chain(BASE), users, stores.LABEL)
    assert seen[-1].endswith(f"redirect_dir=nofollow,{stores.CONTEXT}")
    await store.rootfs.remove(ID)


# --- where ids cannot be mapped ---------------------------------------------------------------------------


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object, **__: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(syscalls, "mount_setattr", answer)


@pytest.mark.usefixtures("refused")
async def test_a_file_system_that_refuses_is_named_and_nothing_stays(store: Store, users: IdMapped) -> None:
    with pytest.raises(Unavailable, match=r"images\.slow_chown"):
        await store.rootfs.prepare(ID, await store.chain(BASE), users)
    assert not mountinfo.beneath(mounts.table(), str(store.paths.rootfs(ID)))
    await store.rootfs.remove(ID)


@pytest.mark.usefixtures("refused")
async def test_the_slow_way_gives_every_file_to_the_namespace(
    store: Store, users: IdMapped, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stores.without_labels(monkeypatch)
    layers = await store.chain(BASE, TOP)
    plain = store.layers.directory(layers[0])
    os.setxattr(plain / "etc/passwd", "security.capability", RAW)
    slow = OverlayRootfs(store.paths, store.layers, slow_chown=True)
    try:
        root = await slow.prepare(ID, layers, users, stores.LABEL)
        assert seen[-1].endswith(stores.CONTEXT)
        assert "copying the whole image" in caplog.text
        names = ("", "etc", "etc/passwd", "home/file", "home/link", "etc/group", "bin/su", "far")
        assert [owner(root / name) for name in names] == [
            (100007, 200008),
            (100000, 200000),
            (100000, 200000),
            (101000, 201001),
            (101000, 201001),
            (100003, 200000),
            (100000, 200000),
            (70000, 70000),
        ]
        assert stat.S_IMODE((root / "bin/su").stat().st_mode) == 0o4755
        capability = os.getxattr(root / "etc/passwd", "security.capability")
        assert (capability[3], int.from_bytes(capability[20:24], "little")) == (3, 100000)
        assert owner(plain / "etc/passwd") == (0, 0)
        assert await slow.prepare(ID, layers, users) == root
        assert owner(root / "home/file") == (101000, 201001)
    finally:
        await slow.remove(ID)
        await slow.close()


@pytest.mark.usefixtures("refused")
async def test_the_slow_way_moves_the_root_once_as_everything_else(store: Store, users: IdMapped) -> None:
    """Where the host's ids of the pod are ids of the image too, a second time would show."""
    layers = await store.chain(BASE)
    low = IdMapped(users.namespace, Mappings(Range(5000, 65536), Range(6000, 65536)))
    slow = OverlayRootfs(store.paths, store.layers, slow_chown=True)
    try:
        for _ in range(2):
            root = await slow.prepare(ID, layers, low)
            assert (owner(root), owner(root / "etc")) == ((5007, 6008), (5000, 6000))
    finally:
        await slow.remove(ID)
        await slow.close()


@pytest.mark.usefixtures("refused")
async def test_owners_are_never_changed_twice(
    store: Store, users: IdMapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges may overlap, so a file that was changed already cannot be told from one that was not."""
    layers = await store.chain(BASE)
    slow = OverlayRootfs(store.paths, store.layers, slow_chown=True)
    real = chown.give

    def half(root: int, maps: Mappings) -> None:
        real(root, maps)
        raise OSError(28, "No space left on device")

    try:
        monkeypatch.setattr(chown, "give", half)
        with pytest.raises(OSError, match="No space"):
            await slow.prepare(ID, layers, users)
        monkeypatch.setattr(chown, "give", real)
        with pytest.raises(WrongState, match="cut short"):
            await slow.prepare(ID, layers, users)
    finally:
        await slow.remove(ID)
        await slow.close()


@pytest.mark.parametrize(
    "capability", [b"", b"\x01", b"\x01\0\0\x01" + bytes(16)], ids=["none", "short", "revision 1"]
)
def test_capabilities_of_unknown_shape_stay_as_they_are(capability: bytes) -> None:
    assert chown.owned(capability, 100000) == capability
