"""Both ends of SPDY connections for tests: pairs of sessions, and a peer that says whatever a test wants."""

from sampan.wire.spdy import frames
from sampan.wire.spdy.headers import Headers, Packer
from sampan.wire.spdy.limits import Limits
from sampan.wire.spdy.session import Ended, Event, Opened, Received, Session

DEFAULTS = Limits()
STDIN: Headers = (("streamtype", "stdin"),)


def pair(server: Limits = DEFAULTS, client: Limits = DEFAULTS) -> tuple[Session, Session]:
    """A client and a server that have not said anything yet."""
    return Session(server=False, limits=client), Session(server=True, limits=server)


def said(session: Session) -> bytes:
    """All that this one has to send now."""
    return b"".join(session.to_send())


def carry(source: Session, target: Session) -> list[Event]:
    """Take everything over, at once."""
    return plain(target.receive(said(source)))


def settle(client: Session, server: Session) -> tuple[list[Event], list[Event]]:
    """Carry both ways until nobody has more to say; what the client and the server were told."""
    told: tuple[list[Event], list[Event]] = ([], [])
    while (up := said(client)) or (down := said(server)):
        if up:
            told[1].extend(plain(server.receive(up)))
        else:
            told[0].extend(plain(client.receive(down)))
    return told


def plain(events: list[Event]) -> list[Event]:
    """The same with bytes of their own, and what came in pieces put together."""
    whole: list[Event] = []
    for event in events:
        if isinstance(event, Received):
            last = whole[-1] if whole else None
            if isinstance(last, Received) and last.stream == event.stream:
                whole[-1] = Received(event.stream, bytes(last.data) + bytes(event.data))
            else:
                whole.append(Received(event.stream, bytes(event.data)))
        else:
            whole.append(event)
    return whole


def opened(server: Limits = DEFAULTS, client: Limits = DEFAULTS) -> tuple[Session, Session, int]:
    """Client, server, and a stream that the client opened and the server replied to."""
    one, other = pair(server, client)
    number = one.open(STDIN)
    assert carry(one, other) == [Opened(number, STDIN, False)]
    other.reply(number)
    carry(other, one)
    return one, other, number


def received(events: list[Event], stream: int) -> bytes:
    """What came for one stream."""
    return b"".join(
        bytes(event.data) for event in events if isinstance(event, Received) and event.stream == stream
    )


def ended(events: list[Event], stream: int) -> bool:
    return Ended(stream) in events


class Client:
    """Writes frames of a client, right or wrong; its header blocks are one zlib stream, as they have to be."""

    def __init__(self) -> None:
        self._packer = Packer(Limits(block=1 << 30))

    def block(self, *headers: tuple[str, str]) -> bytes:
        return self._packer.pack(headers)

    def syn(self, stream: int, *headers: tuple[str, str], fin: bool = False) -> bytes:
        return frames.syn_stream(stream, self.block(*headers), fin)

    def reply(self, stream: int, fin: bool = False) -> bytes:
        return frames.with_block(frames.Kind.SYN_REPLY, stream, self.block(), fin)

    def headers(self, stream: int, *headers: tuple[str, str], fin: bool = False) -> bytes:
        return frames.with_block(frames.Kind.HEADERS, stream, self.block(*headers), fin)

    def data(self, stream: int, data: bytes = b"", fin: bool = False) -> bytes:
        return frames.data_head(stream, len(data), fin) + data
