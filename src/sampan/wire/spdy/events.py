"""What a SPDY session tells about its peer. Streams go by their numbers, which are never used again."""

from dataclasses import dataclass

from sampan.wire.spdy.frames import Data
from sampan.wire.spdy.headers import Headers


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer opened a stream. With `fin` it will send nothing on it; an `Ended` follows."""

    stream: int
    headers: Headers
    fin: bool


@dataclass(frozen=True, slots=True)
class Replied:
    """The peer accepted a stream of ours. With `fin` it will send nothing on it; an `Ended` follows."""

    stream: int
    headers: Headers
    fin: bool


@dataclass(frozen=True, slots=True)
class MoreHeaders:
    """Headers amid a stream. With `fin`, an `Ended` follows."""

    stream: int
    headers: Headers
    fin: bool


@dataclass(frozen=True, slots=True)
class Received:
    """Some payload, never empty. A memoryview is a slice of what `receive` was given: it lives as long as that."""

    stream: int
    data: Data


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer has nothing more to send on this stream; it goes on reading. Comes once, not after `WasReset`."""

    stream: int


@dataclass(frozen=True, slots=True)
class WasReset:
    """The stream is gone, both ways: the peer reset it, or broke its rules. The last event of a stream."""

    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Pinged:
    """The answer to our ping."""

    id: int


@dataclass(frozen=True, slots=True)
class WentAway:
    """The peer accepts no new streams; it has seen ours up to `last`, and those go on."""

    last: int
    status: int


Event = Opened | Replied | MoreHeaders | Received | Ended | WasReset | Pinged | WentAway
