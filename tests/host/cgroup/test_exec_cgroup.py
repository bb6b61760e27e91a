"""Tests of host.cgroup.exec_cgroup: commands in real containers, by every OCI runtime of this machine."""

import asyncio
import errno
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sampan.host.cgroup import exec_cgroup, exec_places
from sampan.host.cgroup.container_cgroup import machine_layout
from sampan.host.cgroup.exec_cgroup import ExecGroup, end_orphaned, exec_group
from sampan.host.oci.runtime_state import RuntimeState
from sampan.host.process import Child, spawn
from sampan.host.processes import read_small
from sampan.wire.oci_runtime import CommandLine
from tests import cgroup_drivers, oci_runtimes
from tests.host.containers import Lab, until

pytestmark = pytest.mark.root


@pytest.fixture(params=itertools.product(oci_runtimes.RUNTIMES, cgroup_drivers.DRIVERS), ids="-".join)
async def lab(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[Lab]:
    runtime, driver = request.param
    oci_runtimes.require(runtime)
    lab = Lab(short_tmp, driver, runtime)
    try:
        yield lab
    finally:
        await lab.close()
    assert lab.leftovers() == []
    assert groups(lab) == []


@pytest.fixture
async def box(lab: Lab) -> str:
    """The id of a container that runs."""
    launch, _ = await lab.run("sleep", "100000", config={"linux": {"resources": {"pids": {"limit": 300}}}})
    return launch.id


def state(lab: Lab, id: str) -> RuntimeState:
    return RuntimeState(lab.handler.root / id, lab.paths.bundle(id))


def groups(lab: Lab) -> list[str]:
    """The groups of commands in the lab's containers."""
    return [place.name for id in lab.ids for place in exec_places.all_of(id, state(lab, id))]


def inside(lab: Lab, mark: str) -> list[int]:
    return [pid for pid, words in lab.processes() if mark in words and "--process=" not in words]


@asynccontextmanager
async def command(lab: Lab, id: str, group: ExecGroup, *args: str) -> AsyncIterator[Child]:
    """A command that runs in the group, as `host.oci` starts one."""
    argv = CommandLine(lab.handler.path, lab.handler).exec_process(
        id, "/proc/self/fd/3", "/dev/null", group.options
    )
    read, write = os.pipe()
    async with spawn(argv, fds=[read]) as child:
        os.close(read)
        await group.enter(child.pid)
        os.write(write, json.dumps(lab.process(*args)).encode())
        os.close(write)
        yield child


HIDING = "sleep 77001 & setsid sh -c 'setsid sleep 77002 &' & setsid sleep 77003 & exec sleep 77004"


async def test_all_that_a_command_started_is_killed_with_it(lab: Lab, box: str) -> None:
    group = await exec_group(box, state(lab, box))
    async with command(lab, box, group, "sh", "-c", HIDING) as child:
        await until(lambda: len(inside(lab, "sleep 7700")) == 4)
        await group.kill()
        assert inside(lab, "sleep 7700") == []
        assert not child.running or await child.exited()
    await group.close()
    assert groups(lab) == []
    assert inside(lab, "100000")


async def test_no_other_command_is_killed(lab: Lab, box: str) -> None:
    one, other = [await exec_group(box, state(lab, box)) for _ in range(2)]
    async with (
        command(lab, box, one, "sleep", "77005"),
        command(lab, box, other, "sleep", "77006") as second,
    ):
        await until(lambda: len(inside(lab, "sleep 7700")) == 2)
        await one.kill()
        assert inside(lab, "sleep 77005") == []
        assert inside(lab, "sleep 77006")
        assert second.running
        await other.kill()
    await one.close()
    await other.close()


@pytest.mark.parametrize("free_rounds", [exec_cgroup._FREE_ROUNDS, 0], ids=["running", "stopped"])
async def test_what_forks_all_the_time_is_killed_and_the_container_goes_on(
    lab: Lab, box: str, monkeypatch: pytest.MonkeyPatch, free_rounds: int
) -> None:
    monkeypatch.setattr(exec_cgroup, "_FREE_ROUNDS", free_rounds)
    group = await exec_group(box, state(lab, box))
    # each makes the next one and ends; none has a parent for long
    bomb = "f() { sleep 0.02; f & }; " + "f & " * 20 + "exec sleep 77017"
    async with command(lab, box, group, "sh", "-c", bomb):
        place = group._place
        assert place is not None
        await until(lambda: len(place.members()) > 20)  # looked at one by one they are gone
        await group.kill()
        assert place.members() == set()
        assert inside(lab, "f()") + inside(lab, "sleep 77017") + inside(lab, "sleep 0.01") == []
    await group.close()
    assert groups(lab) == []
    beside = await exec_group(box, state(lab, box))
    async with command(lab, box, beside, "true") as child:
        assert await child.exited() == 0
    await beside.close()


async def test_what_a_command_left_behind_lives_on_until_the_container_is_removed(lab: Lab, box: str) -> None:
    group = await exec_group(box, state(lab, box))
    async with command(lab, box, group, "sh", "-c", "setsid sleep 77007 >/dev/null 2>&1 &") as child:
        assert await child.exited() == 0
    await until(lambda: bool(inside(lab, "sleep 77007")))
    await group.close()
    assert len(groups(lab)) == 1
    assert await end_orphaned(box, state(lab, box)) == 0
    assert inside(lab, "sleep 77007")
    await lab.oci.delete(lab.handler, box)
    assert groups(lab) == []


async def test_the_group_of_what_a_command_left_behind_goes_when_that_has_ended(lab: Lab, box: str) -> None:
    """At the end of another command: a container that lives for years would have thousands."""
    group = await exec_group(box, state(lab, box))
    async with command(lab, box, group, "sh", "-c", "setsid sleep 77013 >/dev/null 2>&1 &") as child:
        assert await child.exited() == 0
    await group.close()
    assert len(groups(lab)) == 1
    for pid in inside(lab, "sleep 77013"):
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not inside(lab, "sleep 77013"))
    later = await exec_group(box, state(lab, box))
    async with command(lab, box, later, "true") as child:
        await child.exited()
    await later.close()
    assert groups(lab) == []


async def test_sessions_of_a_daemon_that_died_are_ended(
    lab: Lab, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await exec_group(box, state(lab, box), outlive=True)
    lost = await exec_group(box, state(lab, box))
    empty = await exec_group(box, state(lab, box))
    async with (
        command(lab, box, kept, "sleep", "77008"),
        command(lab, box, lost, "sh", "-c", "setsid sleep 77010 & sleep 77009"),
        command(lab, box, empty, "true") as ended,
    ):
        await ended.exited()
        await until(lambda: len(inside(lab, "sleep 770")) == 3)
        monkeypatch.setattr(exec_places, "_RUN", "another")
        ours = await exec_group(box, state(lab, box))
        async with command(lab, box, ours, "sleep", "77011"):
            await until(lambda: len(inside(lab, "sleep 770")) == 4)
            assert await end_orphaned(box, state(lab, box)) == 1
            assert inside(lab, "sleep 77009") + inside(lab, "sleep 77010") == []
            assert inside(lab, "sleep 77008")
            assert inside(lab, "sleep 77011")
            await ours.kill()
        await ours.close()
        assert len(groups(lab)) == 1
        await kept.kill()
    await kept.close()


DAEMON = """
import asyncio, os, signal, sys
from pathlib import Path
from sampan.host.cgroup.exec_cgroup import exec_group
from sampan.host.oci.runtime_state import RuntimeState

async def main(id, state, bundle, command):
    group = await exec_group(id, RuntimeState(Path(state), Path(bundle)))
    read, write = os.pipe()
    argv = [word.format(options=" ".join(group.options)) for word in command.split("|")]
    pid = os.posix_spawn(
        argv[0], [word for word in argv if word], {"PATH": os.environ["PATH"]},
        file_actions=[(os.POSIX_SPAWN_DUP2, read, 3), (os.POSIX_SPAWN_DUP2, os.open("/dev/null", os.O_RDWR), 0)],
        setsid=True,
    )
    await group.enter(pid)
    os.write(write, sys.stdin.buffer.read())
    os.close(write)
    signal.pause()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_the_session_of_a_killed_daemon_is_found_by_the_next(lab: Lab, box: str) -> None:
    program = shutil.which(lab.handler.path)
    words = CommandLine(str(program), lab.handler).exec_process(
        box, "/proc/self/fd/3", "/dev/null", ["{options}"]
    )
    known = state(lab, box)
    argv = [sys.executable, "-c", DAEMON, box, str(known.directory), str(known.bundle), "|".join(words)]
    async with spawn(argv, env=os.environ, stdin=True) as daemon:
        process = lab.process("sh", "-c", "setsid sleep 77018 & exec setsid sleep 77019")
        await daemon.write(json.dumps(process).encode())
        await daemon.close_stdin()
        await until(lambda: len(inside(lab, "sleep 7701")) == 2)
        daemon.kill()
        assert await daemon.exited() == -signal.SIGKILL
    assert await end_orphaned(box, known) == 1
    assert inside(lab, "sleep 7701") == []
    assert groups(lab) == []
    assert await end_orphaned(box, known) == 0


async def test_a_command_is_charged_to_the_container_and_limited_with_it(lab: Lab, box: str) -> None:
    group = await exec_group(box, state(lab, box))
    async with command(lab, box, group, "sleep", "77012"):
        await until(lambda: bool(inside(lab, "sleep 77012")))
        init, ours = inside(lab, "100000")[0], inside(lab, "sleep 77012")[0]
        members = {
            line for line in read_small(f"/proc/{ours}/cgroup").splitlines() if b"name=sampan:" not in line
        }
        expected = {
            line for line in read_small(f"/proc/{init}/cgroup").splitlines() if b"name=sampan:" not in line
        }
        if machine_layout().unified:
            assert {line.rpartition(b"/")[0] for line in members} == expected
        else:
            assert members == expected
        assert ours in state(lab, box).cgroup().processes()
        await group.kill()
    await group.close()


@pytest.mark.skipif(not machine_layout().unified, reason="v1 has no such rule")
async def test_a_container_that_shares_out_its_controllers_takes_commands(lab: Lab, box: str) -> None:
    """As systemd in a container does: then no process may be in the container's own group (cgroup-v2.rst, "No Internal
    Process Constraint")."""
    cgroup = state(lab, box).cgroup()
    top = Path(f"{machine_layout().v2}/{cgroup.below}")
    (top / "init.scope").mkdir()
    for pid in cgroup.processes():
        (top / "init.scope/cgroup.procs").write_text(str(pid))
    (top / "cgroup.subtree_control").write_text("+pids +memory")
    group = await exec_group(box, state(lab, box))
    async with command(lab, box, group, "sleep", "77016"):
        await until(lambda: bool(inside(lab, "sleep 77016")))
        await group.kill()
        assert inside(lab, "sleep 77016") == []
    await group.close()
    assert groups(lab) == []
    assert inside(lab, "100000")


async def test_the_container_can_be_removed_while_a_command_runs(lab: Lab, box: str) -> None:
    group = await exec_group(box, state(lab, box))
    async with command(lab, box, group, "sleep", "77013") as child:
        await until(lambda: bool(inside(lab, "sleep 77013")))
        await lab.oci.delete(lab.handler, box)
        await child.exited()
        await group.kill()
    await group.close()
    assert groups(lab) == []


async def test_without_a_group_the_family_is_killed(lab: Lab, box: str) -> None:
    group = ExecGroup(None)
    assert group.options == []
    async with command(lab, box, group, "sh", "-c", "sleep 77014 & exec sleep 77015"):
        await until(lambda: len(inside(lab, "sleep 7701")) == 2)
        await group.kill()
        assert inside(lab, "sleep 7701") == []
    await group.close()


async def test_a_group_that_cannot_be_made_costs_the_group_only(
    lab: Lab, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object) -> bool:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(exec_places.Tracked, "make", refuse)
    monkeypatch.setattr(exec_places.Nested, "make", refuse)
    group = await exec_group(box, state(lab, box))
    async with command(lab, box, group, "true") as child:
        assert await child.exited() == 0
    assert group.options == []
    await group.close()


async def test_a_group_that_nobody_waits_for_any_more_is_removed(
    lab: Lab, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = exec_cgroup._group

    def slow(*args: Any) -> ExecGroup:
        group = make(*args)
        group.make()
        time.sleep(0.2)
        return group

    monkeypatch.setattr(exec_places, "at_hand", lambda: False)
    monkeypatch.setattr(exec_cgroup, "_group", slow)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await exec_group(box, state(lab, box))
    assert groups(lab) == []


async def test_killing_and_closing_what_has_ended_is_fine(lab: Lab, box: str) -> None:
    group = await exec_group(box, state(lab, box))
    async with command(lab, box, group, "true") as child:
        await child.exited()
        await group.kill()
    await group.close()
    await group.close()
    await group.kill()


async def test_being_cancelled_does_not_stop_the_killing(lab: Lab, box: str) -> None:
    group = await exec_group(box, state(lab, box))
    async with command(lab, box, group, "sh", "-c", HIDING):
        await until(lambda: len(inside(lab, "sleep 7700")) == 4)
        killing = asyncio.create_task(group.kill())
        await asyncio.sleep(0)
        killing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await killing
        assert inside(lab, "sleep 7700") == []
    await group.close()


@pytest.mark.skipif(machine_layout().unified, reason="the runtime puts a command in its group there")
async def test_a_group_that_cannot_be_entered_costs_the_group_only(
    lab: Lab, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, pid: int) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(exec_places.Tracked, "enter", refuse)
    group = await exec_group(box, state(lab, box))
    async with command(lab, box, group, "true") as child:
        assert await child.exited() == 0
    assert not group.tracks
    await group.close()
    assert groups(lab) == []
