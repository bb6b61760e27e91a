"""What an exec or attach session says, whatever carries it: five channels, and who may still say something.

Every carrier (SPDY streams, WebSocket messages) is a `RemoteCommand`: bytes in, events out; words in, bytes out. None
owns a socket or a clock. Sources: Kubernetes' remotecommand protocols, channel.k8s.io to v5.channel.k8s.io.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sampan.wire.protocol_error import ProtocolError as ProtocolError
from sampan.wire.remotecommand.status import Status

Data = bytes | memoryview


class Channel(enum.IntEnum):
    """The channels by their number in WebSocket messages; SPDY names them (`streamType`)."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a session was asked to have. With `tty` there is no stderr of its own."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """Every channel that is needed is there: the command may start. Comes once."""


@dataclass(frozen=True, slots=True)
class Input:
    """Bytes for the command's stdin."""

    data: Data


@dataclass(frozen=True, slots=True)
class InputEnd:
    """The client has no more input (half-close); it goes on reading. Comes at most once."""


@dataclass(frozen=True, slots=True)
class Resize:
    """The client's terminal has this size, in characters."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Left:
    """The client will not read any more: it closed the session, or the connection ended. Nothing comes after it."""

    reason: str


Event = Ready | Input | InputEnd | Resize | Left


class RemoteCommand(Protocol):
    """One session on one connection, server side."""

    def receive(self, data: Data) -> Sequence[Event]:
        """Take bytes from the connection, b"" for its end. Raises ProtocolError for what no client may say; `to_send`
        then still has what tells the client so, and the connection is to be closed after that."""

    def start(self) -> Sequence[Event]:
        """What is to be known before any byte: `Ready` where a session has all its channels at once."""

    def send(self, channel: Channel, data: Data) -> None:
        """Output, stdout or stderr. Nothing happens for a channel that the session does not have."""

    def finish(self, status: Status) -> None:
        """The last word, on the error channel; all channels end. Nothing may be sent after it."""

    def consumed(self, count: int) -> None:
        """`count` bytes of `Input` have been passed on: the client may send as many more."""

    def backlog(self) -> int:
        """Bytes of output that wait here until the client allows them (flow control)."""

    def to_send(self) -> list[Data]:
        """Bytes for the connection, each once."""
