"""Tests of host.cgroup.exec_places: groups without containers; `test_exec_cgroup` has the rest."""

import errno
import logging
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sampan.host import syscalls
from sampan.host.cgroup import exec_places
from sampan.host.cgroup.container_cgroup import ContainerCgroup, machine_layout
from sampan.host.cgroup.exec_places import Nested, Place, Tracked, all_of, found, new, tracked

pytestmark = pytest.mark.root


class Box:
    """A container's group without a container."""

    def __init__(self, path: str, *, takes_groups: bool = True) -> None:
        self.path = path
        self._takes_groups = takes_groups

    def cgroup(self) -> ContainerCgroup:
        return ContainerCgroup(self.path)

    def takes_groups(self) -> bool:
        return self._takes_groups


@pytest.fixture
def id() -> str:
    return uuid.uuid4().hex * 2


@pytest.fixture
def box(id: str) -> Iterator[Box]:
    box = Box(f"/sampan_test_{id[:12]}")
    for top in machine_layout().hierarchies if machine_layout().unified else ():
        Path(f"{top}{box.path}").mkdir()
    try:
        yield box
    finally:
        for place in all_of(id, box):
            place.remove()
        assert all_of(id, box) == []
        assert box.cgroup().remove()


@pytest.fixture
def place(id: str, box: Box) -> Place:
    place = new(id, box)
    assert place is not None
    assert place.make()
    return place


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def put(place: Place, process: subprocess.Popen[bytes]) -> None:
    """Where the OCI runtime would have put it."""
    place.enter(process.pid)
    if isinstance(place, Nested):
        Path(f"{place._path}/cgroup.procs").write_text(str(process.pid))


def test_every_group_has_a_name_of_its_own(id: str, box: Box) -> None:
    places = [new(id, box) for _ in range(3)]
    assert len({place.name for place in places if place}) == 3


def test_who_is_in_it_keeps_it(place: Place, sleeper: subprocess.Popen[bytes]) -> None:
    assert place.members() == set()
    put(place, sleeper)
    assert place.members() == {sleeper.pid}
    assert not place.remove()
    sleeper.kill()
    sleeper.wait()
    assert place.members() == set()
    assert place.remove()
    assert place.remove()
    assert place.members() == set()


def test_a_mark_is_kept(place: Place) -> None:
    assert not place.marked()
    place.mark()
    assert place.marked()


def test_groups_of_daemons_before_are_found_and_ours_are_not(
    id: str, box: Box, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = uuid.uuid4().hex * 2
    assert [each.name for each in all_of(id, box)] == [place.name]
    assert list(found(id, box)) == []
    monkeypatch.setattr(exec_places, "_RUN", "later")
    assert [each.name for each in found(id, box)] == [place.name]
    assert all_of(other, Box(f"/sampan_test_{other[:12]}")) == []


@pytest.mark.skipif(machine_layout().unified, reason="on v2 the group is the container's")
class TestOnV1:
    def test_the_hierarchy_is_mounted_nowhere_and_has_no_controller(self, place: Place) -> None:
        assert isinstance(place, Tracked)
        assert "name=sampan" not in Path("/proc/self/mountinfo").read_text()
        assert b":name=sampan:/" in Path("/proc/self/cgroup").read_bytes()
        assert not [*Path(place._path).glob("memory.*"), *Path(place._path).glob("pids.*")]

    def test_what_a_process_starts_is_born_in_its_group(self, place: Place) -> None:
        argv = ["sh", "-c", "read go; setsid sleep 1000 >/dev/null & echo $!"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
            place.enter(shell.pid)
            said, _ = shell.communicate(b"\n")
        assert place.members() == {int(said)}
        os.kill(int(said), signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(int(said), 0)
        while place.members():  # it is init's to reap
            time.sleep(0.001)

    def test_a_group_that_no_container_has_is_not_stopped(self, place: Place) -> None:
        with place.frozen():
            pass

    @pytest.mark.parametrize("refused", [errno.EPERM, errno.ENODEV, errno.EINVAL])
    def test_a_kernel_that_lets_us_have_none_is_told_of_once(
        self, id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refused: int
    ) -> None:
        def fsopen(fstype: str) -> int:
            raise OSError(refused, os.strerror(refused), fstype)

        monkeypatch.setattr(exec_places, "fsopen", fsopen)
        monkeypatch.setattr(exec_places, "_hierarchy", exec_places._Hierarchy())
        with caplog.at_level(logging.WARNING):
            assert [new(id, Box("/x")) for _ in range(3)] == [None] * 3
        assert len(caplog.records) == 1
        assert tracked(id, Box("/x")) == []

    def test_an_old_kernel_moves_slower_and_that_is_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = syscalls.fsconfig

        def fsconfig(fd: int, command: int, key: str = "", value: str = "") -> None:
            if key == "favordynmods":
                raise OSError(errno.EINVAL, "unknown parameter")
            real(fd, command, key, value)

        monkeypatch.setattr(exec_places, "fsconfig", fsconfig)
        hierarchy = exec_places._Hierarchy()
        top = hierarchy.path()
        assert Path(top, "cgroup.procs").exists()
        os.close(int(Path(top).name))


@pytest.mark.skipif(not machine_layout().unified, reason="v1 has a hierarchy for this")
class TestOnV2:
    def test_the_runtime_is_told(self, place: Place) -> None:
        assert place.options == (f"--cgroup={place.name}",)

    def test_one_that_cannot_be_told_gets_none(self, id: str, box: Box) -> None:
        assert new(id, Box(box.path, takes_groups=False)) is None

    def test_a_container_that_made_its_group_threaded_gets_none(self, id: str, box: Box) -> None:
        Path(f"{machine_layout().v2}{box.path}/cgroup.type").write_text("threaded")
        place = new(id, box)
        assert place is not None
        assert not place.make()
        assert all_of(id, box) == []

    def test_groups_made_in_it_stay_while_somebody_is_there(
        self, place: Place, sleeper: subprocess.Popen[bytes]
    ) -> None:
        assert isinstance(place, Nested)
        inner = Path(place._path, "inner")
        inner.mkdir()
        put(place, sleeper)
        assert not place.remove()
        assert inner.is_dir()
        place.kill_at_once()
        sleeper.wait()
        assert place.remove()
