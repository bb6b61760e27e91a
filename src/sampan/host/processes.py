"""Processes by identity, ours or not: who is alive, signals to exactly one, waiting for an end, finding a
family.

A pid alone is never trusted: it is checked with the start time after a pidfd was opened, from when on the
number cannot be given to another process behind our back. /proc/PID/stat and pidfds never block, so nothing
here needs a thread but the walk over all of /proc.
"""

import asyncio
import errno
import os
import signal
from collections.abc import Collection
from contextlib import suppress

from sampan.host.threads import in_thread
from sampan.model.process import ProcessRef
from sampan.wire import proc

REAP_SECONDS = 0.5  # for the root of a family to reap its killed children and end by itself
_GONE = (errno.ENOENT, errno.ESRCH)  # all else (EMFILE, ENFILE, ENOMEM…) says nothing about the process
_TRIES, _RETRY_SECONDS = 10, 0.1  # to kill a family, before want of descriptors is an error
_STOP_ROUNDS = 20  # looks for new members of a family that forks while it is being stopped


def read_small(path: str | os.PathLike[str], limit: int = 1 << 16) -> bytes:
    """The first `limit` bytes of a file in memory (procfs, cgroupfs, tmpfs). Raises OSError.

    In several reads where it must be: of a list of records (net/dev, cgroup.procs) one read gives no more than a page,
    whatever its limit (kernel fs/seq_file.c).
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.read(fd, limit)
        while len(found) < limit and (more := os.read(fd, limit - len(found))):
            found += more
        return found
    finally:
        os.close(fd)


def find(pid: int) -> ProcessRef | None:
    """The identity of the live process with this number, if there is one; a zombie is not alive.

    None is certain. OSError: it cannot be told, for want of descriptors or memory.
    """
    stat = _stat(pid)
    return None if stat is None or stat.dead else ProcessRef(pid, stat.start)


def _stat(pid: int | str) -> proc.Stat | None:
    try:
        return proc.stat(read_small(f"/proc/{pid}/stat"))
    except ValueError:  # it ended between open and read
        return None
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


async def process_ref(pid: int) -> ProcessRef | None:
    """The identity of the live process with this number, None if there is none."""
    return find(pid)


async def alive(process: ProcessRef) -> bool:
    """Whether exactly this process still runs."""
    return find(process.pid) == process


async def send(process: ProcessRef, number: int) -> bool:
    """Signal exactly this process; False if it is gone."""
    return send_now(process, number)


def send_now(process: ProcessRef, number: int) -> bool:
    """`send` for code that runs in a thread."""
    pidfd = _open(process)
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


async def gone(process: ProcessRef) -> None:
    """Wait until exactly this process has ended."""
    pidfd = _open(process)
    if pidfd is None:
        return
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(pidfd, readable)
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _open(process: ProcessRef) -> int | None:
    """A pidfd of exactly this process, None if it is gone. OSError: it cannot be told."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in (*_GONE, errno.EINVAL):  # EINVAL: the number of a mere thread
            return None
        raise
    found = None
    try:
        found = find(process.pid)
    finally:
        if found != process:
            os.close(pidfd)
    return pidfd if found == process else None


async def kill_family(root: ProcessRef, seconds: float = 5.0) -> None:
    """SIGKILL a process, all its descendants and all members of their sessions, and wait until they are
    gone.

    Stopped first, killed then: so no parent dies while its child is being found, and no script runs on
    when the command that it waits for dies. The root, a tool of ours such as `crun exec`, is left alone until it
    has had time to reap its child: that zombie would else be the host init's to reap, and be seen in the container
    until then. One that has left both the tree and the session before (a daemon) is not found. What the kernel
    cannot kill holds the caller for `seconds`.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _kill_until_gone(root, spare_root=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(REAP_SECONDS):
                    await gone(root)
            await _kill_until_gone(root, spare_root=False)


async def _kill_until_gone(root: ProcessRef, *, spare_root: bool) -> None:
    while members := await _kill_members(root, spare_root):
        for member in members:
            await gone(member)


async def _kill_members(root: ProcessRef, spare_root: bool) -> list[ProcessRef]:
    """`_kill_family`, again while descriptors or memory are out: somebody else may give some back."""
    for _ in range(_TRIES):
        with suppress(OSError):
            return await in_thread(_kill_family, root, spare_root)
        await asyncio.sleep(_RETRY_SECONDS)
    return await in_thread(_kill_family, root, spare_root)


def _kill_family(root: ProcessRef, spare_root: bool) -> list[ProcessRef]:
    """One pass; the processes that were killed, none if there was no one left."""
    known: list[ProcessRef] = []
    try:
        _stop_family(root, spare_root, known)
    finally:  # also when descriptors ran out half way: what was stopped must not stay so
        for process in known:
            send_now(process, signal.SIGKILL)
    return known


def _stop_family(root: ProcessRef, spare_root: bool, known: list[ProcessRef]) -> None:
    """SIGSTOP to one after the other until none is missed; all that were found are added to `known`."""
    sessions: set[int] = set()
    quiet = False
    for _ in range(_STOP_ROUNDS):
        family = _family(root, sessions)
        found = sorted(
            (member for member in family if not (spare_root and member.pid == root.pid)),
            key=lambda member: (member.start, member.pid),
        )
        fresh = [ref for member in found if (ref := ProcessRef(member.pid, member.start)) not in known]
        if not fresh and quiet:  # all had stopped before this look began: it missed nobody
            break
        known += fresh
        for process in fresh:
            send_now(process, signal.SIGSTOP)
        sessions |= {
            member.session for member in family if member.pid != root.pid or member.session == root.pid
        }
        quiet = all(member.stopped for member in found)


def _family(root: ProcessRef, sessions: Collection[int]) -> set[proc.Stat]:
    members = proc.family(_everyone(), root.pid, sessions)
    return {member for member in members if member.pid != root.pid or member.start == root.start}


def _everyone() -> list[proc.Stat]:
    found = []
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdecimal() and (stat := _stat(entry.name)) is not None:
                found.append(stat)
    return found
