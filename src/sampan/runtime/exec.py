"""ExecSync: one command in a running container, to its end."""

from collections.abc import Sequence
from typing import Any

from sampan.config import Config
from sampan.model import container as transitions
from sampan.model import ids
from sampan.model.container import ContainerState
from sampan.model.errors import Lost
from sampan.runtime.machine import Machine
from sampan.runtime.ports import ExecResult
from sampan.runtime.state import State
from sampan.spec.process import for_exec
from sampan.tasks import Tasks, step


class Exec:
    """Commands in running containers."""

    def __init__(self, config: Config, state: State, machine: Machine, tasks: Tasks) -> None:
        self._config = config
        self._tasks = tasks
        self._state = state
        self._machine = machine

    async def sync(self, id: str, command: Sequence[str], seconds: int) -> ExecResult:
        """Run `command` with the container's own identity and environment; `seconds` 0 or less waits for ever.
        Raises NotFound, WrongState (not running), Invalid (no command), TimeoutError after killing it."""
        container = ids.resolve("container", self._state.containers, id)
        transitions.require(container, "exec in", ContainerState.RUNNING)
        self.expect_move()
        process = await self.process(container.id, command, tty=False)
        await step("container.exec", container.id)
        handler = self._config.handlers[container.handler]
        return await self._machine.oci.exec_sync(handler, container.id, process, max(seconds, 0))

    def expect_move(self) -> None:
        """A process of ours will be moved into a container's group: let the kernel get ready for it, meanwhile."""
        self._tasks.start("expect a move", self._machine.cgroups.expect_move())

    async def process(self, id: str, command: Sequence[str], *, tty: bool) -> dict[str, Any]:
        """The container's own process object (OCI runtime-spec, config.md#process) with another command. Raises Invalid
        for one that cannot be run, Lost."""
        process = await self._machine.bundles.process(id)
        if process is None:
            raise Lost(f"the bundle of container {id} is gone; it cannot be exec'ed into")
        return for_exec(process, command, tty=tty)
