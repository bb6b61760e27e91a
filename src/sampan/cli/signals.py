"""Signals as events for a poll loop: what ends a session, the end of its time too, and what changes its terminal.

They never raise, so that what must be put back is put back, but for one place: a blocking write inside `write_all`.
"""

import contextlib
import os
import select
import signal
import socket
from types import FrameType
from typing import Any, Self

import click

from sampan.cli.invocation import OUT_OF_TIME, Failed

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
TERMINAL = (signal.SIGWINCH, signal.SIGCONT)


class Interrupted(Exception):
    """One of `ENDING` has come; its exit code is 128 + `number`. Out of time is SIGALRM, and 124."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.exit_code = OUT_OF_TIME if number == signal.SIGALRM else 128 + number

    def tell(self, what: str, seconds: float) -> int:
        """Say so, unless it was the person, who knows; the exit code."""
        if self.exit_code == OUT_OF_TIME:
            click.echo(f"sampan: {what} was ended after {seconds:g} s", err=True)
        return self.exit_code


class Signals:
    """A context manager; `fileno` is readable once one has come. Those that were ignored before (nohup) stay so.

    `seconds`: for the whole of it, 0 without end. Who handles some of `ENDING` itself leaves them out of `ending`;
    they make it readable all the same.
    """

    def __init__(self, seconds: float = 0.0, ending: tuple[int, ...] = ENDING) -> None:
        self._seconds = seconds
        self._ending = ending
        self._timer_before = (0.0, 0.0)
        self._came: set[int] = set()
        self._ended_by = 0
        self._may_raise = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (*self._ending, *TERMINAL, *((signal.SIGALRM,) if self._seconds else ())):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        if self._seconds:
            self._timer_before = signal.setitimer(signal.ITIMER_REAL, self._seconds)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._seconds:
            signal.setitimer(signal.ITIMER_REAL, *self._timer_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        return self._reader.fileno()

    def take(self) -> set[int]:
        """Those that came since the last time, each once. Raises Interrupted for one that ends the session."""
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass
        if self._ended_by:
            raise Interrupted(self._ended_by)
        came, self._came = self._came, set()
        return came

    def write_all(self, fd: int, data: bytes | memoryview) -> None:
        """Write all of it, however long its reader takes; Interrupted ends that."""
        rest = memoryview(data)
        self._may_raise = True
        try:
            if self._ended_by:
                raise Interrupted(self._ended_by)
            while rest:
                try:
                    rest = rest[os.write(fd, rest) :]
                except BlockingIOError:  # who shares it with us has made it so
                    _until_writable(fd)
                except BrokenPipeError:
                    raise
                except OSError as error:
                    name = "standard error" if fd == 2 else "standard output"
                    raise Failed(f"{name} cannot be written: {error.strerror}") from None
        finally:
            self._may_raise = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in TERMINAL:
            self._came.add(number)
            return
        self._ended_by = self._ended_by or number
        if self._may_raise:
            raise Interrupted(self._ended_by)


def _until_writable(fd: int) -> None:
    waiting = select.poll()
    waiting.register(fd, select.POLLOUT)
    waiting.poll()
