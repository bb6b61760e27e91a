"""Tests of host.runtime_state: what it does by itself, and what it leaves to crun. Real containers are in
test_oci."""

import json
import os
from pathlib import Path

import pytest

from sampan.host.oci.runtime_state import RuntimeState
from sampan.host.processes import find

DEAD = {"pid": 2**22 + 5, "process-start-time": 1, "cgroup-path": "", "systemd-cgroup": False}


def make(tmp_path: Path, status: object = None, config: object = None, bundle: object = None) -> RuntimeState:
    """A state directory with these files."""
    directory, its_bundle = tmp_path / "state", tmp_path / "bundle"
    its_bundle.mkdir()
    for folder, name, content in (
        (directory, "status", status),
        (directory, "config.json", config),
        (its_bundle, "config.json", bundle),
    ):
        if content is not None:
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    (tmp_path / "units").mkdir()
    return RuntimeState(directory, its_bundle, tmp_path / "units")


def myself(**changes: object) -> dict[str, object]:
    me = find(os.getpid())
    assert me is not None
    return {**DEAD, "pid": me.pid, "process-start-time": me.start, **changes}


def test_nothing_there_is_neither_started_nor_alive(tmp_path: Path) -> None:
    state = make(tmp_path)
    assert state.status() is None
    assert state.init() is None
    assert not state.started()
    assert not state.cgroup()
    assert not state.open_gate()
    assert state.dissolve()


def test_a_live_init_is_told_by_its_start_time(tmp_path: Path) -> None:
    assert make(tmp_path, myself()).init() == find(os.getpid())


def test_another_process_of_that_number_is_not_the_init(tmp_path: Path) -> None:
    assert make(tmp_path, myself(**{"process-start-time": 3})).init() is None


def test_the_gate_tells_whether_a_container_was_started(tmp_path: Path) -> None:
    state = make(tmp_path, DEAD, {})
    assert state.started()
    os.mkfifo(state.directory / "exec.fifo")
    assert not state.started()


def test_the_gate_is_opened_once_and_only_to_one_who_waits(tmp_path: Path) -> None:
    state = make(tmp_path, myself(), {})
    os.mkfifo(state.directory / "exec.fifo")
    assert not state.open_gate()
    assert not state.started()
    waiting = os.open(state.directory / "exec.fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert state.open_gate()
        assert os.read(waiting, 10) == b"\0"
        assert state.started()
        assert not state.open_gate()
    finally:
        os.close(waiting)


@pytest.mark.parametrize("config", [{"hooks": {"poststart": [{"path": "/x"}]}}, "{", None])
def test_what_only_crun_can_start_is_left_to_it(tmp_path: Path, config: object) -> None:
    state = make(tmp_path, myself(), config)
    os.mkfifo(state.directory / "exec.fifo")
    waiting = os.open(state.directory / "exec.fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert not state.open_gate()
    os.close(waiting)


def test_a_dead_container_is_dissolved(tmp_path: Path) -> None:
    state = make(tmp_path, DEAD, {})
    assert state.dissolve()
    assert not state.directory.exists()
    assert state.dissolve()


@pytest.mark.parametrize(
    ("status", "config"),
    [
        (DEAD, {"hooks": {"poststop": [{"path": "/x"}]}}),
        (DEAD, {"linux": {"intelRdt": {}}}),
        ({**DEAD, "systemd-cgroup": True}, {}),
        ("torn", {}),
        (DEAD, None),
        (DEAD, "{"),
    ],
)
def test_what_only_crun_can_delete_is_left_to_it(tmp_path: Path, status: object, config: object) -> None:
    state = make(tmp_path, status, config)
    assert not state.dissolve()
    assert state.directory.exists()


def test_a_scope_is_left_to_crun_until_systemd_has_dropped_it(tmp_path: Path) -> None:
    state = make(tmp_path, {**DEAD, "systemd-cgroup": True, "scope": "sampan-c1.scope"}, {})
    unit = tmp_path / "units/sampan-c1.scope"
    unit.touch()
    assert not state.dissolve()
    assert state.directory.exists()
    unit.unlink()
    assert state.dissolve()
    assert not state.directory.exists()


def test_a_live_container_is_not_dissolved(tmp_path: Path) -> None:
    state = make(tmp_path, myself(), {})
    assert not state.dissolve()
    assert state.directory.exists()


@pytest.mark.parametrize(
    ("asked", "below"),
    [
        ("/kubepods/pod1/c1", "kubepods/pod1/c1"),
        ("kubepods-pod1.slice:sampan:c1", "kubepods.slice/kubepods-pod1.slice/sampan-c1.scope"),
    ],
)
def test_without_a_status_the_bundle_tells_the_cgroup(tmp_path: Path, asked: str, below: str) -> None:
    state = make(tmp_path, bundle={"linux": {"cgroupsPath": asked}})
    assert state.cgroup().below == below


def test_crun_and_runc_can_be_told_a_group_and_nobody_else(tmp_path: Path) -> None:
    for number, status in enumerate((None, DEAD)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert make(folder, status).takes_groups() is (status is not None)
    other = make(tmp_path)
    other.directory.mkdir()
    assert not other.takes_groups()
    (other.directory / "state.json").write_text("{}")
    assert other.takes_groups()
