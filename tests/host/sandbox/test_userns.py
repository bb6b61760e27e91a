"""User namespaces of pods on the real kernel."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sampan import tasks
from sampan.config import Paths
from sampan.host import mounts, process
from sampan.host.sandbox import netns, userns, userns_probe
from sampan.host.sandbox.sandboxes import PinnedSandboxes
from sampan.model.errors import Invalid, ToolFailed
from sampan.runtime.ports import SandboxPlan
from sampan.spec.userns import Mappings, Range
from sampan.wire import mountinfo

pytestmark = pytest.mark.root

POD = "e" * 64
MAPS = Mappings(Range(100000, 65536), Range(200000, 1000))
ALL = frozenset({"net", "ipc", "uts", "user"})
PLAN = SandboxPlan(
    id=POD,
    namespaces=ALL,
    hostname="web-0",
    sysctls={"net.ipv4.ping_group_range": "200000 200999", "kernel.shm_rmid_forced": "1"},
    files={"resolv.conf": b"nameserver 10.96.0.10\n", "hostname": b"web-0\n", "hosts": b""},
    shm_size=1 << 20,
    userns=MAPS,
)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    try:
        yield Paths(root=tmp_path / "root", state=tmp_path / "state")
    finally:
        for left in reversed(mountinfo.beneath(mounts.table(), str(tmp_path.resolve()))):
            mounts.detach(Path(left.point))


@pytest.fixture
def pods(paths: Paths) -> PinnedSandboxes:
    return PinnedSandboxes(paths)


async def inside(paths: Paths, *argv: str) -> str:
    """What a program says in the pod's namespaces, as its root."""
    enter = [f"--{kind}={paths.namespace(POD, kind)}" for kind in sorted(ALL)]
    done = await process.run(["nsenter", *enter, "--setuid", "0", "--setgid", "0", *argv])
    return done.stdout.decode()


async def test_the_maps_are_those_asked_for_and_root_owns_the_rest(
    pods: PinnedSandboxes, paths: Paths
) -> None:
    await pods.create(PLAN)
    assert await pods.present(POD, ALL)
    assert (await inside(paths, "cat", "/proc/self/uid_map")).split() == ["0", "100000", "65536"]
    assert (await inside(paths, "cat", "/proc/self/gid_map")).split() == ["0", "200000", "1000"]
    assert (await inside(paths, "cat", "/proc/self/setgroups")).strip() == "allow"
    assert await inside(paths, "hostname") == "web-0\n"
    # what only the owner of the network and the UTS namespace may do
    await inside(paths, "ip", "link", "set", "lo", "up")
    await inside(paths, "hostname", "other")


async def test_sysctls_are_set_and_ids_in_them_are_the_pods(pods: PinnedSandboxes, paths: Paths) -> None:
    await pods.create(PLAN)
    assert (await inside(paths, "cat", "/proc/sys/net/ipv4/ping_group_range")).split() == ["0", "999"]
    assert (await inside(paths, "cat", "/proc/sys/kernel/shm_rmid_forced")).strip() == "1"


async def test_shared_files_and_shm_belong_to_the_pods_root(pods: PinnedSandboxes, paths: Paths) -> None:
    await pods.create(PLAN)
    for place in (*(paths.pod(POD) / name for name in PLAN.files), paths.shm(POD)):
        found = place.stat()
        assert (found.st_uid, found.st_gid) == (100000, 200000)
    assert paths.pod(POD).stat().st_uid == 0


async def test_the_host_stays_as_it_was_and_removing_leaves_nothing(
    pods: PinnedSandboxes, paths: Paths
) -> None:
    before = (
        socket.gethostname(),
        Path("/proc/sys/net/ipv4/ping_group_range").read_text(),
        len(list(Path("/proc/self/fd").iterdir())),
    )
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    others = set(children.read_text().split())
    await pods.create(PLAN)
    await pods.remove(POD)
    await pods.remove(POD)
    assert not await pods.present(POD, ALL)
    folder = paths.state / "pods"
    assert list(folder.iterdir()) == []
    assert [mount.point for mount in mountinfo.beneath(mounts.table(), str(folder))] == [str(folder)]
    after = (
        socket.gethostname(),
        Path("/proc/sys/net/ipv4/ping_group_range").read_text(),
        len(list(Path("/proc/self/fd").iterdir())),
    )
    assert after == before
    assert set(children.read_text().split()) <= others


async def test_with_the_hosts_network_the_pod_still_has_its_users(
    pods: PinnedSandboxes, paths: Paths
) -> None:
    kinds = frozenset({"ipc", "user"})
    await pods.create(replace(PLAN, namespaces=kinds, sysctls={}))
    assert await pods.present(POD, kinds)
    assert not await pods.present(POD, ALL)


@pytest.mark.parametrize(
    "plan",
    [replace(PLAN, userns=None), replace(PLAN, namespaces=ALL - {"user"})],
    ids=["no maps", "no namespace"],
)
async def test_maps_without_a_namespace_and_the_reverse_are_refused(
    pods: PinnedSandboxes, plan: SandboxPlan
) -> None:
    with pytest.raises(Invalid, match="belong together"):
        await pods.create(plan)


async def test_another_namespace_in_its_place_is_not_taken_for_it(
    pods: PinnedSandboxes, paths: Paths
) -> None:
    await pods.create(PLAN)
    place = paths.namespace(POD, "user")
    mounts.detach(place)
    assert not await pods.present(POD, ALL)
    netns.pin("user", place)  # the host's own
    assert not await pods.present(POD, ALL)


@pytest.mark.parametrize(
    "step", ["pod.directory", "pod.shm", "pod.namespaces", "pod.namespaces.net", "pod.namespaces.user"]
)
async def test_a_failure_anywhere_is_removed_whole(
    pods: PinnedSandboxes, paths: Paths, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, subject: str = "") -> None:
        if name == step:
            raise RuntimeError(f"injected failure at {name}")

    monkeypatch.setattr("sampan.host.sandbox.sandboxes.step_now", fail)
    with pytest.raises(RuntimeError, match=step):
        await pods.create(PLAN)
    monkeypatch.setattr("sampan.host.sandbox.sandboxes.step_now", tasks.step_now)
    await pods.remove(POD)
    assert list((paths.state / "pods").iterdir()) == []
    await pods.create(PLAN)
    assert await pods.present(POD, ALL)


async def test_the_kernels_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user namespace may be allowed none beneath it (user.max_user_namespaces): asked from inside one."""
    forbidden = "echo 0 >/proc/sys/user/max_user_namespaces; exec unshare"
    wrapped = ("unshare", "--user", "--map-root-user", "sh", "-c", forbidden + ' "$@"', "sh")
    real = process.spawn
    monkeypatch.setattr(userns, "spawn", lambda argv, **more: real([*wrapped, *argv[1:]], **more))
    with pytest.raises(ToolFailed, match="No space left on device"):
        async with userns.made(("user", "net"), MAPS):
            raise AssertionError("it was made")


async def test_many_at_once(paths: Paths, pods: PinnedSandboxes) -> None:
    plans = [replace(PLAN, id=f"{number:064x}") for number in range(8)]
    await asyncio.gather(*(pods.create(plan) for plan in plans))
    inodes = {paths.namespace(plan.id, kind).stat().st_ino for plan in plans for kind in ALL}
    assert len(inodes) == len(plans) * len(ALL)
    await asyncio.gather(*(pods.remove(plan.id) for plan in plans))


# --- the probe --------------------------------------------------------------------------------------------


async def test_this_machine_can_and_the_probe_leaves_nothing(tmp_path: Path) -> None:
    assert await userns_probe.works(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not mountinfo.beneath(mounts.table(), str(tmp_path.resolve()))


async def test_what_an_earlier_probe_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "probe/layers/one/inner").mkdir(parents=True)
    assert await userns_probe.works(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOSPC, errno.ENOMEM])
async def test_a_want_that_passes_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """It would hold until the daemon's end; a pod that asks tries for itself, and is told what is wrong."""

    def lacking(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("sampan.host.syscalls.open_tree", lacking)
    assert await userns_probe.works(tmp_path)
    assert os.strerror(code) in caplog.text
    assert "as they come" in caplog.text


@pytest.mark.parametrize(
    ("words", "most", "can"),
    [
        ("unshare: unshare failed: No space left on device", "1000", True),
        ("unshare: unshare failed: No space left on device", "0", False),
        ("unshare: unshare failed: Operation not permitted", "1000", False),
        ("unshare: unshare failed: Invalid argument", "1000", False),
        ("unshare: unshare failed: Cannot allocate memory", "1000", True),
    ],
)
async def test_what_the_kernel_says_to_a_child_counts_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, most: str, can: bool
) -> None:
    def refuse(*_: object) -> None:
        raise ToolFailed(["unshare"], 1, words)

    monkeypatch.setattr(userns, "made", refuse)
    monkeypatch.setattr(userns_probe, "_MOST", tmp_path / "max_user_namespaces")
    (tmp_path / "max_user_namespaces").write_text(most)
    assert await userns_probe.works(tmp_path) is can


async def test_a_file_system_that_cannot_map_ids_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("sampan.host.syscalls.mount_setattr", refused)
    assert not await userns_probe.works(tmp_path)
    assert "images.slow_chown" in caplog.text
    assert await userns_probe.works(tmp_path, slow_chown=True)
    assert list(tmp_path.iterdir()) == []
