"""A control group for each command that is run in a container: whatever the command starts is found and killed with it,
however often it forks and whatever session or parent it chooses. Where there can be none, its family is what is killed.

What a command left behind after its own end lives on, in a group that is marked for that. One that has no mark and is
not ours was a session of a daemon that died. Not limits and no statistics; where the groups are is `exec_places`.
"""

import asyncio
import errno
import itertools
import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from sampan.host.cgroup import exec_places
from sampan.host.cgroup.exec_places import Container, Place
from sampan.host.processes import REAP_SECONDS, find, gone, kill_family
from sampan.host.threads import in_own_thread, in_thread
from sampan.model.process import ProcessRef
from sampan.tasks import finish

KILL_SECONDS = 5.0  # for what the kernel does not kill at once
_FREE_ROUNDS = 3  # looks for more to kill, before all of it is stopped for that
_ROUNDS = 20  # looks while it is stopped
_AT_ONCE = 100  # processes whose descriptors are open together
_LOOK_SECONDS = 0.1
_RETRIES, _RETRY_SECONDS = 5, 0.001  # for the dead to leave a group
_SWEPT = 4  # groups of commands that have ended, which are looked at whenever another one ends
_left: deque[Place] = deque()  # those: what is in them may have ended since
log = logging.getLogger("sampan.cgroup")


class ExecGroup:
    """The group of one command. Made by `exec_group`; `close` it when the command has ended, or has been killed."""

    def __init__(self, place: Place | None, *, outlive: bool = False) -> None:
        self._place = place
        self._runtime: ProcessRef | None = None
        self._outlive = outlive
        self.options: list[str] = list(place.options) if place else []

    @property
    def tracks(self) -> bool:
        """Whether it knows all that the command starts, not its family alone."""
        return self._place is not None

    async def enter(self, runtime: int) -> None:
        """Know the OCI runtime's `exec`, our child `runtime`, before it is told what to run."""
        self._runtime = find(runtime)
        if self._place is not None and not self._place.options:
            await finish(in_thread(self._enter, runtime))

    def _enter(self, runtime: int) -> None:
        place = self.make()
        if place is None:
            return
        try:
            place.enter(runtime)
        except ProcessLookupError:
            pass  # it has ended already
        except OSError as error:
            self._do_without(place, error)

    def make(self) -> Place | None:
        """Make the group; without one the command runs as well. For code in a thread."""
        place = self._place
        if place is None:
            return None
        try:
            usable = place.make()
            if usable and self._outlive:
                place.mark()
        except OSError as error:
            self._do_without(place, error)
        else:
            if not usable:
                self._do_without(place)
        return self._place

    def _do_without(self, place: Place, why: OSError | None = None) -> None:
        self._place = None
        self.options = []
        if why is not None:
            log.warning("command runs without its control group %s: %s", place.name, why)
            place.remove()

    async def kill(self) -> None:
        """SIGKILL to the command and all that it started, then to the OCI runtime if it does not end by itself; wait
        until they are gone, for as long as the kernel lets us in KILL_SECONDS.

        The runtime is left to reap the command first: its zombie would else be seen in the container.
        """
        await finish(self._kill())

    async def _kill(self) -> None:
        runtime = self._runtime
        await self._empty(spare=runtime)
        if runtime is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(REAP_SECONDS):
                    await gone(runtime)
            if find(runtime.pid) == runtime:  # it was about to start the command, or that has left the group
                await kill_family(runtime, KILL_SECONDS)
        await self._empty()

    async def _empty(self, spare: ProcessRef | None = None) -> None:
        place = self._place
        if place is not None and await in_thread(place.members) - ({spare.pid} if spare else set()):
            # one thread for each session that ends so, which are limited; what is stuck must hold up no other
            await in_own_thread(partial(_empty, place, spare, KILL_SECONDS))

    async def close(self) -> None:
        """Remove the group. What the command left behind keeps it: it goes some time after that has ended, with the
        container at the latest."""
        place, self._place = self._place, None
        if place is not None:
            await finish(in_thread(_closed_one, place))


async def exec_group(
    id: str, container: Container, *, outlive: bool = False, unseen: bool = False
) -> ExecGroup:
    """A group for a command that is about to be run in the container `id`. With `outlive` the command is not to end
    when this daemon dies. With `unseen` there is none where the command would find itself in it, without the limits
    that its container's group shows (cgroup v2).

    In this order: make it, start the OCI runtime with its `options`, `enter` it, tell it what to run, and in the end
    (`kill` and) `close`.
    """
    if unseen and exec_places.nested():
        return ExecGroup(None)
    if exec_places.at_hand():  # nothing to do before `enter`
        return ExecGroup(exec_places.new(id, container), outlive=outlive)
    made: list[ExecGroup] = []
    try:
        await finish(in_thread(lambda: made.append(_group(id, container, outlive))))
    except asyncio.CancelledError:
        for group in made:
            await group.close()
        raise
    return made[0]


def _group(id: str, container: Container, outlive: bool) -> ExecGroup:
    group = ExecGroup(exec_places.new(id, container), outlive=outlive)
    if group.options:  # the runtime looks for it
        group.make()
    return group


async def end_orphaned(id: str, container: Container) -> int:
    """Kill what daemons before this one were running in the container `id` for their clients; how many commands. What
    has outlived its command, or was to outlive its client, is left alone."""
    ended = 0
    for place in await in_thread(lambda: list(exec_places.found(id, container))):
        if not await in_thread(_spared, place):
            await in_own_thread(partial(_empty, place, None, KILL_SECONDS))
            await in_thread(_closed, place)
            ended += 1
    return ended


def _spared(place: Place) -> bool:
    """Whether nobody is to be killed; an empty group is removed."""
    return place.remove() or place.marked()


def forget(id: str, container: Container) -> None:
    """Remove what is left of the groups of a container whose processes are all dead. For code in a thread."""
    for place in exec_places.tracked(id, container):
        _closed(place)


def _closed_one(place: Place) -> None:
    _sweep()
    if not _closed(place):
        _left.append(place)


def _sweep() -> None:
    """A container may live for years, and have a probe that leaves something behind every time."""
    for _ in range(min(_SWEPT, len(_left))):
        with suppress(IndexError):  # somebody else has it
            place = _left.popleft()
            with suppress(OSError):
                if not place.remove():
                    _left.append(place)


def _closed(place: Place) -> bool:
    """Remove it, or mark it for what is in it: False. That it stays is no loss: the container's end is its own."""
    try:
        for _ in range(_RETRIES):
            if place.remove():
                return True
            if place.members():
                place.mark()
                return False
            time.sleep(_RETRY_SECONDS)  # who has died takes a moment to leave
        log.warning("the control group %s of a command is empty, and cannot be removed", place.name)
    except FileNotFoundError:
        return True
    except OSError as error:
        log.warning("the control group %s of a command cannot be removed: %s", place.name, error)
    return False


def _empty(place: Place, spare: ProcessRef | None, seconds: float) -> bool:
    """Kill all in it but one, until they are gone; False if that took longer than `seconds`."""
    deadline = time.monotonic() + seconds
    spared = {spare.pid} if spare else set()
    place.kill_at_once()
    for look in itertools.count():
        members = place.members() - spared
        if not members:
            return True
        if time.monotonic() > deadline:
            log.warning("processes %s of %s do not die", sorted(members)[:10], place.name)
            return False
        if look < _FREE_ROUNDS:
            _signal(place, members)
        else:  # it forks faster than we look
            with place.frozen():
                _signal_all(place, spared)
        _await(place, spared, deadline)
    return False


def _signal_all(place: Place, spared: set[int]) -> None:
    known = set(spared)
    for _ in range(_ROUNDS):
        fresh = place.members() - known
        if not fresh:
            return
        _signal(place, fresh)
        known |= fresh


def _signal(place: Place, members: set[int]) -> None:
    ordered = sorted(members)
    for first in range(0, len(ordered), _AT_ONCE):
        with _opened(place, ordered[first : first + _AT_ONCE]) as opened:
            for pidfd in opened:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _await(place: Place, spared: set[int], deadline: float) -> None:
    """Until some that are in it have gone, or time is up."""
    with _opened(place, sorted(place.members() - spared)[:_AT_ONCE]) as opened:
        if opened:
            poll = select.poll()
            for pidfd in opened:
                poll.register(pidfd, select.POLLIN)
            poll.poll(max(0.0, min(deadline - time.monotonic(), _LOOK_SECONDS)) * 1000)


@contextmanager
def _opened(place: Place, pids: Sequence[int]) -> Iterator[list[int]]:
    """Descriptors of those that are in the group: a number may be another process's by the time it is opened, and that
    one is not in it."""
    with ExitStack() as closing:
        opened: dict[int, int] = {}
        for pid in pids:
            try:
                opened[pid] = os.pidfd_open(pid)
            except OSError as error:
                if error.errno not in (errno.ESRCH, errno.EINVAL):  # EINVAL: it is just being buried
                    raise
            else:
                closing.callback(os.close, opened[pid])
        ours = place.members() if opened else set()
        yield [pidfd for pid, pidfd in opened.items() if pid in ours]
