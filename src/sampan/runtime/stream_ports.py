"""What sessions (exec, attach, port-forward) ask of the machine, as protocols.

Each has a real implementation in `host/` and a fake in `tests/fake_streams.py`; `tests/contracts/` holds both to the
same behaviour.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from sampan.config import Handler
from sampan.wire.remotecommand.channels import Wanted

Data = bytes | memoryview


class Source(Protocol):
    """Bytes that come: a command's output, a port's answers."""

    async def read(self) -> bytes:
        """What is there now, at least a byte; b"" at the end, also where the other side has failed. One reader."""


class Sink(Protocol):
    """Bytes that go: a command's input, what is sent to a port."""

    async def write(self, data: Data) -> None:
        """All of `data`; waits while the other side is full. BrokenPipeError (ConnectionError) once nobody reads."""

    async def end(self) -> None:
        """No more comes: the other side reads its end. Idempotent."""


class Running(Protocol):
    """A command that runs for a client, or a container that a client is attached to. What was not asked for is None;
    with a terminal `stderr` always is."""

    @property
    def stdin(self) -> Sink | None: ...

    @property
    def stdout(self) -> Source | None: ...

    @property
    def stderr(self) -> Source | None: ...

    async def resize(self, width: int, height: int) -> None:
        """The size of its terminal, in characters. Nothing happens without a terminal, or for a size of 0."""

    async def exited(self) -> int:
        """Wait for the end; the exit code, 128 + n for one that signal n ended. For an attach: until the session
        is over (see `attach`), always 0. Output may still be on its way."""


class Commands(Protocol):
    """Commands in running containers, for as long as they run."""

    def run(
        self, handler: Handler, id: str, process: Mapping[str, Any], wanted: Wanted, *, outlive: bool = False
    ) -> AbstractAsyncContextManager[Running]:
        """Run `process` (an OCI process object; its `terminal` is `wanted.tty`) in container `id`. ToolFailed, with the
        runtime's own words, when it could not be run (by `exited` or on entering).

        Leaving the block kills the command and all that it started unless it has exited by then; what it left behind
        after its own exit lives on, as in any shell. With `outlive` leaving lets it run on: its input ends, what it
        still says is read and dropped."""


class Attachments(Protocol):
    """Clients beside running containers."""

    def attach(self, id: str, wanted: Wanted) -> AbstractAsyncContextManager[Running]:
        """The output of a container, created or running, from now on, and its input. NotFound if nothing watches it any
        more. Leaving the block detaches; the container goes on.

        It is over when the container has ended, its monitor is gone, or the client has ended its input (`stdin.end`)
        and the container's goes on, which it does unless it was made with stdin_once and without a terminal; then
        stdin ends for good with the first client that ends its input or leaves. Where there is no stdin or no more of
        it, `write` raises BrokenPipeError and the session goes on. A client that does not read never holds up the
        container for long: then `exited` raises Exhausted, and who waits to send to that client is to give up."""


class Dialer(Protocol):
    """Connections into a pod's network."""

    async def dial(self, netns: str, port: int) -> "Connection":
        """Connect to `port` on the loopback of the network namespace that is pinned at `netns` ("": the host's), IPv4
        first, then IPv6. Unavailable, saying what was tried, if nobody listens there."""


class Connection(Protocol):
    """A TCP connection to a port of a pod."""

    @property
    def source(self) -> Source: ...

    @property
    def sink(self) -> Sink: ...

    async def close(self) -> None:
        """Give it up; what has been written still arrives. Idempotent."""
