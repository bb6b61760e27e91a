"""Local ports and the connections to them, carried by one session to a pod: a pair of SPDY streams for each.

One connection that fails, or whose reader sleeps, is its own affair. The end of the session is the end of its
connections; the next one that comes opens a new session. Source: Kubernetes, client-go tools/portforward.
"""

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

import click

from sampan.cli.invocation import Failed
from sampan.cli.link import Link
from sampan.cli.signals import Signals
from sampan.cli.tables import printable
from sampan.wire.protocol_error import ProtocolError
from sampan.wire.spdy import session as spdy

_ONE_LIMIT = 1 << 20  # bytes on the way to the pod that one connection may have waiting
_WINDOW = spdy.Limits().window  # bytes that a daemon which keeps windows sends to one that does not read
_ALL_LIMIT = (
    8 << 20
)  # bytes beyond their windows, of all connections together, before the session is left unread
_PAUSE = 1.0  # seconds before the next accept, where no descriptor is left
_WORDS_LIMIT = 4 << 10
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@dataclass(frozen=True, slots=True)
class Listener:
    """A local port and the port of the pod that it stands for."""

    socket: socket.socket
    port: int

    def __str__(self) -> str:
        host, port = self.socket.getsockname()[:2]
        return f"{f'[{host}]' if ':' in host else host}:{port} -> {self.port}"


@dataclass(slots=True)
class _Connection:
    """A local connection; `stream` is its data stream in the session."""

    link: Link
    stream: int
    owed: int = 0  # bytes that came for it and that the pod's side has not been told are taken
    agreed: bool = False  # Kubernetes' own server loses what comes before it has replied
    sent_all: bool = False
    got_all: bool = False


@dataclass(slots=True)
class _Complaint:
    """What an error stream says, about which data stream."""

    name: str
    stream: int
    words: bytearray = field(default_factory=bytearray)


class _Carrier:
    """A session: its connection to the daemon, and its streams."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.spdy = spdy.Session(server=False)
        self.connections: dict[int, _Connection] = {}  # by data stream
        self.complaints: dict[int, _Complaint] = {}  # by error stream
        self._requests = 0

    def open(self, link: Link, listener: Listener) -> _Connection:
        """A new pair of streams: the one for errors first, which we never write to."""
        common = (("port", str(listener.port)), ("requestid", str(self._requests)))
        self._requests += 1
        error = self.spdy.open((("streamtype", "error"), *common), fin=True)
        data = self.spdy.open((("streamtype", "data"), *common))
        self.complaints[error] = _Complaint(str(listener), data)
        made = self.connections[data] = _Connection(link, data)
        return made


class Forwarder:
    """Runs until a signal ends it. `connect` opens a session's connection, upgraded, and gives what has come on it
    already; it raises Failed."""

    def __init__(
        self, listeners: list[Listener], connect: Callable[[], tuple[Link, bytes]], signals: Signals
    ) -> None:
        self._listeners = {each.socket.fileno(): each for each in listeners}
        self._connect = connect
        self._signals = signals
        self._carrier: _Carrier | None = None
        self._local: dict[int, _Connection] = {}  # by the descriptor of the local socket
        self._accepts_at = 0.0  # again; 0 for now
        self._short = False  # of descriptors, which has been said
        self._selector = selectors.DefaultSelector()
        for fd in (signals.fileno(), *self._listeners):
            self._selector.register(fd, _READ)

    def start(self) -> None:
        """Open the first session, so that it is known at once if there can be none."""
        link, come = self._connect()
        self._carrier = _Carrier(link)
        if come:
            self._take(self._carrier, come)

    def run(self) -> NoReturn:
        """Until Interrupted."""
        try:
            while True:
                self._round()
        finally:
            self._end_session()
            self._selector.close()

    def _round(self) -> None:
        self._watch()
        left = max(0.0, self._accepts_at - time.monotonic()) if self._accepts_at else None
        for key, _ in self._selector.select(left):
            if key.fd in self._listeners:
                self._accept(self._listeners[key.fd])
            elif key.fd == self._signals.fileno():
                self._signals.take()
            elif self._carrier is not None and key.fd == self._carrier.link.fileno():
                self._exchange(self._carrier)
            elif self._carrier is not None and key.fd in self._local:
                self._serve(self._carrier, self._local[key.fd])
        if self._carrier is not None:
            self._carrier.link.push(self._carrier.spdy.to_send())

    def _watch(self) -> None:
        """Nobody is read whose bytes have nowhere to go."""
        if self._accepts_at and time.monotonic() >= self._accepts_at:
            self._accepts_at = 0.0
            for fd in self._listeners:
                self._selector.register(fd, _READ)
        carrier = self._carrier
        if carrier is None:
            return
        kept = 0
        jammed = carrier.link.waiting >= _ONE_LIMIT
        for each in self._local.values():
            kept += max(0, each.link.waiting - _WINDOW)
            self._want(each.link, not jammed and self._may_read(carrier, each))
        self._want(carrier.link, kept < _ALL_LIMIT)

    def _want(self, link: Link, reads: bool) -> None:
        """Wait for this link only for what can be done with it."""
        events = (_READ if reads else 0) | (_WRITE if link.waiting else 0)
        known = self._selector.get_map().get(link)
        if known is None and events:
            self._selector.register(link, events)
        elif known is not None and not events:
            self._selector.unregister(link)
        elif known is not None and known.events != events:
            self._selector.modify(link, events)

    def _forget(self, link: Link) -> None:
        with suppress(KeyError):
            self._selector.unregister(link)
        link.close()

    # --- local connections ----------------------------------------------------------------------------------

    def _accept(self, listener: Listener) -> None:
        if self._accepts_at:
            return
        try:
            sock, _ = listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it is gone already
            return
        except OSError as error:
            self._pause(listener, error)
            return
        self._short = False
        try:
            if self._carrier is None:
                self.start()
            assert self._carrier is not None
            made = self._carrier.open(Link(sock), listener)
        except (Failed, ProtocolError) as error:
            _say(listener, str(error))
            sock.close()
            return
        self._local[sock.fileno()] = made

    def _pause(self, listener: Listener, error: OSError) -> None:
        """There are no descriptors left: who comes waits in the kernel, which would tell us so without a pause."""
        self._accepts_at = time.monotonic() + _PAUSE
        for fd in self._listeners:
            self._selector.unregister(fd)
        if not self._short:
            self._short = True
            _say(listener, f"new connections have to wait: {error.strerror}")

    def _serve(self, carrier: _Carrier, each: _Connection) -> None:
        each.link.flush()
        if self._may_read(carrier, each):
            data = each.link.receive()
            if data:
                carrier.spdy.send(each.stream, data)
            elif data is not None and not each.link.broken:
                each.sent_all = True
                carrier.spdy.send(each.stream, fin=True)
        self._settle(carrier, each)

    def _may_read(self, carrier: _Carrier, each: _Connection) -> bool:
        return each.agreed and not each.sent_all and carrier.spdy.backlog(each.stream) < _ONE_LIMIT

    def _settle(self, carrier: _Carrier, each: _Connection) -> None:
        """Draw the conclusions of what the local side has taken, or of its having gone."""
        if each.link.broken:
            carrier.spdy.reset(each.stream)
            self._close(carrier, each)
            return
        taken = each.owed - each.link.waiting
        if taken:
            each.owed -= taken
            carrier.spdy.consumed(each.stream, taken)
        if each.got_all and not each.link.waiting:
            each.link.end()
            if each.sent_all:
                self._close(carrier, each)

    def _close(self, carrier: _Carrier, each: _Connection) -> None:
        del self._local[each.link.fileno()]
        del carrier.connections[each.stream]
        self._forget(each.link)

    # --- the session ----------------------------------------------------------------------------------------

    def _exchange(self, carrier: _Carrier) -> None:
        carrier.link.flush()
        while (data := carrier.link.receive()) is not None:
            self._take(carrier, data)
            if self._carrier is None or not carrier.link.more():
                return

    def _take(self, carrier: _Carrier, data: bytes) -> None:
        words = "" if data else "the daemon has ended the session"
        try:
            for event in carrier.spdy.receive(data):
                self._act(carrier, event)
        except ProtocolError as error:
            words = f"the daemon broke the protocol of the session: {error}"
        if words:
            self._end_session()
            click.echo(f"sampan: {words}; the next connection opens a new one", err=True)

    def _act(self, carrier: _Carrier, event: spdy.Event) -> None:
        match event:
            case spdy.Received(stream, data) if stream in carrier.connections:
                self._deliver(carrier, carrier.connections[stream], data)
            case spdy.Replied(stream) if stream in carrier.connections:
                carrier.connections[stream].agreed = True
            case spdy.Received(stream, data):
                if stream in carrier.complaints and len(carrier.complaints[stream].words) < _WORDS_LIMIT:
                    carrier.complaints[stream].words += data
                carrier.spdy.consumed(stream, len(data))
            case spdy.Ended(stream) if stream in carrier.connections:
                carrier.connections[stream].got_all = True
                self._settle(carrier, carrier.connections[stream])
            case spdy.WasReset(stream, _) if stream in carrier.connections:
                self._abandon(carrier, carrier.connections[stream])
            case spdy.Ended(stream) | spdy.WasReset(stream, _) if stream in carrier.complaints:
                self._complain(carrier, carrier.complaints.pop(stream))

    def _deliver(self, carrier: _Carrier, each: _Connection, data: bytes | memoryview) -> None:
        each.owed += len(data)
        # What waits is copied: a piece would keep all that was received with it.
        each.link.push([bytes(data) if each.link.waiting else data])
        self._settle(carrier, each)

    def _abandon(self, carrier: _Carrier, each: _Connection) -> None:
        each.got_all = each.sent_all = True
        self._settle(carrier, each)

    def _complain(self, carrier: _Carrier, complaint: _Complaint) -> None:
        if not complaint.words:
            return
        _say(complaint.name, printable(complaint.words.decode(errors="replace").strip()))
        each = carrier.connections.get(complaint.stream)
        if each is not None:
            carrier.spdy.reset(each.stream)
            self._abandon(carrier, each)

    def _end_session(self) -> None:
        if self._carrier is None:
            return
        for each in list(self._local.values()):
            self._close(self._carrier, each)
        self._forget(self._carrier.link)
        self._carrier = None


def _say(subject: object, words: str) -> None:
    click.echo(f"sampan: {subject}: {words}", err=True)
