"""A person's side of a session with a command or a container: keyboard or pipe in, output out, until the last word.

One loop, no threads: input is read while the connection takes it, the connection while the output is taken, so that
nothing piles up. Writing to standard output waits, as in any filter.
"""

import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import click

from sampan.cli import link, terminal
from sampan.cli.detach_keys import DetachKeys
from sampan.cli.invocation import Failed
from sampan.cli.link import CHUNK, Link
from sampan.cli.signals import Interrupted, Signals
from sampan.cli.terminal import RawTerminal
from sampan.wire.protocol_error import ProtocolError
from sampan.wire.remotecommand import client as remote
from sampan.wire.remotecommand.channels import Channel
from sampan.wire.remotecommand.status import Status
from sampan.wire.upgrade import BROKEN, Refused

STDIN, STDOUT, STDERR = 0, 1, 2
_HOLD_SECONDS = 1.0  # that a beginning of the detach keys is kept from the other side
_LEAVE_SECONDS = 2.0  # that the daemon has to end what ran in a session that we end
_REDRAW_SECONDS = 0.05  # between two sizes: of sizes that come at once only the last one counts


@dataclass
class Console:
    """What of this process a session has."""

    stdin: int | None = None  # a descriptor to read
    sized: int | None = None  # the terminal whose size the other side is told
    raw: RawTerminal | None = None  # to be raw as long as the session lasts
    keys: DetachKeys = field(default_factory=lambda: DetachKeys(b""))
    redraw: bool = False  # what is on the other side's screen is not on ours yet
    tells_end: bool = True  # of the input; the other side may end the session at that


def console(*, stdin: bool, tty: bool, keys: bytes = b"", redraw: bool = False) -> Console:
    """What a session with or without input and terminal needs of this process. Only a person's terminal is made raw
    and has detach keys: from a pipe every byte is meant for the other side."""
    # A descriptor 0 that was closed when we began may be anything by now.
    source = STDIN if sys.stdin is not None else os.open(os.devnull, os.O_RDONLY)
    person = stdin and tty and os.isatty(source)
    return Console(
        stdin=source if stdin else None,
        sized=next((fd for fd in (STDOUT, STDIN) if tty and terminal.size(fd)), None),
        raw=RawTerminal(STDIN) if person else None,
        keys=DetachKeys(keys if person else b""),
        redraw=redraw,
    )


def attend(
    url: str, console: Console, signals: Signals, begun: Callable[[], object] = lambda: None
) -> Status | None:
    """The session at `url` from its beginning to its end; None if the person left it with the detach keys. `begun` is
    called once the daemon has agreed. Raises Failed, and Interrupted when one of `signals` has ended it."""
    where = urlsplit(url)
    client = remote.Client(link.target(where), where.netloc)
    with ExitStack() as stack:
        stack.enter_context(signals)
        connection = link.connect(where)
        stack.callback(connection.close)
        session = Session(connection, client, signals, console)
        try:
            session.begin()
            begun()
            if console.raw is not None:
                stack.enter_context(console.raw)
            return session.run()
        except Interrupted:
            session.leave()
            raise


class Session:
    """One session over a connection."""

    def __init__(self, connection: Link, client: remote.Client, signals: Signals, console: Console) -> None:
        self._link = connection
        self._client = client
        self._signals = signals
        self._console = console
        self._stdin: int | None = None
        self._held_since = 0.0
        self._started = False
        self._can_end_input = True
        self._detached = False
        self._status: Status | None = None

    def begin(self) -> None:
        """Until the daemon has agreed, and knows the terminal's size. Raises Failed."""
        deadline = time.monotonic() + link.CONNECT_SECONDS
        self._link.push(self._client.to_send())
        try:
            while not self._started:
                self._step(self._wait(deadline))
                if time.monotonic() >= deadline:
                    raise Failed(link.NO_ANSWER)
        except Refused as refusal:
            advice = self._link.advice if refusal.status == BROKEN else ""
            raise Failed(f"the daemon refuses the session: {refusal}{advice}") from None
        self._tell_size(redraw=self._console.redraw)

    def run(self) -> Status | None:
        """How it ended, None if the person left it. Raises Interrupted and Failed."""
        self._stdin = self._console.stdin
        while self._status is None and not self._detached:
            self._step(self._wait())
        if self._detached:
            self.leave()
        return self._status

    def _wait(self, until: float | None = None) -> set[int]:
        """Descriptors with something to do; by `until` at the latest, or when held keys are to be passed on."""
        waiting = select.poll()
        waiting.register(self._signals, select.POLLIN)
        waiting.register(self._link, self._link.events())
        if self._stdin is not None and self._link.waiting < CHUNK:
            waiting.register(self._stdin, select.POLLIN)
        if self._console.keys.held:
            until = self._held_since + _HOLD_SECONDS
        left = None if until is None else max(0.0, until - time.monotonic()) * 1000
        return {fd for fd, _ in waiting.poll(left)}

    def _step(self, ready: set[int]) -> None:
        if self._signals.fileno() in ready:
            self._on_signals(self._signals.take())
        if self._link.fileno() in ready:
            self._exchange()
        if self._stdin is not None and self._stdin in ready:
            self._read_input(self._stdin)
        elif self._console.keys.held and time.monotonic() >= self._held_since + _HOLD_SECONDS:
            self._client.send_input(self._console.keys.release())
        self._link.push(self._client.to_send())

    def _on_signals(self, came: set[int]) -> None:
        if came and self._stdin is not None and self._console.raw is not None:
            self._console.raw.again()
        if came:
            self._tell_size()

    def _tell_size(self, *, redraw: bool = False) -> None:
        """With `redraw`, first another size: programs draw their screen anew when it changes."""
        size = terminal.size(self._console.sized) if self._console.sized is not None else None
        if size is None:
            return
        if redraw:
            self._client.resize(size[0], size[1] + 1)
            self._link.push(self._client.to_send())
            time.sleep(_REDRAW_SECONDS)
        self._client.resize(*size)
        self._link.push(self._client.to_send())

    def _read_input(self, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:  # who shares it with us has made it so
            return
        except OSError:  # EIO: the terminal is gone
            data = b""
        passed, self._detached = self._console.keys.feed(data)
        self._held_since = time.monotonic()
        if not data:
            passed = self._console.keys.release()
        if passed:
            self._client.send_input(passed)
        if not data:
            self._stdin = None
            if not self._console.tells_end:
                return
            self._client.end_input()
            if not self._can_end_input:
                click.echo("sampan: this daemon cannot be told that the input has ended", err=True)

    def _exchange(self) -> None:
        self._link.flush()
        while (data := self._link.receive()) is not None:
            try:
                self._act(self._client.receive(data))
            except ProtocolError as error:
                raise Failed(f"the daemon broke the protocol of the session: {error}") from None
            if self._status is not None or not self._link.more():
                return

    def _act(self, events: Sequence[remote.Event]) -> None:
        for event in events:
            match event:
                case remote.Output(channel, data):
                    self._signals.write_all(STDERR if channel is Channel.STDERR else STDOUT, data)
                case remote.Finished(status):
                    self._status = status
                case remote.Left(reason) if self._status is None:
                    raise Failed(f"the session broke off, and how its command ended is not known: {reason}")
                case remote.Started(can_end_input):
                    self._started = True
                    self._can_end_input = can_end_input

    def leave(self) -> None:
        """End the session if it has begun, and wait until the daemon has: what ends with it is gone then."""
        if not self._started:
            return
        self._client.leave()
        self._link.push(self._client.to_send())
        self._link.end()
        deadline = time.monotonic() + _LEAVE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            waiting = select.poll()
            waiting.register(self._link, select.POLLIN)
            waiting.poll(left * 1000)
            if self._link.receive() == b"":
                return
