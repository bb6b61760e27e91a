"""Sessions: what may be exec'ed in, attached to and forwarded to, checked when it is asked for and when it is used.

Between the two lies up to a minute: a container may have ended by then. Nothing here knows of sockets, URLs or tokens.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from sampan.config import Config
from sampan.model import container as transitions
from sampan.model import ids
from sampan.model.container import Container, ContainerState
from sampan.model.errors import Invalid, NotFound, WrongState
from sampan.model.pod import Pod, PodState
from sampan.runtime.exec import Exec
from sampan.runtime.machine import Machine
from sampan.runtime.state import State
from sampan.runtime.stream_ports import Running
from sampan.tasks import step
from sampan.wire.remotecommand.channels import Wanted


@dataclass(frozen=True, slots=True)
class ExecIn:
    """Run a command in a container."""

    kind: ClassVar[str] = "exec"
    subject: str  # the container's id
    command: tuple[str, ...]
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class AttachTo:
    """Join a container's own input and output."""

    kind: ClassVar[str] = "attach"
    subject: str  # the container's id
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class ForwardTo:
    """Connect to ports of a pod. `ports` are those that a session over WebSocket has; one over SPDY names its own."""

    kind: ClassVar[str] = "portforward"
    subject: str  # the pod's id
    ports: tuple[int, ...]


Command = ExecIn | AttachTo
Operation = ExecIn | AttachTo | ForwardTo
KINDS = (ExecIn.kind, AttachTo.kind, ForwardTo.kind)
EXECED = (ContainerState.RUNNING,)
ATTACHED = (ContainerState.CREATED, ContainerState.RUNNING)  # who comes before the start misses nothing


class Streaming:
    """The three operations: first what is wrong with a request, then the doing of it."""

    def __init__(self, config: Config, state: State, machine: Machine, exec: Exec) -> None:
        self._config = config
        self._state = state
        self._machine = machine
        self._exec = exec

    # --- asked for --------------------------------------------------------------------------------------------

    async def exec(self, id: str, command: Sequence[str], wanted: Wanted) -> ExecIn:
        """Raises NotFound, WrongState (not running), Invalid (no stream, no command, a terminal with stderr)."""
        container = self._container(id, "exec in", *EXECED)
        _require_streams(wanted)
        await self._exec.process(container.id, command, tty=wanted.tty)
        return ExecIn(container.id, tuple(command), wanted)

    async def attach(self, id: str, wanted: Wanted) -> AttachTo:
        """Raises NotFound, WrongState, Invalid. A terminal is Invalid where the container has none: the CRI says that
        the two must match, and the client's keys would do something else than it shows. The other way round works: a
        client that only looks on needs no terminal of its own."""
        container = self._container(id, "attach to", *ATTACHED)
        _require_streams(wanted)
        _require_terminal(container, wanted)
        return AttachTo(container.id, wanted)

    async def port_forward(self, id: str, ports: Sequence[int]) -> ForwardTo:
        """Raises NotFound, WrongState (not ready), Invalid. The kubelet names no ports where clients will."""
        pod = self._ready(id)
        wrong = [port for port in ports if not 1 <= port <= 65535]
        if wrong:
            raise Invalid(f"port {wrong[0]} of pod {pod.id} cannot be forwarded: ports are 1 to 65535")
        return ForwardTo(pod.id, tuple(ports))

    # --- used -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def run(self, operation: Command) -> AsyncIterator[Running]:
        """The command, or the container, for as long as the block. Raises what `Commands` and `Attachments` do, and
        NotFound and WrongState if the container has ended meanwhile."""
        if isinstance(operation, AttachTo):
            container = self._container(operation.subject, "attach to", *ATTACHED)
            async with self._machine.attachments.attach(container.id, operation.wanted) as running:
                yield running
            return
        container = self._container(operation.subject, "exec in", *EXECED)
        process = await self._exec.process(container.id, operation.command, tty=operation.wanted.tty)
        self._exec.expect_move()
        await step("container.exec", container.id)
        handler = self._config.handlers[container.handler]
        outlive = not self._config.streaming.end_exec_with_client
        commands = self._machine.commands
        async with commands.run(handler, container.id, process, operation.wanted, outlive=outlive) as running:
            yield running

    def network(self, operation: ForwardTo) -> str:
        """Where the pod's network namespace is pinned, "" for the host's. Raises NotFound and WrongState."""
        pod = self._ready(operation.subject)
        return str(self._config.paths.namespace(pod.id, "net")) if "net" in pod.namespaces else ""

    # --- checks -----------------------------------------------------------------------------------------------

    def _container(self, id: str, verb: str, *states: ContainerState) -> Container:
        container = ids.resolve("container", self._state.containers, id)
        if not container.visible:
            raise NotFound(f"container {container.id} is still being created")
        transitions.require(container, verb, *states)
        return container

    def _ready(self, id: str) -> Pod:
        pod = ids.resolve("pod", self._state.pods, id)
        if pod.state is not PodState.READY:
            why = f": {pod.broken_reason}" if pod.broken_reason else ""
            raise WrongState(f"cannot forward ports of pod {pod.id}: it is not ready{why}")
        return pod


def _require_streams(wanted: Wanted) -> None:
    if not (wanted.stdin or wanted.stdout or wanted.stderr):
        raise Invalid("none of stdin, stdout and stderr is asked for; a session needs at least one")
    if wanted.tty and wanted.stderr:
        raise Invalid("tty and stderr exclude each other: a terminal has one output, which is stdout")


def _require_terminal(container: Container, wanted: Wanted) -> None:
    if wanted.tty and not container.config.tty:
        raise Invalid(f"container {container.id} has no terminal; attach without one")
