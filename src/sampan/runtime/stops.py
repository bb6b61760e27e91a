"""Stopping a container: the signal once, the grace period, then SIGKILL until it is gone.

The work goes on when the caller leaves. A later call never sends the signal again; it may shorten the wait. What not
even SIGKILL ends, because it is stuck in the kernel, is named in the log and to the caller.
"""

import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.config import Config
from sampan.model import container as transitions
from sampan.model.container import Container, ContainerState
from sampan.model.errors import SampanError, Unavailable
from sampan.runtime.exits import Exits
from sampan.runtime.machine import Machine
from sampan.runtime.state import State, now
from sampan.tasks import Joined, KeyedLock, step

log = logging.getLogger("sampan.stops")
FIRST_KILL_WAIT = 0.5  # seconds until a SIGKILL is repeated; doubles up to the last
LAST_KILL_WAIT = 30.0
PATIENCE = 60.0  # seconds after the grace period, until a caller is told what it waits for; the kill goes on


class _Grace:
    """The end of a grace period, which can only come nearer."""

    def __init__(self, seconds: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self.deadline = self._clock() + seconds
        self._shortened = asyncio.Event()

    def shorten(self, seconds: float) -> None:
        deadline = self._clock() + seconds
        if deadline < self.deadline:
            self.deadline = deadline
            self._shortened.set()

    async def over(self) -> None:
        while (left := self.deadline - self._clock()) > 0:
            self._shortened.clear()
            try:
                async with asyncio.timeout(left):
                    await self._shortened.wait()
            except TimeoutError:
                return


class Stops:
    """Stops in flight."""

    def __init__(self, config: Config, state: State, machine: Machine, exits: Exits) -> None:
        self._config = config
        self._state = state
        self._machine = machine
        self._exits = exits
        self._joined = Joined()  # each with its `_Grace`
        self.locks = KeyedLock()  # by id: see `Containers.locks`; held while it is being started

    async def stop(self, container: Container, seconds: int) -> None:
        """Returns when the container has ended. Cancelling the caller leaves the stop going. Raises Unavailable, naming
        what does not die, if SIGKILL does not end it in PATIENCE: the stop goes on, and the next call joins it."""
        current = self._state.containers.get(container.id)
        if current is None or current.state is ContainerState.EXITED:
            return
        seconds = max(seconds, 0)
        self._exits.watch(current)  # it is watched already, unless taking it back at boot failed
        grace = self._joined.request(container.id)
        if not isinstance(grace, _Grace):
            grace = _Grace(seconds)
        grace.shorten(seconds)
        try:
            async with asyncio.timeout(max(grace.deadline - asyncio.get_running_loop().time(), 0) + PATIENCE):
                await self._joined.run(container.id, self._stop(current, seconds, grace), grace)
        except TimeoutError as error:
            raise Unavailable(
                f"container {container.id} does not die of SIGKILL: {await self._stuck(container)}; "
                f"killing it goes on"
            ) from error

    async def _stop(self, container: Container, seconds: int, grace: _Grace) -> None:
        if seconds and await self._running(container.id, grace):
            await self._ask(container, grace)
        await self._kill_until_gone(container)

    async def _running(self, id: str, grace: _Grace) -> bool:
        """Whether it runs, once a start that is under way has ended, or the grace period has."""
        await _first(self._no_start(id), grace.over())
        current = self._state.containers.get(id)
        return current is not None and current.state is ContainerState.RUNNING

    async def _no_start(self, id: str) -> None:
        async with self.locks(id):
            pass

    async def _ask(self, container: Container, grace: _Grace) -> None:
        assert container.init is not None
        await step("container.stop.signal", container.id)
        if container.stop_signal == signal.SIGKILL:
            await self._note_kill(container.id)
        await self._machine.oci.signal(container.init, container.stop_signal)
        await _first(self._exits.ended(container.id), grace.over())

    async def _kill_until_gone(self, container: Container) -> None:
        """Nothing that the machine refuses ends this: the caller may have left, and nobody would begin it again."""
        wait = FIRST_KILL_WAIT
        while self._live(container):
            try:
                await self.kill(container)
            except (SampanError, OSError) as error:
                log.warning("container %s cannot be killed yet; trying on: %s", container.id, error)
            try:
                async with asyncio.timeout(wait):
                    await self._exits.ended(container.id)
            except TimeoutError:
                stuck = await self._stuck(container)
                log.warning("container %s does not die of SIGKILL; trying on: %s", container.id, stuck)
                wait = min(wait * 2, LAST_KILL_WAIT)

    async def _stuck(self, container: Container) -> str:
        """What is alive and where it waits, and what can be done about it."""
        handler = self._config.handlers[container.handler]
        try:
            alive = await self._machine.oci.survivors(handler, container.id)
        except (SampanError, OSError) as error:
            return f"which of its processes is alive cannot be told ({error})"
        if not alive:
            return "none of its processes is alive, but its monitor has not said so yet"
        hint = (
            "; state D is a wait that no signal ends: see to the disk or network file system it waits for, or "
            "restart the node"
        )
        return ", ".join(alive) + (hint if any("` is in state D" in one for one in alive) else "")

    def _live(self, container: Container) -> bool:
        current = self._state.containers.get(container.id)
        return current is not None and current.state is not ContainerState.EXITED

    async def kill(self, container: Container) -> None:
        """SIGKILL to its init, and to all of its processes where init's death does not take them along."""
        await step("container.stop.kill", container.id)
        await asyncio.gather(self._note_kill(container.id), self._kill(container))

    async def _note_kill(self, id: str) -> None:
        """For the reason of its end, which is recorded after this (changes of one record take turns). The kill does not
        wait for the disk; that it is full keeps nothing from being killed."""
        try:
            await self._state.update_container(id, lambda now_: transitions.killed(now_, now()))
        except (SampanError, OSError) as error:
            log.warning("container %s: that we kill it could not be recorded: %s", id, error)

    async def _kill(self, container: Container) -> None:
        assert container.init is not None
        await self._machine.oci.signal(container.init, signal.SIGKILL)
        if container.config.linux.security_context.namespace_options.pid != cri.CONTAINER:
            await self._machine.oci.kill_all(self._config.handlers[container.handler], container.id)


async def _first(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Return when one of the two has ended; the other is cancelled."""
    left = asyncio.ensure_future(one)
    right = asyncio.ensure_future(other)
    try:
        await asyncio.wait([left, right], return_when=asyncio.FIRST_COMPLETED)
    finally:
        left.cancel()
        right.cancel()
