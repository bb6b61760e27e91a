"""The ports of sessions in memory: commands in containers, clients beside them, connections into pods."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sampan.config import Handler
from sampan.model.errors import NotFound, ToolFailed, Unavailable
from sampan.runtime.stream_ports import Connection, Data, Running
from sampan.wire.remotecommand.channels import Wanted

PIPE = 1 << 16  # bytes, as the kernel's


class Pipe:
    """A Source and a Sink of one another: what is written waits, at most PIPE bytes of it, until it is read."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._ended = self._broken = False
        self.passed = 0  # bytes that have been written
        self._moved = asyncio.Event()

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def write(self, data: Data) -> None:
        for start in range(0, len(data), PIPE):
            while len(self._waiting) >= PIPE and not self._broken:
                await self._moved.wait()
            if self._broken or self._ended:
                raise BrokenPipeError("nobody reads")
            self._waiting += data[start : start + PIPE]
            self.passed += len(data[start : start + PIPE])
            self._move()

    async def end(self) -> None:
        self._ended = True
        self._move()

    async def read(self) -> bytes:
        while not self._waiting and not self._ended:
            await self._moved.wait()
        data = bytes(self._waiting)
        self._waiting.clear()
        self._move()
        return data

    def break_off(self) -> None:
        """The reader is gone."""
        self._broken = True
        self._move()


@dataclass
class FakeCommand:
    """A command as it runs: `program` sees the inner ends, the client the outer ones, which a Running names."""

    argv: list[str]
    wanted: Wanted
    given: Pipe = field(default_factory=Pipe)
    said: Pipe = field(default_factory=Pipe)
    complained: Pipe = field(default_factory=Pipe)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    resized: asyncio.Event = field(default_factory=asyncio.Event)
    killed: bool = False
    outlives: bool = False
    left_behind: bool = False  # something that holds the outputs open
    task: "asyncio.Task[int] | None" = None

    @property
    def stdin(self) -> Pipe | None:
        return self.given if self.wanted.stdin else None

    @property
    def stdout(self) -> Pipe | None:
        return self.said if self.wanted.stdout else None

    @property
    def stderr(self) -> Pipe | None:
        return self.complained if self.wanted.stderr and not self.wanted.tty else None

    async def resize(self, width: int, height: int) -> None:
        if self.wanted.tty and width and height:
            self.sizes.append((width, height))
            self.resized.set()

    async def exited(self) -> int:
        assert self.task is not None
        return await asyncio.shield(self.task)

    async def say(self, data: bytes) -> None:
        if self.wanted.stdout:
            await self.said.write(data)

    async def complain(self, data: bytes) -> None:
        if self.wanted.tty:
            await self.say(data)
        elif self.wanted.stderr:
            await self.complained.write(data)


Program = Callable[[FakeCommand], Awaitable[int]]


async def _cat(command: FakeCommand) -> int:
    while command.wanted.stdin and (data := await command.given.read()):
        await command.say(data)
    return 0


async def _echo(command: FakeCommand) -> int:
    await command.say(" ".join(command.argv[1:]).encode() + b"\n")
    return 0


async def _false(command: FakeCommand) -> int:
    await command.complain(b"no\n")
    return int(command.argv[1]) if command.argv[1:] else 1


async def _yes(command: FakeCommand) -> int:
    while True:
        await command.say(b"y\n" * (PIPE // 2))


async def _sleep(_: FakeCommand) -> int:
    await asyncio.Event().wait()
    return 0


async def _size(command: FakeCommand) -> int:
    await command.resized.wait()
    await command.say(b"%d %d\n" % command.sizes[-1])
    return 0


PROGRAMS: Mapping[str, Program] = {
    "cat": _cat,
    "echo": _echo,
    "false": _false,
    "yes": _yes,
    "sleep": _sleep,
    "size": _size,
}


class FakeCommands:
    """Runs `programs` by their name instead of processes."""

    def __init__(self) -> None:
        self.programs = dict(PROGRAMS)
        self.ran: list[FakeCommand] = []

    @asynccontextmanager
    async def run(
        self,
        handler: Handler,
        id: str,
        process: Mapping[str, Any],
        wanted: Wanted,
        *,
        outlive: bool = False,
    ) -> AsyncIterator[Running]:
        program = self.programs.get(process["args"][0])
        if program is None:
            raise ToolFailed([handler.path, "exec", id], 1, f"executable file {process['args'][0]} not found")
        command = FakeCommand(list(process["args"]), wanted)
        self.ran.append(command)
        command.task = asyncio.get_running_loop().create_task(_to_the_end(command, program))
        try:
            yield command
        finally:
            command.outlives = outlive and not command.task.done()
            if outlive:
                await command.given.end()
            command.killed = not outlive and not command.task.done()
            if not outlive:
                command.task.cancel()
                await asyncio.wait([command.task])


async def _to_the_end(command: FakeCommand, program: Program) -> int:
    try:
        return await program(command)
    except BrokenPipeError:
        return 141
    finally:
        command.given.break_off()
        for output in () if command.left_behind else (command.said, command.complained):
            with suppress(BrokenPipeError):
                await output.end()


class FakeContainer:
    """A container that clients share: it repeats its input, says "over" at its end, and what a test has it say."""

    def __init__(self, *, stdin: bool = False, stdin_once: bool = False, terminal: bool = False) -> None:
        self.listens = stdin
        self._once = stdin_once and not terminal
        self._ended = asyncio.Event()
        self._clients: list[FakeCommand] = []

    def join(self, client: FakeCommand) -> None:
        self._clients.append(client)
        if not self.listens:
            client.given.break_off()

    async def serve(self, client: FakeCommand) -> int:
        """Stay with a client that has joined."""
        try:
            async with asyncio.timeout(None) as over, asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen(client, over))
                await self._ended.wait()
                listening.cancel()
        except TimeoutError:  # its input has ended, and the container's has not
            pass
        finally:
            self._clients.remove(client)
            if client.wanted.stdin and self._once:
                await self._end_input()
        return 0

    async def _listen(self, client: FakeCommand, over: asyncio.Timeout) -> None:
        if not client.wanted.stdin or not self.listens:
            return
        while data := await client.given.read():
            await self.say(data)
        if self._once:
            await self._end_input()
        else:
            over.reschedule(asyncio.get_running_loop().time())

    async def _end_input(self) -> None:
        if self.listens:
            self.listens = False
            for client in self._clients:
                client.given.break_off()
            await self.say(b"over\n")

    async def say(self, data: bytes) -> None:
        for client in list(self._clients):
            await client.say(data)

    async def complain(self, data: bytes) -> None:
        for client in list(self._clients):
            await client.complain(data)

    def end(self) -> None:
        self._ended.set()


class FakeAttachments:
    """`containers` by their ids; or else a program of its own for each client, under the id in `programs`."""

    def __init__(self) -> None:
        self.containers: dict[str, FakeContainer] = {}
        self.programs: dict[str, Program] = {}
        self.clients: list[FakeCommand] = []

    @asynccontextmanager
    async def attach(self, id: str, wanted: Wanted) -> AsyncIterator[Running]:
        shared = self.containers.get(id)
        program = shared.serve if shared else self.programs.get(id)
        if program is None:
            raise NotFound(f"nothing watches container {id}")
        command = FakeCommand([id], wanted)
        self.clients.append(command)
        if shared:
            shared.join(command)
        command.task = asyncio.get_running_loop().create_task(_to_the_end(command, program))
        await asyncio.sleep(0)  # what has never begun would not be ended either
        try:
            yield command
        finally:
            if not shared:  # it takes what it has been told, as a container does
                await command.given.end()
                command.said.break_off()
                await asyncio.wait([command.task], timeout=2)
            command.task.cancel()
            await asyncio.wait([command.task])


@dataclass
class FakeConnection:
    """What the client's side of a port is given; `theirs` is the port's."""

    source: Pipe = field(default_factory=Pipe)
    sink: Pipe = field(default_factory=Pipe)
    closed: bool = False

    async def close(self) -> None:
        self.closed = True
        await self.sink.end()


class FakeDialer:
    """`ports` listen, by network namespace and number: an echo, unless a test gives something else."""

    def __init__(self) -> None:
        self.ports: dict[tuple[str, int], Callable[[FakeConnection], Awaitable[None]]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def dial(self, netns: str, port: int) -> Connection:
        serve = self.ports.get((netns, port))
        if serve is None:
            raise Unavailable(f"nobody listens on port {port}: tried 127.0.0.1 and ::1")
        connection = FakeConnection()
        task = asyncio.get_running_loop().create_task(_served(serve, connection))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return connection


async def _served(serve: Callable[[FakeConnection], Awaitable[None]], connection: FakeConnection) -> None:
    await serve(connection)


async def echo(connection: FakeConnection) -> None:
    """A port that answers what it is told."""
    while data := await connection.sink.read():
        await connection.source.write(data)
    await connection.source.end()
