"""Tests of host.container_cgroup: on made-up hierarchies; real ones are in test_oci."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sampan.host.cgroup.container_cgroup import ContainerCgroup, machine_layout
from sampan.wire.cgroup_paths import Layout


def v1(tmp_path: Path) -> Layout:
    return Layout({"memory": f"{tmp_path}/memory", "freezer": f"{tmp_path}/freezer"}, "", frozenset())


def v2(tmp_path: Path) -> Layout:
    return Layout({}, f"{tmp_path}/unified", frozenset())


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "killed"),
    [
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", 0),
        ("oom_kill_disable 0\noom_kill 2\n", 2),
        ("", 0),
    ],
)
def test_v1_counts_kills_for_memory(tmp_path: Path, text: str, killed: int) -> None:
    write(tmp_path / "memory/pod/c/memory.oom_control", text)
    assert ContainerCgroup("/pod/c", v1(tmp_path)).oom_kills() == killed


@pytest.mark.parametrize("count", [0, 1])
def test_v2_counts_kills_for_memory(tmp_path: Path, count: int) -> None:
    write(tmp_path / "unified/pod/c/memory.events", f"low 0\nhigh 0\nmax 9\noom 1\noom_kill {count}\n")
    assert ContainerCgroup("/pod/c", v2(tmp_path)).oom_kills() == count


def test_a_group_that_is_gone_says_nothing_and_is_removed(tmp_path: Path) -> None:
    group = ContainerCgroup("/pod/c", v2(tmp_path))
    assert not group
    assert group.oom_kills() == 0
    assert group.processes() == set()
    group.kill()
    assert group.remove()


@pytest.mark.parametrize("path", ["", "/", "//", "/pod/../..", ".."])
def test_the_root_is_nobodys_group(tmp_path: Path, path: str) -> None:
    for file in ("cgroup.kill", "cgroup.procs"):
        write(tmp_path / "unified" / file, "")
    group = ContainerCgroup(path, v2(tmp_path))
    assert not group
    group.kill()
    assert group.remove()
    assert (tmp_path / "unified/cgroup.kill").read_text() == ""


def test_groups_below_go_first_and_what_is_busy_stays(tmp_path: Path) -> None:
    (tmp_path / "unified/pod/c/init.scope/deep").mkdir(parents=True)
    assert ContainerCgroup("/pod/c", v2(tmp_path)).remove()
    assert (tmp_path / "unified/pod").is_dir()
    write(tmp_path / "unified/pod/c/busy/file", "")
    assert not ContainerCgroup("/pod/c", v2(tmp_path)).remove()
    assert (tmp_path / "unified/pod/c/busy").is_dir()


def test_processes_are_those_of_all_groups_below(tmp_path: Path) -> None:
    write(tmp_path / "unified/c/cgroup.procs", "11\n12\n")
    write(tmp_path / "unified/c/sub/cgroup.procs", f"13\n{os.getpid()}\n")
    assert ContainerCgroup("c", v2(tmp_path)).processes() == {11, 12, 13}


def test_v2_kills_at_once(tmp_path: Path) -> None:
    write(tmp_path / "unified/c/cgroup.kill", "")
    ContainerCgroup("c", v2(tmp_path)).kill()
    assert (tmp_path / "unified/c/cgroup.kill").read_text() == "1"


def test_v1_is_thawed_after_the_kill(tmp_path: Path) -> None:
    write(tmp_path / "freezer/c/freezer.state", "THAWED")
    write(tmp_path / "freezer/c/cgroup.procs", "")
    ContainerCgroup("c", v1(tmp_path)).kill()
    assert (tmp_path / "freezer/c/freezer.state").read_text() == "THAWED"


@contextmanager
def descriptors(left: int) -> Iterator[None]:
    """No more than `left` can be opened."""
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_v1_is_thawed_although_there_are_no_descriptors_left_to_kill_with(tmp_path: Path) -> None:
    write(tmp_path / "freezer/c/freezer.state", "THAWED")
    write(tmp_path / "freezer/c/cgroup.procs", "")
    with pytest.raises(OSError) as error, descriptors(left=1):
        ContainerCgroup("c", v1(tmp_path)).kill()
    assert error.value.errno == errno.EMFILE
    assert (tmp_path / "freezer/c/freezer.state").read_text() == "THAWED"


@pytest.mark.parametrize("verb", ["processes", "remove"])
def test_a_group_that_cannot_be_looked_at_is_not_taken_for_an_empty_one(tmp_path: Path, verb: str) -> None:
    write(tmp_path / "unified/c/sub/cgroup.procs", "11\n")
    group = ContainerCgroup("c", v2(tmp_path))
    with pytest.raises(OSError) as error, descriptors(left=0):
        getattr(group, verb)()
    assert error.value.errno == errno.EMFILE


def test_what_does_not_die_is_reported_in_time(tmp_path: Path) -> None:
    write(tmp_path / "unified/c/busy/file", "")
    assert not ContainerCgroup("c", v2(tmp_path)).kill_and_remove(0.01)
    (tmp_path / "unified/c/busy/file").unlink()
    assert ContainerCgroup("c", v2(tmp_path)).kill_and_remove(0.01)
    assert ContainerCgroup("c", v2(tmp_path)).kill_and_remove(0.01)


def test_this_machine_has_hierarchies() -> None:
    assert all(Path(top).is_dir() for top in machine_layout().hierarchies)
    assert machine_layout().hierarchies
