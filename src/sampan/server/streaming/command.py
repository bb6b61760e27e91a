"""One exec or attach session: what the client says goes to the command, what the command says to the client.

Each direction waits for whoever is slower, and none for another: a client may resize and leave while its input is
stuck. Whatever ends the session ends all of it: the block of the command is left, which is what kills it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

from sampan.model.errors import SampanError, ToolFailed
from sampan.runtime.stream_ports import Running, Sink, Source
from sampan.server.streaming.connection import FLUSH_SECONDS, Data, Wire
from sampan.server.streaming.pace import Pace
from sampan.wire.protocol_error import ProtocolError
from sampan.wire.remotecommand.channels import (
    Channel,
    Event,
    Input,
    InputEnd,
    Left,
    Ready,
    RemoteCommand,
    Resize,
)
from sampan.wire.remotecommand.status import Status

log = logging.getLogger("sampan.streaming")

READY_SECONDS = 30.0  # for a client to open its streams
WAITING = 512 << 10  # bytes of input that wait for the command before the client does
BACKLOG = 256 << 10  # bytes of output that wait for a client's permission before the command does
ORPHAN_SECONDS = 2.0  # for a word of what the command left behind with its output
ORPHAN_BYTES = 4 << 20  # of it after the command's end; more than any pipe holds
LEFT_SECONDS = 5.0  # for input to be taken whose client has gone
ENDING_SECONDS = 1.0  # the same when the daemon ends, or the client has gone


class Over(Exception):
    """The session has ended before its command; the text says why."""


class ClientLeft(Over):
    """It will read no last word."""


class CommandSession:
    """`run` is the command's block. With `keep_input` what a client said before it left still reaches the command."""

    def __init__(
        self,
        wire: Wire,
        talk: RemoteCommand,
        run: Callable[[], AbstractAsyncContextManager[Running]],
        *,
        keep_input: bool = False,
    ) -> None:
        self._wire = wire
        self._talk = talk
        self._run = run
        self._keep_input = keep_input
        self._pace = Pace()
        self._input: deque[Data] = deque()
        self._waiting = 0
        self._input_ended = self._deaf = self._finished = False
        self._said = self._blocked = 0
        self._size: tuple[int, int] | None = None
        self._ready = asyncio.Event()
        self._fed = asyncio.Event()  # there is input, or its end
        self._taken = asyncio.Event()  # there is room for input
        self._resized = asyncio.Event()
        self._allowed = asyncio.Event()  # the client has said something: its window may be wider

    async def serve(self) -> str:
        """Until the session is over and its connection closed; returns how it ended, for the log. Never raises for
        what a client or a command does."""
        try:
            words = await self._served()
        except asyncio.CancelledError:
            self._last_word(Status(failure="the container runtime is ending, and this session with it"))
            await self._wire.close(ENDING_SECONDS, ENDING_SECONDS)
            raise
        except BaseExceptionGroup as group:
            words = self._broken_off(group)
            await self._wire.close(ENDING_SECONDS)
        else:
            await self._wire.close()
        return words

    # --- the whole --------------------------------------------------------------------------------------------

    async def _served(self) -> str:
        async with asyncio.TaskGroup() as group:
            self._wire.when_hung_up(self._taken.set)
            watching = [group.create_task(self._listen()), group.create_task(self._watch_idle())]
            await self._until_ready()
            status = await self._status(group)
            self._last_word(status)
            await self._until_allowed_all()
            for task in watching:
                task.cancel()
        return status.failure or f"exit code {status.code}"

    def _broken_off(self, group: BaseExceptionGroup) -> str:
        """Tell the client why, if it still listens; the words for the log."""
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, (Over, ProtocolError)):
            log.error("a session failed by a fault of sampan's own", exc_info=error)
            error = Over("a fault of sampan's own; its log has the details")
        if isinstance(error, Over) and not isinstance(error, ClientLeft):
            self._last_word(Status(failure=str(error)))
        self._wire.write(self._talk.to_send())
        return str(error)

    async def _until_ready(self) -> None:
        for event in self._talk.start():
            self._take(event)
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._ready.wait()
        except TimeoutError:
            raise Over(f"the client has not opened its streams within {READY_SECONDS:g} s") from None

    async def _status(self, group: asyncio.TaskGroup) -> Status:
        """Run the command to its end, and its output to the client."""
        try:
            async with self._run() as running:
                return Status(code=await self._with(running, group))
        except ToolFailed as error:
            return Status(failure=error.stderr or str(error))
        except SampanError as error:
            return Status(failure=str(error))

    async def _with(self, running: Running, group: asyncio.TaskGroup) -> int:
        inputs = [group.create_task(self._resize(running))]
        self._deaf = running.stdin is None
        if running.stdin is not None:
            inputs.append(group.create_task(self._feed(running.stdin)))
        outputs = {
            group.create_task(self._pump(channel, source))
            for channel, source in ((Channel.STDOUT, running.stdout), (Channel.STDERR, running.stderr))
            if source is not None
        }
        try:
            try:
                code = await running.exited()
            except ToolFailed:  # it may have said more on the way than its log has
                await self._remaining(outputs)
                raise
            await self._remaining(outputs)
        finally:
            for task in (*inputs, *outputs):
                task.cancel()
        return code

    async def _remaining(self, outputs: set[asyncio.Task[None]]) -> None:
        """Until all that the command has said is with the client. What it left behind may hold its output open: that is
        waited for while it is silent, and listened to, only for a while."""
        begin = self._said
        while outputs and self._said - begin < ORPHAN_BYTES:
            said = self._said
            _, outputs = await asyncio.wait(outputs, timeout=ORPHAN_SECONDS)
            if said == self._said and not self._blocked:
                return

    # --- from the client --------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            while self._waiting >= WAITING and not self._wire.hung_up:
                self._taken.clear()
                await self._taken.wait()
            data = await self._wire.receive()
            left = None if data else Left("the connection has ended")
            for portion in self._pace.portions(data):
                with self._pace:
                    left = self._receive(portion) or left
                if left is not None:
                    await self._take_leave()
                    raise ClientLeft(f"the client left: {left.reason}")
                await self._pace.rest()

    def _receive(self, data: Data) -> Left | None:
        left = None
        for event in self._talk.receive(data):
            if isinstance(event, Left):
                left = event
            else:
                self._take(event)
        self._wire.write(self._talk.to_send())
        self._allowed.set()
        return left

    def _take(self, event: Event) -> None:
        match event:
            case Ready():
                self._ready.set()
            case Input(data) if self._deaf:
                self._talk.consumed(len(data))
            case Input(data):
                # a slice keeps all that it was cut from: a small one is copied
                small = isinstance(data, memoryview) and 2 * len(data) < memoryview(data.obj).nbytes
                self._input.append(bytes(data) if small else data)
                self._waiting += len(data)
                self._fed.set()
            case InputEnd():
                self._input_ended = True
                self._fed.set()
            case Resize(width, height):
                self._size = (width, height)
                self._resized.set()

    async def _take_leave(self) -> None:
        """Let the command have what its client said last, where it goes on without it."""
        if not self._keep_input:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LEFT_SECONDS):
                while self._waiting and not self._deaf:
                    self._taken.clear()
                    await self._taken.wait()

    async def _watch_idle(self) -> None:
        await self._wire.until_idle()
        raise Over(f"nothing was said for {self._wire.idle:g} s")

    # --- to and from the command ------------------------------------------------------------------------------

    async def _feed(self, sink: Sink) -> None:
        try:
            while True:
                while self._input:
                    data = self._input[0]
                    await sink.write(data)
                    self._input.popleft()
                    self._pass_on(len(data))
                if self._input_ended:
                    await sink.end()
                    return
                self._fed.clear()
                await self._fed.wait()
        except (BrokenPipeError, ConnectionError):
            self._deaf = True  # it reads no more; what is said to it is dropped, as a shell's pipe would
            self._input.clear()
            self._pass_on(self._waiting)

    def _pass_on(self, count: int) -> None:
        self._waiting -= count
        self._talk.consumed(count)
        self._wire.write(self._talk.to_send())
        if self._waiting < WAITING:
            self._taken.set()

    async def _resize(self, running: Running) -> None:
        while True:
            await self._resized.wait()
            self._resized.clear()
            if self._size is not None:
                await running.resize(*self._size)

    async def _pump(self, channel: Channel, source: Source) -> None:
        try:
            while data := await source.read():
                self._said += len(data)
                self._talk.send(channel, data)
                self._wire.write(self._talk.to_send())
                self._blocked += 1
                await self._wire.drain()
                await self._until_allowed(BACKLOG)
                self._blocked -= 1
        except ConnectionResetError as error:
            raise ClientLeft(f"the client left: {error}") from error

    async def _until_allowed(self, limit: int) -> None:
        """Until the client lets us send all but `limit` bytes of what waits for it."""
        while self._talk.backlog() > limit:
            self._allowed.clear()
            await self._allowed.wait()

    async def _until_allowed_all(self) -> None:
        """The same for the last bytes, as long as the client allows any of them."""
        left = -1
        while (backlog := self._talk.backlog()) not in (0, left):
            left = backlog
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._until_allowed(0)

    def _last_word(self, status: Status) -> None:
        if self._finished:
            return
        self._finished = True
        self._talk.finish(status)
        self._wire.write(self._talk.to_send())
