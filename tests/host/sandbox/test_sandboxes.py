"""Pods' namespaces, files and /dev/shm on the real kernel."""

import asyncio
import errno
import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.config import Paths
from sampan.host import mounts, syscalls
from sampan.host.sandbox import netns, sandboxes
from sampan.host.sandbox.sandboxes import PinnedSandboxes
from sampan.model.errors import AlreadyExists, Invalid, WrongState
from sampan.runtime.ports import SandboxPlan
from sampan.wire import mountinfo
from tests.host import stores

pytestmark = pytest.mark.root

POD = "a" * 64
ALL = frozenset({"net", "ipc", "uts"})


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    """A state directory of the test's own; whatever is mounted in it afterwards goes, whatever happened."""
    try:
        yield Paths(root=tmp_path / "root", state=tmp_path / "state")
    finally:
        for left in below(tmp_path):
            mounts.detach(Path(left))


@pytest.fixture
def pods(paths: Paths) -> PinnedSandboxes:
    return PinnedSandboxes(paths)


def table(pid: int | str = "self") -> list[mountinfo.Mount]:
    return mountinfo.parse(Path(f"/proc/{pid}/mountinfo").read_bytes())


def below(path: Path) -> list[str]:
    return [mount.point for mount in mountinfo.beneath(table(), str(path.resolve()))]


def left_of_pods(paths: Paths) -> list[str]:
    """What is mounted or lies in the folder of all pods."""
    folder = paths.state / "pods"
    return [point for point in below(folder) if point != str(folder)] + [
        path.name for path in folder.iterdir()
    ]


def plan(
    namespaces: frozenset[str] = ALL, sysctls: dict[str, str] | None = None, shm_size: int = 1 << 20
) -> SandboxPlan:
    return SandboxPlan(
        id=POD,
        namespaces=namespaces,
        hostname="web-0",
        sysctls=sysctls or {},
        files={
            "resolv.conf": b"nameserver 10.96.0.10\n",
            "hostname": b"web-0\n",
            "hosts": b"127.0.0.1 localhost\n",
        },
        shm_size=shm_size,
    )


def inode(path: Path) -> int:
    return path.stat().st_ino


def sysctl(file: str) -> str:
    return Path("/proc/sys", file).read_text()


async def test_the_namespaces_are_new_ones(pods: PinnedSandboxes, paths: Paths) -> None:
    await pods.create(plan())
    assert await pods.present(POD, ALL)
    for kind in ALL:
        assert inode(paths.namespace(POD, kind)) != inode(Path("/proc/self/ns", kind))


async def test_the_hostname_is_the_pods_alone(pods: PinnedSandboxes, paths: Paths) -> None:
    before = socket.gethostname()
    await pods.create(plan())
    assert await netns.inside(paths.namespace(POD, "uts"), "uts", socket.gethostname) == "web-0"
    assert socket.gethostname() == before


async def test_a_pod_in_the_hosts_uts_namespace_renames_nobody(pods: PinnedSandboxes) -> None:
    before = socket.gethostname()
    await pods.create(plan(frozenset({"net", "ipc"})))
    assert socket.gethostname() == before


async def test_files_can_be_read_by_any_user_of_a_container(pods: PinnedSandboxes, paths: Paths) -> None:
    mask = os.umask(0o077)
    try:
        await pods.create(plan())
    finally:
        os.umask(mask)
    for name, content in plan().files.items():
        path = paths.pod(POD) / name
        assert path.read_bytes() == content
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


async def test_folders_are_closed_to_everybody_else(pods: PinnedSandboxes, paths: Paths) -> None:
    mask = os.umask(0)
    try:
        await pods.create(plan())
    finally:
        os.umask(mask)
    for folder in (paths.state / "pods", paths.pod(POD), paths.pod(POD) / "ns"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_shm_has_its_size_and_no_devices_or_programs(pods: PinnedSandboxes, paths: Paths) -> None:
    await pods.create(plan(shm_size=3 << 20))
    shm = paths.shm(POD)
    fs = os.statvfs(shm)
    assert fs.f_blocks * fs.f_frsize == 3 << 20
    assert stat.S_IMODE(shm.stat().st_mode) == 0o1777
    (mount,) = [mount for mount in table() if mount.point == str(shm)]
    assert (mount.fstype, mount.restrictions) == ("tmpfs", ("nodev", "noexec", "nosuid"))


async def test_a_pod_with_the_hosts_ipc_has_no_shm(pods: PinnedSandboxes, paths: Paths) -> None:
    await pods.create(plan(frozenset({"net", "uts"}), shm_size=0))
    assert not paths.shm(POD).exists()


async def test_a_container_that_fills_a_shared_file_fills_less_than_a_mebibyte(
    pods: PinnedSandboxes, paths: Paths
) -> None:
    await pods.create(plan())
    written = 0
    with (
        pytest.raises(OSError, match="No space left") as caught,
        (paths.pod(POD) / "hostname").open("ab", 0) as file,
    ):
        while written < 4 << 20:
            written += file.write(bytes(4096))
    assert caught.value.errno == errno.ENOSPC
    assert written < 1 << 20


async def test_nothing_propagates_to_other_mount_namespaces(pods: PinnedSandboxes, paths: Paths) -> None:
    """A peer of a shared mount sees what the mount namespace of a container would see."""
    paths.state.mkdir()
    peer = paths.state.with_name("peer")
    peer.mkdir()
    mounts.tmpfs(paths.state, 1 << 20, 0o700)
    syscalls.mount("", paths.state, "", syscalls.MS_SHARED)
    syscalls.mount(paths.state, peer, "", syscalls.MS_BIND)
    probe, seen = paths.state / "probe", peer / "probe"
    probe.mkdir()
    mounts.tmpfs(probe, 1 << 20, 0o700)
    assert str(seen) in below(peer), "the two are no peers, so this test shows nothing"

    await pods.create(plan())

    assert not [point for point in below(peer / "pods") if point != str(peer / "pods")]


async def test_a_container_that_mounts_the_folder_above_gets_no_pod(
    pods: PinnedSandboxes, paths: Paths
) -> None:
    await pods.create(plan())
    copy = paths.state.with_name("copy")
    copy.mkdir()
    syscalls.mount(paths.state, copy, "", syscalls.MS_BIND | syscalls.MS_REC)
    assert below(copy) == [str(copy)]


async def test_a_container_can_be_given_what_is_the_pods(pods: PinnedSandboxes, paths: Paths) -> None:
    """The folder of all pods cannot be bound; what the OCI runtime binds from it must be."""
    await pods.create(plan())
    (target := paths.state.with_name("target")).touch()
    (directory := paths.state.with_name("directory")).mkdir()
    syscalls.mount(paths.pod(POD) / "resolv.conf", target, "", syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.mount(paths.shm(POD), directory, "", syscalls.MS_BIND | syscalls.MS_REC)
    assert target.read_bytes() == b"nameserver 10.96.0.10\n"
    assert directory.stat().st_dev == paths.shm(POD).stat().st_dev


@pytest.fixture
def service() -> Iterator[Callable[[], int]]:
    """Start a process with a mount namespace of its own, as systemd does for a service; returns its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> int:
        command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo; exec cat"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\n"
        return process.pid

    try:
        yield start
    finally:
        for process in started:
            process.communicate()


async def test_a_service_that_took_a_copy_of_all_mounts_keeps_no_namespace(
    pods: PinnedSandboxes, paths: Paths, service: Callable[[], int]
) -> None:
    await pods.create(plan())
    pid = service()
    pinned = {str(paths.namespace(POD, kind)) for kind in ALL} | {str(paths.shm(POD))}
    assert pinned <= {mount.point for mount in table(pid)}, "it has no copy, so this test shows nothing"
    await pods.remove(POD)
    assert not pinned & {mount.point for mount in table(pid)}


# --- sysctls --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "kind", "file", "expected"),
    [
        ("net.ipv4.ip_unprivileged_port_start", "0", "net", "net/ipv4/ip_unprivileged_port_start", "0"),
        ("net.ipv4.ping_group_range", "0 2147483647", "net", "net/ipv4/ping_group_range", "0\t2147483647"),
        ("net/ipv4/ip_forward", "1", "net", "net/ipv4/ip_forward", "1"),
        ("kernel.shm_rmid_forced", "1", "ipc", "kernel/shm_rmid_forced", "1"),
        ("kernel.msgmax", "9000", "ipc", "kernel/msgmax", "9000"),
        ("fs.mqueue.msg_max", "20", "ipc", "fs/mqueue/msg_max", "20"),
    ],
)
async def test_a_sysctl_is_the_pods_alone(
    pods: PinnedSandboxes, paths: Paths, key: str, value: str, kind: str, file: str, expected: str
) -> None:
    before = sysctl(file)
    await pods.create(plan(sysctls={key: value}))
    inside = await netns.inside(paths.namespace(POD, kind), kind, lambda: sysctl(file))
    assert inside.strip() == expected
    assert sysctl(file) == before


@pytest.mark.parametrize(
    ("namespaces", "key"),
    [
        (frozenset({"ipc", "uts"}), "net.ipv4.ip_forward"),
        (frozenset({"ipc", "uts"}), "net/ipv4/ip_forward"),
        (frozenset({"net"}), "kernel.msgmax"),
        (ALL, "kernel.core_pattern"),
        (ALL, "kernel/core_pattern"),
        (ALL, "vm.swappiness"),
        (ALL, "net/../kernel/core_pattern"),
        (ALL, "net/ipv4/../../kernel/core_pattern"),
        (ALL, "net..kernel.core_pattern"),
        (ALL, ""),
    ],
)
async def test_a_sysctl_of_the_host_is_refused(
    pods: PinnedSandboxes, namespaces: frozenset[str], key: str
) -> None:
    files = ("kernel/core_pattern", "kernel/msgmax", "net/ipv4/ip_forward", "vm/swappiness")
    before = [sysctl(file) for file in files]
    with pytest.raises(Invalid):
        await pods.create(plan(namespaces, sysctls={key: before[0]}))
    assert [sysctl(file) for file in files] == before


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("net.ipv4.no_such", "1", "ENOENT"),
        ("net.ipv4.ip_unprivileged_port_start", "70000", "EINVAL"),
        ("net.ipv4.ip_forward", "yes", "EINVAL"),
    ],
)
async def test_a_sysctl_that_the_kernel_refuses_is_named(
    pods: PinnedSandboxes, paths: Paths, key: str, value: str, words: str
) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        await pods.create(plan(sysctls={key: value}))
    assert key in str(caught.value)
    await pods.remove(POD)
    assert not left_of_pods(paths)


# --- removal --------------------------------------------------------------------------------------------


async def test_removing_leaves_nothing(pods: PinnedSandboxes, paths: Paths) -> None:
    await pods.create(plan())
    (paths.shm(POD) / "file").write_bytes(bytes(4096))
    await pods.remove(POD)
    assert not left_of_pods(paths)


async def test_an_id_in_use_is_refused_and_left_alone(pods: PinnedSandboxes) -> None:
    await pods.create(plan())
    with pytest.raises(AlreadyExists):
        await pods.create(plan())
    assert await pods.present(POD, ALL)


STEPS = (
    *("pods.folder", "pod.directory", "pod.mount", "pod.files", "pod.shm", "pod.namespaces"),
    *("pod.namespaces.ipc", "pod.namespaces.net", "pod.namespaces.uts"),
)


@pytest.mark.parametrize("failing", STEPS)
async def test_a_create_that_failed_half_way_can_be_removed_and_repeated(
    pods: PinnedSandboxes, paths: Paths, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def strike(name: str, subject: str = "") -> None:
        if name == failing:
            raise OSError(errno.ENOSPC, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(sandboxes, "step_now", strike)
        with pytest.raises(OSError, match="injected"):
            await pods.create(plan())
    await pods.remove(POD)
    await pods.create(plan())
    await pods.remove(POD)
    assert not left_of_pods(paths)


async def test_every_effect_is_announced(pods: PinnedSandboxes, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(sandboxes, "step_now", lambda name, subject="": seen.append(name))
    await pods.create(plan())
    await pods.remove(POD)
    assert seen == [*STEPS, "pod.remove.mounts", "pod.remove.directory"]


async def test_a_cancelled_create_has_ended_before_the_caller_cleans_up(
    pods: PinnedSandboxes, paths: Paths
) -> None:
    await pods.create(plan())
    await pods.remove(POD)
    for turns in range(6):
        work = asyncio.ensure_future(pods.create(plan()))
        for _ in range(turns):
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await pods.remove(POD)
        assert not left_of_pods(paths)


async def test_another_daemon_finds_and_removes_what_one_made(pods: PinnedSandboxes, paths: Paths) -> None:
    await pods.create(plan())
    successor = PinnedSandboxes(paths)
    assert await successor.present(POD, ALL)
    await successor.remove(POD)
    await successor.create(plan())
    assert [point for point in below(paths.state) if point.endswith("/pods")] == [str(paths.state / "pods")]


async def test_after_a_reboot_nothing_is_present_and_leftovers_go(
    pods: PinnedSandboxes, paths: Paths
) -> None:
    await pods.create(plan())
    mounts.detach(paths.state / "pods")
    assert not await pods.present(POD, ALL)
    await pods.remove(POD)
    assert not paths.pod(POD).exists()


def make_file(place: Path) -> None:
    place.write_text("no namespace")


def make_directory(place: Path) -> None:
    place.mkdir()


def make_link(place: Path) -> None:
    place.symlink_to("/proc/self/ns/net")


def make_host_namespace(place: Path) -> None:
    place.touch()
    syscalls.mount("/proc/self/ns/net", place, "", syscalls.MS_BIND)


def make_other_kind(place: Path) -> None:
    place.touch()
    syscalls.mount("/proc/self/ns/uts", place, "", syscalls.MS_BIND)


@pytest.mark.parametrize("make", [make_file, make_directory, make_link, make_host_namespace, make_other_kind])
async def test_what_is_no_pinned_namespace_is_not_taken_for_one(
    pods: PinnedSandboxes, paths: Paths, make: Callable[[Path], None]
) -> None:
    await pods.create(plan())
    place = paths.namespace(POD, "net")
    mounts.detach(place)
    place.unlink()
    make(place)
    assert not await pods.present(POD, ALL)
    assert await pods.present(POD, frozenset({"ipc"}))
    await pods.remove(POD)
    assert not left_of_pods(paths)


async def test_a_pod_that_was_mounted_over_goes_whole(pods: PinnedSandboxes, paths: Paths) -> None:
    await pods.create(plan())
    mounts.tmpfs(paths.pod(POD), 1 << 20, 0o700)
    assert not await pods.present(POD, ALL)
    await pods.remove(POD)
    assert not left_of_pods(paths)


def canary(paths: Paths) -> Path:
    folder = paths.state.with_name("canary")
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/file").write_text("precious")
    return folder


@pytest.mark.parametrize("mounted", [True, False])
async def test_a_host_directory_that_was_bound_into_a_pod_is_not_emptied(
    pods: PinnedSandboxes, paths: Paths, mounted: bool
) -> None:
    host = canary(paths)
    await pods.create(plan())
    if (
        not mounted
    ):  # as after a kill between the unmount and the deletion, with a stray mount in the bare directory
        mounts.detach(paths.pod(POD))
    inside = paths.pod(POD) / "one/two"
    inside.mkdir(parents=True)
    syscalls.mount(host, inside, "", syscalls.MS_BIND)
    await pods.remove(POD)
    assert not left_of_pods(paths)
    assert (host / "deep/file").read_text() == "precious"


async def test_a_pods_directory_that_became_a_link_is_not_followed(
    pods: PinnedSandboxes, paths: Paths
) -> None:
    host = canary(paths)
    await pods.create(plan())
    await pods.remove(POD)
    paths.pod(POD).symlink_to(host)
    await pods.remove(POD)
    assert not left_of_pods(paths)
    assert (host / "deep/file").read_text() == "precious"


def test_nothing_is_deleted_while_something_stays_mounted(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = canary(paths)
    inside = paths.state / "pod/one"
    inside.mkdir(parents=True)
    (paths.state / "pod/file").touch()
    syscalls.mount(host, inside, "", syscalls.MS_BIND)
    monkeypatch.setattr(syscalls, "umount", lambda target, flags=0: None)
    with pytest.raises(WrongState, match="still mounted"):
        mounts._unmount_beneath(paths.state / "pod")
    with pytest.raises(WrongState, match="something is mounted in it"):
        mounts.delete_tree(paths.state / "pod")
    assert (paths.state / "pod/file").exists()
    monkeypatch.undo()
    assert (host / "deep/file").read_text() == "precious"


@pytest.mark.parametrize("id", ["", "..", "../pods", "a/b", "/etc", "a\0b", "a\n", ".hidden"])
async def test_what_is_no_id_never_becomes_a_path(pods: PinnedSandboxes, id: str) -> None:
    with pytest.raises(Invalid):
        await pods.remove(id)
    with pytest.raises(Invalid):
        await pods.present(id, ALL)


@pytest.mark.parametrize("name", ["ns", "shm", "../x", "a/b", "", "."])
async def test_a_file_cannot_take_another_place(pods: PinnedSandboxes, paths: Paths, name: str) -> None:
    bad = SandboxPlan(id=POD, namespaces=ALL, hostname="x", sysctls={}, files={name: b""})
    with pytest.raises(Invalid):
        await pods.create(bad)
    assert not paths.pod(POD).exists()


async def test_files_and_shm_have_the_pods_label(
    pods: PinnedSandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stores.without_labels(monkeypatch)
    await pods.create(replace(plan(), label=stores.LABEL))
    assert len(seen) == 2 and all(data.endswith(f",{stores.CONTEXT}") for data in seen)
    assert all(data.startswith("size=") for data in seen)
    await pods.remove(POD)
    await pods.create(plan())
    assert len(seen) == 4 and not any("context" in data for data in seen[2:])
