"""A listener with everything behind it but real containers: sessions over real sockets, commands that are fakes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from sampan.config import Streaming as Keys
from sampan.runtime.streaming import ExecIn, Operation, Streaming
from sampan.server.streaming.listener import Listener
from sampan.server.streaming.sessions import Sessions
from sampan.server.streaming.tokens import Tokens
from sampan.wire.remotecommand.channels import Wanted
from tests.fake_streams import FakeAttachments, FakeCommands, FakeDialer
from tests.runtime.system import System, wire
from tests.stream_clients import Client

ALL = Wanted(stdin=True, stdout=True, stderr=True)
TERMINAL = Wanted(stdin=True, stdout=True, tty=True)


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@dataclass
class Lab:
    """A daemon's sessions. `pod` is a ready pod, `container` one that runs in it."""

    system: System
    streaming: Streaming
    tokens: Tokens
    sessions: Sessions
    listener: Listener
    pod: str
    container: str

    @property
    def commands(self) -> FakeCommands:
        return cast(FakeCommands, self.system.machine.commands)

    @property
    def attachments(self) -> FakeAttachments:
        return cast(FakeAttachments, self.system.machine.attachments)

    @property
    def dialer(self) -> FakeDialer:
        return cast(FakeDialer, self.system.machine.dialer)

    async def url(self, *command: str, wanted: Wanted = ALL) -> str:
        return self.listener.url(await self.streaming.exec(self.container, command, wanted))

    async def exec(self, carrier: str, *command: str, wanted: Wanted = ALL, **more: Any) -> Client:
        return await Client.connect(carrier, await self.url(*command, wanted=wanted), wanted, **more)

    async def attach(self, carrier: str, wanted: Wanted = ALL) -> Client:
        url = self.listener.url(await self.streaming.attach(self.container, wanted))
        return await Client.connect(carrier, url, wanted)

    def operation(self, *command: str) -> Operation:
        return ExecIn(self.container, command, ALL)


@asynccontextmanager
async def lab(**keys: Any) -> AsyncIterator[Lab]:
    """A lab whose streaming section has these keys; closed at the end."""
    system = wire()
    system.config = replace(system.config, streaming=replace(Keys(), **keys))
    streaming = Streaming(system.config, system.state, system.machine, system.exec)
    outlive = not system.config.streaming.end_exec_with_client
    sessions = Sessions(streaming, system.machine.dialer, keep_input=outlive)
    tokens = Tokens()
    listener = Listener(system.config.streaming, tokens, sessions.serve)
    pod = await system.pod()
    container = await system.started(pod)
    await listener.open()
    try:
        yield Lab(system, streaming, tokens, sessions, listener, pod, container)
    finally:
        await listener.close()
        await system.tasks.stop()
