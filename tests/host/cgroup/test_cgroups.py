"""Control groups: readings from trees of files, and parents on the real kernel."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sampan.host.cgroup import cgroups
from sampan.host.cgroup.cgroups import HostCgroups
from sampan.model.errors import Invalid, WrongState
from sampan.wire.cgroup_paths import CGROUPFS, SYSTEMD, Layout
from sampan.wire.cgroupfs import Limits

TOP = f"sampan-test-groups-{os.getpid()}"
PARENT = f"/{TOP}/burstable/pod1"
ID = "c" * 64


# --- readings, from files ---------------------------------------------------------------------------------


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def v1(tmp_path: Path) -> HostCgroups:
    controllers = ("cpu", "cpuacct", "cpuset", "memory", "pids")
    mounts = {name: str(tmp_path / name) for name in controllers}
    return HostCgroups(CGROUPFS, Layout(v1=mounts, v2="", controllers=frozenset(controllers)))


@pytest.fixture
def v2(tmp_path: Path) -> HostCgroups:
    return HostCgroups(
        SYSTEMD, Layout(v1={}, v2=str(tmp_path), controllers=frozenset({"cpu", "memory", "pids"}))
    )


async def test_a_container_on_v1(v1: HostCgroups, tmp_path: Path) -> None:
    write(tmp_path / f"cpuacct/pods/{ID}", {"cpuacct.usage": "123456789\n"})
    write(
        tmp_path / f"memory/pods/{ID}",
        {
            "memory.usage_in_bytes": "8192\n",
            "memory.stat": "total_rss 2048\ntotal_inactive_file 4096\nhierarchical_memory_limit 16384\n",
        },
    )
    write(tmp_path / f"pids/pods/{ID}", {"pids.current": "3\n"})
    usage = await v1.usage("/pods", ID)
    assert usage is not None
    assert (usage.cpu_ns, usage.memory_usage, usage.memory_working_set) == (123456789, 8192, 4096)
    assert (usage.memory_available, usage.memory_rss, usage.processes) == (12288, 2048, 3)
    assert usage.at > 1_700_000_000_000_000_000


async def test_a_container_of_the_systemd_driver_on_v2(v2: HostCgroups, tmp_path: Path) -> None:
    write(
        tmp_path / f"kubepods.slice/kubepods-pod1.slice/sampan-{ID}.scope",
        {
            "cpu.stat": "usage_usec 1500\nuser_usec 1000\n",
            "memory.current": "8192\n",
            "memory.max": "max\n",
            "memory.stat": "anon 2048\ninactive_file 1024\npgfault 5\npgmajfault 1\n",
            "memory.swap.current": "0\n",
            "memory.swap.max": "4096\n",
            "pids.current": "2\n",
        },
    )
    usage = await v2.usage("kubepods-pod1.slice", ID)
    assert usage is not None
    assert (usage.cpu_ns, usage.memory_usage, usage.memory_working_set) == (1_500_000, 8192, 7168)
    assert (usage.memory_available, usage.memory_rss, usage.processes) == (None, 2048, 2)
    assert (usage.page_faults, usage.major_page_faults) == (5, 1)
    assert (usage.swap_usage, usage.swap_available) == (0, 4096)


async def test_a_group_without_the_memory_controller_still_has_cpu_time(
    v2: HostCgroups, tmp_path: Path
) -> None:
    write(tmp_path / f"a.slice/sampan-{ID}.scope", {"cpu.stat": "usage_usec 7\n"})
    usage = await v2.usage("a.slice", ID)
    assert usage is not None
    assert (usage.cpu_ns, usage.memory_usage, usage.processes) == (7000, None, None)


async def test_in_a_scope_cruns_own_group_has_the_figures(v2: HostCgroups, tmp_path: Path) -> None:
    scope = tmp_path / f"a.slice/sampan-{ID}.scope"
    write(scope, {"cpu.stat": "usage_usec 9\n", "memory.max": "max\n", "memory.swap.max": "4096\n"})
    write(
        scope / "container",
        {
            "cpu.stat": "usage_usec 5\n",
            "memory.max": "4096\n",
            "memory.swap.max": "0\n",
            "memory.current": "96\n",
        },
    )
    usage = await v2.usage("a.slice", ID)
    assert usage is not None
    assert (usage.cpu_ns, usage.memory_available) == (5000, 4000)
    assert await v2.read_back("a.slice", ID) == Limits(memory=4096, memory_swap=4096)


async def test_many_readings_keep_their_order_and_their_gaps(v2: HostCgroups, tmp_path: Path) -> None:
    for number in (1, 3):
        write(tmp_path / f"a.slice/sampan-{number}.scope", {"cpu.stat": f"usage_usec {number}\n"})
    usages = await v2.usage_many([("a.slice", str(number)) for number in range(4)])
    assert [usage and usage.cpu_ns for usage in usages] == [None, 1000, None, 3000]


async def test_a_parent_is_read_as_a_whole(v2: HostCgroups, tmp_path: Path) -> None:
    write(tmp_path / "a.slice/a-b.slice", {"cpu.stat": "usage_usec 9\n"})
    usage = await v2.parent_usage("a-b.slice")
    assert usage is not None
    assert usage.cpu_ns == 9000


async def test_limits_are_read_back(v1: HostCgroups, v2: HostCgroups, tmp_path: Path) -> None:
    write(tmp_path / f"memory/pods/{ID}", {"memory.limit_in_bytes": "16384\n"})
    write(tmp_path / f"cpu/pods/{ID}", {"cpu.shares": "512\n", "cpu.cfs_quota_us": "-1\n"})
    assert await v1.read_back("/pods", ID) == Limits(memory=16384, cpu_shares=512)
    write(tmp_path / f"a.slice/sampan-{ID}.scope", {"memory.max": "16384\n", "cpu.max": "5000 10000\n"})
    assert await v2.read_back("a.slice", ID) == Limits(memory=16384, cpu_quota=5000, cpu_period=10000)


async def test_limits_from_the_days_of_another_driver_cannot_be_read(
    v1: HostCgroups, v2: HostCgroups
) -> None:
    for machine, parent in ((v1, "kubepods-pod1.slice"), (v2, "/kubepods/pod1")):
        with pytest.raises(
            WrongState, match=f"container c1 is from the days of another .* than {machine.driver}"
        ):
            await machine.read_back(parent, "c1")


async def test_a_slice_is_systemds_to_make_and_to_remove(v2: HostCgroups, tmp_path: Path) -> None:
    assert not await v2.make_parent("a-b.slice")
    await v2.remove_parent("a-b.slice")
    assert entries(tmp_path) == []
    assert v2.container_path("a-b.slice", ID) == f"a-b.slice:sampan:{ID}"


@pytest.mark.parametrize("parent", ["../../x", "/a/../../x", "/", "", "/a/cgroup.procs"])
async def test_a_parent_that_leads_elsewhere_touches_nothing(
    v1: HostCgroups, tmp_path: Path, parent: str
) -> None:
    for verb in (v1.make_parent, v1.remove_parent, v1.parent_usage):
        with pytest.raises(Invalid):
            await verb(parent)
    assert entries(tmp_path) == []


# --- parents, on the real kernel --------------------------------------------------------------------------


def groups(machine: HostCgroups, name: str) -> list[Path]:
    """The group of this name in each hierarchy where it is."""
    return [place for place in places(machine, name) if place.is_dir()]


def places(machine: HostCgroups, name: str) -> list[Path]:
    return [Path(hierarchy, name.strip("/")) for hierarchy in machine.layout.hierarchies]


def sweep(machine: HostCgroups) -> None:
    """Remove all the tests' groups, whoever made them, from the leaves up."""
    for top in groups(machine, TOP):
        for folder, _, _ in os.walk(top, topdown=False):
            Path(folder).rmdir()


@pytest.fixture
async def machine() -> AsyncIterator[HostCgroups]:
    found = await cgroups.detect("cgroupfs")
    try:
        yield found
    finally:
        sweep(found)


@pytest.fixture
def unified(machine: HostCgroups) -> Iterator[HostCgroups]:
    """The v2 hierarchy of this machine by itself, as a pure v2 machine has it, controllers or none."""
    if not machine.layout.v2:
        pytest.skip("no cgroup v2 is mounted here")
    alone = HostCgroups(CGROUPFS, Layout(v1={}, v2=machine.layout.v2, controllers=frozenset()))
    try:
        yield alone
    finally:
        sweep(alone)


@pytest.mark.root
async def test_this_machine_is_understood(machine: HostCgroups) -> None:
    assert {"cpu", "memory", "pids"} <= machine.layout.controllers
    assert all("cgroup.procs" in entries(Path(hierarchy)) for hierarchy in machine.layout.hierarchies)
    assert (await cgroups.detect("auto")).driver in ("cgroupfs", "systemd")


@pytest.mark.root
async def test_a_group_that_we_were_killed_over_is_known_as_ours_before_it_has_its_mark(
    machine: HostCgroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(os, "setxattr", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            machine._make(PARENT.lstrip("/"))
    assert groups(machine, TOP)
    await machine.remove_parent(PARENT)
    assert groups(machine, TOP) == []


@pytest.mark.root
async def test_a_parent_is_made_in_every_hierarchy_and_removed_from_every_one(machine: HostCgroups) -> None:
    assert await machine.make_parent(PARENT)
    assert len(groups(machine, PARENT)) == len(machine.layout.hierarchies)
    await machine.remove_parent(PARENT)
    assert groups(machine, TOP) == []


@pytest.mark.root
async def test_what_another_made_is_not_removed_though_it_is_empty(machine: HostCgroups) -> None:
    hierarchy = Path(machine.layout.hierarchies[0])
    (hierarchy / TOP).mkdir()
    assert await machine.make_parent(PARENT)
    await machine.remove_parent(PARENT)
    assert groups(machine, TOP) == [hierarchy / TOP]
    assert list((hierarchy / TOP).glob("*/")) == []


@pytest.mark.root
async def test_a_parent_that_exists_everywhere_is_not_ours(machine: HostCgroups) -> None:
    for place in places(machine, TOP):
        place.mkdir()
    assert not await machine.make_parent(f"/{TOP}")
    await machine.remove_parent(f"/{TOP}")
    assert len(groups(machine, TOP)) == len(machine.layout.hierarchies)


@pytest.mark.root
async def test_a_parent_in_use_stays_until_it_is_empty(machine: HostCgroups) -> None:
    await machine.make_parent(PARENT)
    inside = [group / ID for group in groups(machine, PARENT)]
    for group in inside:
        group.mkdir()
    await machine.remove_parent(PARENT)
    assert all(group.is_dir() for group in inside)
    for group in inside:
        group.rmdir()
    await machine.remove_parent(PARENT)
    assert groups(machine, TOP) == []


@pytest.mark.root
async def test_ancestors_shared_with_another_pod_stay(machine: HostCgroups) -> None:
    await machine.make_parent(PARENT)
    await machine.make_parent(f"/{TOP}/burstable/pod2")
    await machine.remove_parent(PARENT)
    assert groups(machine, PARENT) == []
    assert len(groups(machine, f"/{TOP}/burstable/pod2")) == len(machine.layout.hierarchies)
    await machine.remove_parent(f"/{TOP}/burstable/pod2")
    assert groups(machine, TOP) == []


@pytest.mark.root
async def test_a_parent_that_lost_its_leaf_is_removed_from_there_up(machine: HostCgroups) -> None:
    await machine.make_parent(PARENT)
    for group in groups(machine, PARENT):
        group.rmdir()
    await machine.remove_parent(PARENT)
    assert groups(machine, TOP) == []


@pytest.mark.root
async def test_a_new_daemon_knows_what_its_predecessor_made(machine: HostCgroups) -> None:
    await machine.make_parent(PARENT)
    await (await cgroups.detect("cgroupfs")).remove_parent(PARENT)
    assert groups(machine, TOP) == []


@pytest.mark.root
async def test_a_failed_make_can_be_removed(machine: HostCgroups, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def strike(name: str, subject: str) -> None:
        calls.append(name)
        if len(calls) == 3:  # v2 has but one hierarchy: TOP, burstable, pod1
            raise OSError("injected")

    monkeypatch.setattr(cgroups, "step_now", strike)
    with pytest.raises(OSError, match="injected"):
        await machine.make_parent(PARENT)
    assert len(groups(machine, TOP)) >= 1
    await machine.remove_parent(PARENT)
    assert groups(machine, TOP) == []


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@pytest.mark.root
async def test_a_new_v1_group_can_hold_a_process_and_is_read(machine: HostCgroups, sleeper: int) -> None:
    """A cpuset that had not got its parent's CPUs and nodes would refuse the process."""
    if not machine.layout.v1:
        pytest.skip("no cgroup v1 here")
    await machine.make_parent(PARENT)
    joined = [
        group for group in groups(machine, PARENT) if machine.layout.v2 not in (str(p) for p in group.parents)
    ]
    for group in joined:
        (group / "cgroup.procs").write_text(str(sleeper))
    memory = Path(machine.layout.v1["memory"], PARENT.strip("/"))
    all_cpus = Path(machine.layout.v1["cpuset"]) / "cpuset.cpus"
    try:
        usage = await machine.parent_usage(PARENT)
        assert usage is not None
        assert usage.processes == 1
        assert usage.cpu_ns is not None
        assert usage.memory_usage is not None
        assert usage.memory_available is None
        write(memory, {"memory.limit_in_bytes": str(64 << 20)})
        usage = await machine.parent_usage(PARENT)
        assert usage is not None
        assert usage.memory_available is not None
        assert 0 < usage.memory_available <= 64 << 20
        limits = await machine.read_back(f"/{TOP}/burstable", "pod1")
        assert limits.memory == 64 << 20
        assert limits.cpu_shares == 1024
        assert limits.cpuset_cpus == all_cpus.read_text().strip()
    finally:
        for group in joined:
            (group.parents[2] / "cgroup.procs").write_text(str(sleeper))


@pytest.mark.root
async def test_parents_and_readings_on_v2(unified: HostCgroups, sleeper: int) -> None:
    assert await unified.make_parent(PARENT)
    (group,) = groups(unified, PARENT)
    top = Path(unified.layout.v2)
    assert (group.parent / "cgroup.subtree_control").read_text() == (top / "cgroup.controllers").read_text()
    (group / "cgroup.procs").write_text(str(sleeper))
    try:
        usage = await unified.parent_usage(PARENT)
    finally:
        (top / "cgroup.procs").write_text(str(sleeper))
    assert usage is not None
    assert usage.cpu_ns is not None
    await unified.remove_parent(PARENT)
    assert groups(unified, TOP) == []
    assert await unified.parent_usage(PARENT) is None
