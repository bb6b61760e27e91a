"""What a port-forward session says, whatever carries it: connections by number, each to one port of the pod.

Every carrier (SPDY stream pairs, WebSocket channels, SPDY in WebSocket) is a `PortForward`: bytes in, events out. None
owns a socket or a clock. Source: Kubernetes' portforward.k8s.io protocols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Data = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Opened:
    """The client wants a new connection to this port; `connection` is its number in this session, never used again."""

    connection: int
    port: int


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes for the port."""

    connection: int
    data: Data


@dataclass(frozen=True, slots=True)
class HalfClosed:
    """The client has no more bytes for the port; it goes on reading."""

    connection: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """The client gave this connection up; nothing comes for it any more, and nothing need be sent."""

    connection: int


@dataclass(frozen=True, slots=True)
class Left:
    """The client has closed the session, or the connection ended. Nothing comes after it."""

    reason: str


Event = Opened | Received | HalfClosed | Dropped | Left


class PortForward(Protocol):
    """One session on one connection, server side."""

    half_closes: (
        bool  # `end` reaches the client; otherwise it learns that the port has ended by `close` alone
    )

    @property
    def incomplete(self) -> bool:
        """The client has begun something and not said all that belongs to it: `forget_incomplete` after a while."""

    @property
    def over(self) -> bool:
        """No connection is left, and none can come: what is in `to_send` is the last."""

    def forget_incomplete(self) -> None:
        """Give up what was `incomplete` at the call before this one too."""

    def start(self) -> Sequence[Event]:
        """What is to be known before any byte: the connections of a session that names its ports at the beginning."""

    def receive(self, data: Data) -> Sequence[Event]:
        """Take bytes from the client, b"" for the end of the connection. Raises ProtocolError (remotecommand.channels)
        for what no client may say; `to_send` then still has what tells the client so."""

    def send(self, connection: int, data: Data) -> None:
        """Bytes from the port. Nothing happens for a connection that the client has dropped."""

    def end(self, connection: int) -> None:
        """The port has no more bytes; the client may go on sending."""

    def fail(self, connection: int, words: str) -> None:
        """Tell the client why this connection cannot go on, on its error channel, and end it. The session goes on."""

    def close(self, connection: int) -> None:
        """Both sides are done with it."""

    def consumed(self, connection: int, count: int) -> None:
        """`count` bytes have been passed on to the port: the client may send as many more."""

    def backlog(self, connection: int) -> int:
        """Bytes that wait here until the client allows them (flow control)."""

    def to_send(self) -> list[Data]:
        """Bytes for the connection, each once."""
