"""Readings of control groups: details and pressure, from trees of files; the everyday figures are in test_cgroups."""

import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.host.cgroup import process_counts, readings
from sampan.host.cgroup.cgroups import HostCgroups
from sampan.host.cgroup.readings import Readings
from sampan.wire.cgroup_paths import CGROUPFS, SYSTEMD, Layout
from sampan.wire.cgroup_stats import DeviceIo
from sampan.wire.cgroupfs import Limits
from sampan.wire.psi import Stall

SOME = "some avg10=1.00 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n"
V1 = ("cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb")


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture
def v2(tmp_path: Path) -> Layout:
    return Layout(v1={}, v2=str(tmp_path), controllers=frozenset({"cpu", "memory"}))


@pytest.fixture
def v1(tmp_path: Path) -> Layout:
    return Layout(v1={name: str(tmp_path / name) for name in V1}, v2="", controllers=frozenset(V1))


@pytest.fixture
def held() -> Iterator[int]:
    """A process with three descriptors, one of them a socket; a static one, which opens no libraries."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        ["busybox", "sleep", "100"],
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
        ours.close()
        theirs.close()


def test_pressure_on_v2(v2: Layout, tmp_path: Path) -> None:
    write(tmp_path / "a", {"cpu.stat": "usage_usec 1\n", "cpu.pressure": SOME, "io.pressure": SOME})
    usage = Readings(v2).usage("a")
    assert usage is not None and usage.cpu_pressure is not None and usage.io_pressure is not None
    assert (usage.cpu_pressure.some, usage.cpu_pressure.full.total_ns) == (Stall(7000, 1.0), 3000)
    assert usage.memory_pressure is None


def test_pressure_of_a_hybrid_is_in_its_v2_groups(tmp_path: Path) -> None:
    mounts = {name: str(tmp_path / name) for name in V1}
    hybrid = Layout(v1=mounts, v2=str(tmp_path / "unified"), controllers=frozenset(V1))
    write(tmp_path / "cpuacct/a", {"cpuacct.usage": "1\n"})
    write(tmp_path / "unified/a", {"memory.pressure": SOME})
    usage = Readings(hybrid).usage("a")
    assert usage is not None and usage.memory_pressure is not None
    assert usage.memory_pressure.some.total_ns == 7000


def test_v1_alone_has_no_pressure(v1: Layout, tmp_path: Path) -> None:
    write(tmp_path / "cpuacct/a", {"cpuacct.usage": "1\n"})
    usage = Readings(v1).usage("a")
    assert usage is not None
    assert (usage.cpu_pressure, usage.memory_pressure, usage.io_pressure) == (None, None, None)


def test_details_on_v1(v1: Layout, tmp_path: Path, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Readings, "_page_sizes", ("2MB",))
    write(tmp_path / "cpuacct/a", {"cpuacct.usage_user": "5\n"})
    write(tmp_path / "memory/a", {"memory.failcnt": "4\n"})
    write(tmp_path / "pids/a", {"pids.current": "2\n", "cgroup.procs": f"{held}\n"})
    write(tmp_path / "blkio/a", {"blkio.throttle.io_service_bytes_recursive": "1:2 Read 3\nTotal 3\n"})
    write(tmp_path / "hugetlb/a", {"hugetlb.2MB.usage_in_bytes": "6\n"})
    details = Readings(v1).details("a", Limits(memory=9), held)
    assert details is not None
    assert (details.stats.cpu_user_ns, details.stats.limit_hits, details.limits.memory) == (5, 4, 9)
    assert details.stats.io == (DeviceIo("1:2", "Read", 3, 0),)
    assert [(one.size, one.usage) for one in details.stats.huge_pages] == [("2MB", 6)]
    assert (details.processes, details.threads, details.descriptors, details.sockets) == (1, 2, 3, 1)
    assert details.open_files_limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # inherited from us


def test_details_in_a_scope_count_the_processes_of_all_its_groups(
    v2: Layout, tmp_path: Path, held: int
) -> None:
    scope = tmp_path / "a.slice/x.scope"
    write(scope, {"cpu.stat": "usage_usec 9\nuser_usec 9\n", "cgroup.procs": ""})
    inner = {"cpu.stat": "usage_usec 5\nuser_usec 5\nsystem_usec 0\n", "cgroup.procs": f"{held}\n"}
    write(scope / "container", {**inner, "memory.peak": "70\n", "pids.current": "1\n"})
    details = Readings(v2).details("a.slice/x.scope", Limits(), held)
    assert details is not None
    assert (details.stats.cpu_user_ns, details.stats.peak, details.processes) == (5000, 70, 1)
    assert (details.threads, details.descriptors) == (1, 3)


def test_descriptors_are_counted_only_where_asked(v2: Layout, tmp_path: Path, held: int) -> None:
    write(tmp_path / "a", {"cpu.stat": "user_usec 9\n", "cgroup.procs": f"{held}\n"})
    details = Readings(v2).details("a", Limits())
    assert details is not None
    assert (details.processes, details.descriptors, details.sockets, details.open_files_limit) == (
        1, None, None, None,
    )  # fmt: skip


def test_the_limit_of_a_process_that_is_not_in_the_group_is_not_its(
    v2: Layout, tmp_path: Path, held: int
) -> None:
    """The number may be another's by now."""
    write(tmp_path / "a", {"cpu.stat": "user_usec 9\n", "cgroup.procs": "1\n"})
    details = Readings(v2).details("a", Limits(), held)
    assert details is not None
    assert (details.processes, details.open_files_limit) == (1, None)


def test_too_many_groups_to_look_into_leave_the_rest_known(
    v2: Layout, tmp_path: Path, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_counts, "MAX_GROUPS", 1)
    write(tmp_path / "a", {"cpu.stat": "user_usec 9\n", "cgroup.procs": f"{held}\n"})
    (tmp_path / "a/b").mkdir()
    details = Readings(v2).details("a", Limits(), held)
    assert details is not None
    assert (details.processes, details.descriptors, details.sockets, details.open_files_limit) == (None,) * 4
    assert details.stats.cpu_user_ns == 9000


async def test_one_group_that_cannot_be_read_leaves_the_others_and_is_told_once(
    v1: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "cpuacct" / name, {"cpuacct.usage": "5\n", "cpuacct.usage_user": "5\n"})
    unreadable = tmp_path / "memory/b/memory.stat"
    unreadable.mkdir(parents=True)
    cgroups = HostCgroups(CGROUPFS, v1)
    for _ in range(2):
        usages = await cgroups.usage_many([("/a", ""), ("/b", ""), ("/c", "")])
        assert [usage and usage.cpu_ns for usage in usages] == [5, None, 5]
        details = await cgroups.details_many([("/a", "", 0), ("/b", "", 0), ("/c", "", 0)])
        assert [one and one.stats.cpu_user_ns for one in details] == [5, None, 5]
    assert [record.getMessage().partition(" failed")[0] for record in caplog.records] == [
        "reading the control group b"
    ]
    unreadable.rmdir()
    assert (await cgroups.usage_many([("/b", "")]))[0]
    unreadable.mkdir()
    assert await cgroups.usage_many([("/b", "")]) == [None]
    assert len(caplog.records) == 2


def test_a_group_that_is_gone_has_no_details(v1: Layout, v2: Layout) -> None:
    assert Readings(v1).details("gone", Limits()) is None
    assert Readings(v2).details("gone", Limits()) is None


async def test_a_parent_of_another_drivers_days_is_nowhere(v1: Layout, v2: Layout) -> None:
    assert await HostCgroups(CGROUPFS, v1).usage_many([("a.slice", "c"), ("a.slice", "")]) == [None, None]
    assert await HostCgroups(SYSTEMD, v2).details_many([("/kubepods", "c", 0)]) == [None]


def test_a_file_that_is_not_there_or_not_served_is_none(tmp_path: Path) -> None:
    assert readings.read(str(tmp_path / "gone")) is None
    (tmp_path / "file").write_text("x")
    assert readings.read(str(tmp_path / "file" / "below")) is None
    with pytest.raises(IsADirectoryError):
        readings.read(str(tmp_path))
