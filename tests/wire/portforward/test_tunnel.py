"""SPDY in WebSocket messages: the same session as over SPDY, whatever the messages are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.wire import websocket
from sampan.wire.portforward.forward import Event, HalfClosed, Left, Opened, Received
from sampan.wire.portforward.tunnel import PROTOCOL, Tunnel
from sampan.wire.protocol_error import ProtocolError
from sampan.wire.spdy import session as spdy


class Client:
    """A client's side of the tunnel."""

    def __init__(self) -> None:
        self.session = spdy.Session(server=False)
        self.socket = websocket.WebSocket(server=False)
        self.talk = Tunnel()
        self.heard: dict[int, bytes] = {}
        self.messages = 0
        self.closed: int | None = None

    def connect(self) -> tuple[int, int]:
        error = self.session.open((("streamtype", "error"), ("port", "80"), ("requestid", "0")))
        self.session.send(error, fin=True)
        return error, self.session.open((("streamtype", "data"), ("port", "80"), ("requestid", "0")))

    def say(self, size: int = 1 << 20) -> bytes:
        """What is to be said, in messages of at most `size` bytes."""
        said = b"".join(self.session.to_send())
        for at in range(0, len(said), size):
            self.socket.send(said[at : at + size])
        return b"".join(self.socket.to_send())

    def hear(self) -> None:
        said = b"".join(self.talk.to_send())
        for event in self.socket.receive(said) if said else ():
            match event:
                case websocket.Piece(data, text=text, last=last):
                    assert not text
                    self.messages += last
                    self.hear_inner(bytes(data))
                case websocket.Closed(code):
                    self.closed = code

    def hear_inner(self, data: bytes) -> None:
        for event in self.session.receive(data):
            if isinstance(event, spdy.Received):
                self.heard[event.stream] = self.heard.get(event.stream, b"") + bytes(event.data)
                self.session.consumed(event.stream, len(event.data))


def joined(events: list[Event]) -> list[Event]:
    out: list[Event] = []
    for event in events:
        if isinstance(event, Received) and out and isinstance(out[-1], Received):
            out[-1] = Received(event.connection, bytes(out[-1].data) + bytes(event.data))
        else:
            out.append(event)
    return out


def test_its_name() -> None:
    assert PROTOCOL == "SPDY/3.1+portforward.k8s.io"


@given(st.integers(1, 400), st.integers(1, 300))
def test_messages_and_chunks_of_any_size_say_the_same(message: int, chunk: int) -> None:
    client = Client()
    _, data = client.connect()
    said = client.say(message)
    events = [
        event for at in range(0, len(said), chunk) for event in client.talk.receive(said[at : at + chunk])
    ]
    client.hear()
    client.session.send(data, b"ping" * 50, fin=True)
    events += client.talk.receive(client.say(message))
    assert joined(events) == [Opened(1, 80), Received(1, b"ping" * 50), HalfClosed(1)]


def test_bytes_come_back_in_few_messages() -> None:
    client = Client()
    _, data = client.connect()
    client.talk.receive(client.say())
    client.hear()
    before = client.messages
    client.talk.send(1, b"x" * 100_000)
    client.talk.end(1)
    client.hear()
    assert client.heard == {data: b"x" * 100_000}
    assert client.messages - before == 2  # a frame's head goes with its bytes


def test_words_of_a_failure() -> None:
    client = Client()
    error, _ = client.connect()
    client.talk.receive(client.say())
    client.talk.fail(1, "nobody listens")
    client.hear()
    assert client.heard == {error: b"nobody listens"}


def test_an_empty_message_says_nothing() -> None:
    client = Client()
    client.socket.send(b"")
    assert client.talk.receive(client.say()) == []


def test_a_text_message_ends_the_session() -> None:
    client = Client()
    client.socket.send(b"hello", text=True)
    with pytest.raises(ProtocolError, match="binary"):
        client.talk.receive(b"".join(client.socket.to_send()))
    client.hear()
    assert client.closed == websocket.BROKEN


def test_noise_within_ends_the_session_inside_and_outside() -> None:
    client = Client()
    client.socket.send(b"GET / HTTP/1.1\r\n\r\n" * 100)
    with pytest.raises(ProtocolError):
        client.talk.receive(b"".join(client.socket.to_send()))
    client.hear()
    assert client.closed == websocket.BROKEN
    assert client.messages == 1  # SPDY's own last word


def test_a_client_that_closes_has_left() -> None:
    client = Client()
    client.socket.close()
    [left] = client.talk.receive(b"".join(client.socket.to_send()))
    assert isinstance(left, Left)
    assert not client.talk.receive(b"")


def test_a_connection_that_ends_has_left() -> None:
    [left] = Client().talk.receive(b"")
    assert isinstance(left, Left)
