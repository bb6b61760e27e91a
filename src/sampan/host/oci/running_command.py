"""A command that runs in a container for a client: the port `Running`, and its end when the client leaves."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from sampan.host.cgroup.exec_cgroup import ExecGroup
from sampan.host.descriptors import Reader, Writer
from sampan.host.oci import console
from sampan.host.oci.exec_child import ExecChild
from sampan.host.process import DRAIN_SECONDS
from sampan.tasks import both, finish

HANGUP_SECONDS = 0.5  # for a command to end by itself when its terminal is gone


@dataclass
class Streams:
    """Our ends of what a command was given; what its client did not ask for is among the `unwanted`."""

    stdin: Writer | None = None
    stdout: Reader | None = None
    stderr: Reader | None = None
    unwanted: Sequence[Reader] = ()
    terminal: Reader | None = None  # one of these, and its stdin's twin

    def readers(self) -> list[Reader]:
        return [reader for reader in (self.stdout, self.stderr, *self.unwanted) if reader is not None]

    def close(self) -> None:
        for stream in (self.stdin, *self.readers()):
            if stream is not None:
                stream.close()


class RunningCommand:
    """One command. Made by `host.oci.commands`; it is ended by `end`, or left alone by `outlive`."""

    def __init__(self, child: ExecChild, group: ExecGroup, streams: Streams, held: AsyncExitStack) -> None:
        self._child = child
        self._group = group
        self._streams = streams
        self._held = held
        self._last_call: asyncio.TimerHandle | None = None
        child.child.when_exited(self._has_exited)

    @property
    def stdin(self) -> Writer | None:
        return self._streams.stdin

    @property
    def stdout(self) -> Reader | None:
        return self._streams.stdout

    @property
    def stderr(self) -> Reader | None:
        return self._streams.stderr

    async def resize(self, width: int, height: int) -> None:
        """See the port."""
        terminal = self._streams.terminal
        if terminal is not None and terminal.fd >= 0:
            console.resize(terminal.fd, width, height)

    async def exited(self) -> int:
        """See the port."""
        return await self._child.exited()

    def _has_exited(self) -> None:
        """What it left behind may hold its outputs for so long."""
        self._last_call = asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._expire)

    def _expire(self) -> None:
        for reader in self._streams.readers():
            reader.expire()

    @property
    def running(self) -> bool:
        return self._child.child.running

    async def end(self) -> None:
        """Kill it and all that it started, unless it has exited; let go of everything."""
        async with self._held:
            try:
                if self.running:
                    await self._kill()
            finally:
                self._streams.close()
                self._forget()
                await self._child.end()

    async def _kill(self) -> None:
        """By its group, which knows what left the command's family; one with a terminal is hung up first, as when a
        person closes a window."""
        if self._streams.terminal is not None and self._group.tracks:
            self._streams.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(HANGUP_SECONDS):
                    await self._child.child.exited()
        await self._group.kill()

    def _forget(self) -> None:
        if self._last_call is not None:
            self._last_call.cancel()

    async def outlive(self) -> None:
        """Let it run to its end, with no more input and with nobody to read what it says. Being cancelled leaves it
        to itself."""
        try:
            if self.stdin is not None:
                await self.stdin.end()
            await both(drained(self.stdout), drained(self.stderr))
            await self._child.child.exited()
        finally:
            self._streams.close()
            self._forget()
            await finish(self._leave())

    async def _leave(self) -> None:
        async with self._held:
            if self.running:
                self._child.leave()
            else:
                await self._child.end()


async def drained(output: Reader | None) -> None:
    """Read to the end, for nobody."""
    while output is not None and await output.read():
        pass
