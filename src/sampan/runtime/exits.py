"""One watcher for each live container: it waits for the end, records it, and frees what only a live one needs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sampan.config import Config
from sampan.model import container as transitions
from sampan.model.container import Container
from sampan.model.errors import NotFound, SampanError
from sampan.runtime.machine import Machine
from sampan.runtime.ports import Launched
from sampan.runtime.state import State
from sampan.tasks import Tasks, step

log = logging.getLogger("sampan.exits")
RETRY_SECONDS = 0.5  # before an end is tried to be recorded again, twice as long each time
LONGEST_RETRY_SECONDS = 30.0


class Exits:
    """Ends of containers, as facts and as something to wait for."""

    def __init__(self, config: Config, state: State, machine: Machine, tasks: Tasks) -> None:
        self._config = config
        self._state = state
        self._machine = machine
        self._tasks = tasks
        self._ended: dict[str, asyncio.Event] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}

    def watch(self, container: Container) -> None:
        """Start watching a created container (also one that has ended while the daemon was away)."""
        if container.id not in self._watchers:
            self._ended[container.id] = asyncio.Event()
            self._watchers[container.id] = self._tasks.start(
                f"exit of container {container.id}", self._watch(container)
            )

    async def ended(self, id: str) -> None:
        """Wait until the end of the container is on record."""
        if id in self._ended:
            await self._ended[id].wait()

    async def freed(self, id: str) -> None:
        """Wait until the watcher is done with it; then its cgroup and its monitor are gone."""
        watcher = self._watchers.pop(id, None)
        if watcher is not None:
            await asyncio.wait([watcher])
        self._ended.pop(id, None)

    async def _watch(self, container: Container) -> None:
        assert container.init is not None and container.monitor is not None
        launched = Launched(container.init, container.monitor)
        await until_recorded(f"container {container.id}", lambda: self._record_end(container.id, launched))
        self._ended[container.id].set()
        await self.free(container)

    async def free(self, container: Container) -> None:
        """Give up what only a live container needs: its cgroup, its monitor, the OCI runtime's state."""
        await step("container.exit.free", container.id)
        await self._machine.oci.delete(self._config.handlers[container.handler], container.id)

    async def _record_end(self, id: str, launched: Launched) -> None:
        end = await self._machine.oci.wait(id, launched)
        await step("container.exit", id)
        await self._state.update_container(
            id,
            lambda now_: transitions.finished(
                now_, at=end.at, code=end.code, oom=end.oom, lost=end.lost, kill=end.kill
            ),
        )


async def until_recorded(subject: str, record: Callable[[], Awaitable[None]]) -> None:
    """Wait for an end and record it, as `record` does: it must not get lost because the disk is full, or descriptors
    are out, for a moment. NotFound: nobody keeps a record of it any more."""
    pause, failures = RETRY_SECONDS, 0
    while True:
        try:
            await record()
            break
        except NotFound:
            return
        except Exception as error:
            # A full disk explains itself, and stays for long; what nobody foresaw shows once where it came from.
            foreseen = isinstance(error, SampanError | OSError)
            log.error(
                "cannot record the end of %s yet, trying again in %g s: %s",
                subject,
                pause,
                str(error) or type(error).__name__,
                exc_info=not foreseen and not failures,
            )
        failures += 1
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_RETRY_SECONDS)
    if failures:
        log.info("the end of %s is on record now", subject)
