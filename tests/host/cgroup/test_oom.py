"""Who was killed for memory: on made-up groups and logs; real kills are in test_oci_limits."""

import shutil
from pathlib import Path

import pytest

from sampan.host.cgroup import container_cgroup, oom
from sampan.host.oci.runtime_state import RuntimeState
from sampan.model.oom import OomKill, OomScope
from sampan.wire.cgroup_paths import Layout

INIT = 100


class Case:
    """A container at pods/p1/c1 of a machine of files."""

    def __init__(self, top: Path, version: int) -> None:
        self.top = top / "cgroup"
        self.log = top / "kmsg"
        self.version = version
        self.state = RuntimeState(top / "state", top / "bundle")
        for folder in (self.state.directory, self.state.bundle, self.top / "pods/p1/c1"):
            folder.mkdir(parents=True)
        (self.state.directory / "status").write_text('{"pid": 100, "cgroup-path": "/pods/p1/c1"}')

    @property
    def layout(self) -> Layout:
        v1 = {"memory": str(self.top)} if self.version == 1 else {}
        return Layout(v1, "" if self.version == 1 else str(self.top), frozenset({"memory"}))

    def group(self, group: str, *, limit: int | None = None, full: bool = False, kills: int = 0) -> None:
        folder = self.top / group
        if self.version == 1:
            files = {
                "memory.oom_control": f"oom_kill_disable 0\noom_kill {kills}\n",
                "memory.limit_in_bytes": f"{limit or 9223372036854771712}\n",
                "memory.max_usage_in_bytes": f"{limit if full else 4096}\n",
            }
        else:
            files = {
                "memory.events": f"oom {int(full)}\noom_kill {kills}\n",
                "memory.events.local": f"oom {int(full)}\noom_kill {kills}\n",
                "memory.max": f"{limit or 'max'}\n",
            }
        for name, text in files.items():
            (folder / name).write_text(text)

    def logs(self, *, limited: str, pid: int = INIT, name: str = "java") -> None:
        where = f"oom_memcg={limited}" if limited else "global_oom"
        with self.log.open("a") as log:
            log.write(
                f"6,1,12345,-;oom-kill:constraint=X,nodemask=(null),cpuset=/,mems_allowed=0,{where},"
                f"task_memcg=/root/pods/p1/c1,task={name},pid={pid},uid=0\n"
            )

    def gone(self) -> None:
        """systemd has removed the container's group."""
        shutil.rmtree(self.top / "pods/p1/c1")

    def killed(self, code: int = 137) -> OomKill | None:
        return oom.killed(self.state, INIT, code, self.log)


@pytest.fixture(params=[1, 2])
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    made = Case(tmp_path, request.param)
    monkeypatch.setattr(container_cgroup, "machine_layout", lambda: made.layout)
    for group in ("pods", "pods/p1", "pods/p1/c1"):
        made.group(group)
    return made


def test_no_kill_is_none_and_the_log_is_not_asked(case: Case) -> None:
    case.logs(limited="/root/pods/p1/c1")
    assert case.killed() is None


@pytest.mark.parametrize(
    ("limited", "scope", "limit"),
    [
        ("/root/pods/p1/c1", OomScope.CONTAINER, 64),
        ("/root/pods/p1/c1/sub", OomScope.CONTAINER, None),
        ("/root/pods/p1", OomScope.POD, 128),
        ("/root/pods", OomScope.GROUP, 256),
        ("", OomScope.NODE, None),
    ],
)
def test_the_log_names_the_victim_and_whose_memory_it_was(
    case: Case, limited: str, scope: OomScope, limit: int | None
) -> None:
    case.group("pods", limit=256)
    case.group("pods/p1", limit=128)
    case.group("pods/p1/c1", limit=64, kills=1)
    case.logs(limited=limited)
    found = case.killed()
    assert found is not None
    assert (found.scope, found.limit, found.victim, found.pid) == (scope, limit, "java", INIT)
    assert found.first_process


@pytest.mark.parametrize(
    ("full", "scope"),
    [
        ("pods/p1/c1", OomScope.CONTAINER),
        ("pods/p1", OomScope.POD),
        ("pods", OomScope.GROUP),
        ("", OomScope.NODE),
    ],
)
def test_without_the_log_the_innermost_full_group_tells(case: Case, full: str, scope: OomScope) -> None:
    case.group("pods/p1/c1", limit=1 << 20, kills=2)
    if full:
        case.group(full, limit=1 << 20, full=True, kills=2)
    found = case.killed()
    assert found is not None
    assert (found.scope, found.count, found.victim, found.first_process) == (scope, 2, "", False)
    assert found.limit == (1 << 20 if full else None)


def test_kills_in_other_groups_are_others(case: Case) -> None:
    case.group("pods/p1/c1", kills=1)
    case.log.write_text("")
    case.logs(limited="")
    case.log.write_text(case.log.read_text().replace("/c1,", "/c10,"))
    found = case.killed()
    assert found is not None
    assert found.victim == ""


@pytest.mark.parametrize(
    ("pids", "first"), [([INIT], True), ([7], False), ([7, INIT], True), ([INIT, 7], True)]
)
def test_whether_it_was_the_first_process_is_told(case: Case, pids: list[int], first: bool) -> None:
    case.group("pods/p1/c1", kills=1)
    for pid in pids:
        case.logs(limited="", pid=pid)
    found = case.killed()
    assert found is not None
    assert (found.pid, found.first_process) == (pids[-1], first)


def test_the_log_outlives_the_group_and_its_counters(case: Case) -> None:
    """Under systemd both may be gone before conmon has looked."""
    case.logs(limited="/root/pods/p1")
    case.gone()
    found = case.killed()
    assert found is not None
    assert (found.victim, found.first_process, found.scope) == ("java", True, OomScope.POD)


@pytest.mark.parametrize("code", [0, 1, 143, 255])
def test_a_group_that_is_gone_says_nothing_of_an_end_of_its_own(case: Case, code: int) -> None:
    case.logs(limited="/root/pods/p1")
    case.gone()
    assert case.killed(code) is None


def test_a_kill_of_ours_is_none_of_the_kernels(case: Case) -> None:
    case.gone()
    assert case.killed() is None
    case.log.touch()
    assert case.killed() is None


def test_the_last_of_several_is_told(case: Case) -> None:
    case.group("pods/p1/c1", kills=2)
    case.logs(limited="", name="first", pid=8)
    case.logs(limited="", name="second", pid=9)
    found = case.killed()
    assert found is not None
    assert (found.victim, found.count, found.first_process) == ("second", 2, False)


def test_conmons_note_outlives_the_group(case: Case) -> None:
    (case.state.bundle / "oom").touch()
    case.state.directory.joinpath("status").write_text('{"pid": 100, "cgroup-path": "/pods/p1/gone"}')
    assert case.killed() == OomKill()


def test_want_of_descriptors_is_not_no_kill(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> bytes:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(container_cgroup, "read_small", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        case.killed()
