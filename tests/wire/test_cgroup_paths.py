"""Cgroup parents, paths and layouts."""

import pytest

from sampan.model.errors import Invalid
from sampan.wire import cgroup_paths, mountinfo

ID = "c" * 64
POD = "kubepods-burstable-pod1_2.slice"


@pytest.mark.parametrize(
    ("driver", "parent", "path", "directory"),
    [
        (
            "cgroupfs",
            "/kubepods/burstable/pod1",
            f"/kubepods/burstable/pod1/{ID}",
            f"kubepods/burstable/pod1/{ID}",
        ),
        ("cgroupfs", "kubepods/pod1", f"/kubepods/pod1/{ID}", f"kubepods/pod1/{ID}"),
        ("cgroupfs", "//a///b/", f"/a/b/{ID}", f"a/b/{ID}"),
        ("cgroupfs", "/a.slice/b", f"/a.slice/b/{ID}", f"a.slice/b/{ID}"),
        (
            "systemd",
            POD,
            f"{POD}:sampan:{ID}",
            f"kubepods.slice/kubepods-burstable.slice/{POD}/sampan-{ID}.scope",
        ),
        (
            "systemd",
            f"/kubepods.slice/kubepods-burstable.slice/{POD}",
            f"{POD}:sampan:{ID}",
            f"kubepods.slice/kubepods-burstable.slice/{POD}/sampan-{ID}.scope",
        ),
        ("systemd", "sampan.slice", f"sampan.slice:sampan:{ID}", f"sampan.slice/sampan-{ID}.scope"),
        ("systemd", "-.slice", f"-.slice:sampan:{ID}", f"sampan-{ID}.scope"),
    ],
)
def test_where_a_container_goes(driver: str, parent: str, path: str, directory: str) -> None:
    assert cgroup_paths.cgroups_path(driver, parent, ID) == path
    assert cgroup_paths.directory(driver, parent, ID) == directory


@pytest.mark.parametrize(
    ("driver", "parent"),
    [
        ("cgroupfs", ""),
        ("cgroupfs", "/"),
        ("cgroupfs", "../../x"),
        ("cgroupfs", "/a/../../x"),
        ("cgroupfs", "/a/./b"),
        ("cgroupfs", "/a/cgroup.procs"),
        ("cgroupfs", "/a\nb"),
        ("cgroupfs", "/a\0b"),
        ("cgroupfs", "/" + "a" * 256),
        ("cgroupfs", POD),
        ("systemd", ""),
        ("systemd", "/kubepods/pod1"),
        ("systemd", "a.slice/../.."),
        ("systemd", "a..b-.slice"),
        ("systemd", "-a.slice"),
        ("systemd", "a--b.slice"),
        ("systemd", "a.slice\n"),
        ("systemd", "a:b/.slice"),
        ("systemd", "a b.slice"),
        ("systemd", "a" * 260 + ".slice"),
    ],
)
def test_a_parent_that_leads_elsewhere_is_invalid(driver: str, parent: str) -> None:
    with pytest.raises(Invalid):
        cgroup_paths.parent_directory(driver, parent)
    with pytest.raises(Invalid):
        cgroup_paths.directory(driver, parent, ID)
    with pytest.raises(Invalid):
        cgroup_paths.cgroups_path(driver, parent, ID)


@pytest.mark.parametrize(("driver", "parent"), [("cgroupfs", POD), ("systemd", "/kubepods/pod1")])
def test_the_wrong_driver_is_named(driver: str, parent: str) -> None:
    with pytest.raises(Invalid, match=r"set the same driver for the kubelet"):
        cgroup_paths.parent_directory(driver, parent)


V1 = b"""\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset,noprefix,clone_children
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
"""
UNIFIED = b"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
V2 = b"30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
ELSEWHERE = b"20 24 0:32 / /mnt/memory rw - cgroup none rw,memory\n"


def test_a_v1_machine() -> None:
    layout = cgroup_paths.layout(mountinfo.parse(ELSEWHERE + V1))
    assert not layout.unified
    assert layout.controllers == {"cpu", "cpuacct", "cpuset", "memory", "pids"}
    assert layout.v1["memory"] == "/sys/fs/cgroup/memory"
    assert layout.v1["cpu"] == layout.v1["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert sorted(layout.hierarchies) == [
        "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup/cpuset",
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/pids",
        "/sys/fs/cgroup/systemd",
    ]


def test_a_hybrid_machine_goes_by_v1_and_has_one_hierarchy_more() -> None:
    layout = cgroup_paths.layout(mountinfo.parse(V1 + UNIFIED), b"\n")
    assert not layout.unified
    assert "memory" in layout.controllers
    assert len(layout.hierarchies) == 6
    assert layout.v2 == "/sys/fs/cgroup/unified"


def test_a_v2_machine() -> None:
    layout = cgroup_paths.layout(mountinfo.parse(V2), b"cpuset cpu io memory hugetlb pids rdma misc\n")
    assert layout.unified
    assert layout.hierarchies == ("/sys/fs/cgroup",)
    assert {"cpu", "memory", "pids"} <= layout.controllers


@pytest.mark.parametrize(
    ("configured", "booted", "pid_1", "unified", "driver"),
    [
        ("auto", True, "systemd", True, "systemd"),
        ("auto", True, "systemd", False, "cgroupfs"),
        ("auto", False, "systemd", True, "cgroupfs"),
        ("auto", True, "init", True, "cgroupfs"),
        ("systemd", True, "systemd", False, "systemd"),
        ("cgroupfs", True, "systemd", True, "cgroupfs"),
    ],
)
def test_the_driver_by_machine(configured: str, booted: bool, pid_1: str, unified: bool, driver: str) -> None:
    chosen = cgroup_paths.choose_driver(configured, systemd_booted=booted, pid_1=pid_1, unified=unified)
    assert chosen == driver


@pytest.mark.parametrize(("configured", "words"), [("systemd", "needs systemd"), ("cgroups", "unknown")])
def test_an_impossible_driver_is_invalid(configured: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        cgroup_paths.choose_driver(configured, systemd_booted=False, pid_1="init", unified=True)
