"""Port-forward in plain WebSocket messages, against a client of our own WebSocket."""

import base64
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.wire import websocket
from sampan.wire.portforward.forward import Event, Left, Opened, Received
from sampan.wire.portforward.over_websocket import BASE64, BINARY, NONE, OverWebSocket
from sampan.wire.protocol_error import ProtocolError


class Client:
    """What a client of a session for `ports` says and hears; messages are (channel, bytes)."""

    def __init__(self, ports: Sequence[int], protocol: str = BINARY) -> None:
        self.base64 = protocol == BASE64
        self.socket = websocket.WebSocket(server=False)
        self.talk = OverWebSocket(ports, protocol)
        self.started = self.talk.start()
        self.closed: int | None = None

    def message(self, channel: int, data: bytes) -> bytes:
        if self.base64:
            self.socket.send(base64.b64encode(data), prefix=bytes((48 + channel,)), text=True)
        else:
            self.socket.send(data, prefix=bytes((channel,)))
        return b"".join(self.socket.to_send())

    def say(self, channel: int, data: bytes) -> Sequence[Event]:
        return self.talk.receive(self.message(channel, data))

    def hear(self) -> list[tuple[int, bytes]]:
        messages: list[bytes] = []
        said = b"".join(self.talk.to_send())
        for event in self.socket.receive(said) if said else ():
            match event:
                case websocket.Piece(data, text=text, first=first):
                    assert text is self.base64
                    if first:
                        messages.append(b"")
                    messages[-1] += bytes(data)
                case websocket.Closed(code):
                    self.closed = code
        if self.base64:
            return [(each[0] - 48, base64.b64decode(each[1:])) for each in messages]
        return [(each[0], each[1:]) for each in messages]


def flat(events: Sequence[Event]) -> list[Event]:
    """`events` with the bytes of each connection in one, in the order of the first of them."""
    got: dict[int, bytes] = {}
    for event in events:
        assert isinstance(event, Received)
        got[event.connection] = got.get(event.connection, b"") + bytes(event.data)
    return [Received(connection, data) for connection, data in got.items()]


@pytest.mark.parametrize("protocol", [BINARY, BASE64, NONE])
def test_every_channel_begins_with_its_port(protocol: str) -> None:
    client = Client([80, 8443], protocol)
    assert list(client.started) == [Opened(1, 80), Opened(2, 8443)]
    assert client.hear() == [(0, b"\x50\x00"), (1, b"\x50\x00"), (2, b"\xfb\x20"), (3, b"\xfb\x20")]


@pytest.mark.parametrize("protocol", [BINARY, BASE64])
def test_bytes_go_both_ways(protocol: str) -> None:
    client = Client([80, 443], protocol)
    client.hear()
    assert flat(client.say(2, b"\x00ping\xff")) == [Received(2, b"\x00ping\xff")]
    client.talk.send(1, b"\xffpong\x00")
    client.talk.send(2, b"")
    assert client.hear() == [(0, b"\xffpong\x00")]
    assert client.talk.backlog(1) == 0


@pytest.mark.parametrize("protocol", [BINARY, BASE64])
def test_words_of_a_failure_go_to_the_error_channel_and_the_others_go_on(protocol: str) -> None:
    client = Client([80, 443], protocol)
    client.hear()
    client.talk.fail(1, "nobody listens")
    client.talk.fail(1, "again")
    assert client.hear() == [(1, b"nobody listens")]
    assert client.say(0, b"late") == []
    assert not client.talk.over
    assert flat(client.say(2, b"on")) == [Received(2, b"on")]


def test_the_session_closes_after_its_last_port() -> None:
    client = Client([80, 443])
    client.hear()
    client.talk.end(1)
    client.talk.close(1)
    assert client.hear() == []
    client.talk.close(2)
    assert client.talk.over
    client.hear()
    assert client.closed == websocket.NORMAL
    client.talk.send(1, b"late")
    assert client.talk.to_send() == []


def test_a_client_that_closes_has_left() -> None:
    client = Client([80])
    client.socket.close(websocket.GOING_AWAY, "bye")
    [left] = client.talk.receive(b"".join(client.socket.to_send()))
    assert isinstance(left, Left)
    assert "1001" in left.reason
    assert "bye" in left.reason
    assert client.talk.receive(b"") == []


def test_a_connection_that_ends_has_left() -> None:
    assert isinstance(Client([80]).talk.receive(b"")[0], Left)


@pytest.mark.parametrize(("channel", "data"), [(1, b"on an error channel"), (2, b"unknown"), (0, b"")])
def test_what_is_said_where_nobody_listens_is_ignored(channel: int, data: bytes) -> None:
    assert not Client([80]).say(channel, data)


def test_an_empty_message_says_nothing() -> None:
    client = Client([80])
    client.socket.send(b"")
    assert not client.talk.receive(b"".join(client.socket.to_send()))
    assert flat(client.say(0, b"a")) == [Received(1, b"a")]


def test_broken_base64_ends_the_session_with_words() -> None:
    client = Client([80], BASE64)
    client.hear()
    client.socket.send(b"0!!!!", text=True)
    with pytest.raises(ProtocolError, match="base64"):
        client.talk.receive(b"".join(client.socket.to_send()))
    client.hear()
    assert client.closed == websocket.BROKEN


@pytest.mark.parametrize(
    ("ports", "protocol"),
    [([], BINARY), ([80] * 128, BINARY), ([80] * 40, BASE64), ([0], BINARY), ([65536], NONE), ([-1], BASE64)],
)
def test_ports_that_no_session_can_have(ports: list[int], protocol: str) -> None:
    with pytest.raises(ProtocolError):
        OverWebSocket(ports, protocol)


@pytest.mark.parametrize(("count", "protocol"), [(127, BINARY), (39, BASE64)])
def test_the_last_channel_that_fits(count: int, protocol: str) -> None:
    client = Client([80] * count, protocol)
    assert len(client.hear()) == 2 * count
    assert flat(client.say(2 * count - 2, b"last")) == [Received(count, b"last")]
    client.talk.fail(count, "failed")
    assert client.hear() == [(2 * count - 1, b"failed")]


@given(st.sampled_from([BINARY, BASE64]), st.lists(st.integers(0, 2000), max_size=12))
def test_it_does_not_matter_how_the_bytes_are_cut(protocol: str, at: list[int]) -> None:
    client = Client([80, 443], protocol)
    said = b"".join(client.message(2 * (n % 2), bytes((n,)) * n * 20) for n in range(8))
    places = [0, *sorted({place % len(said) for place in at}), len(said)]
    parts = (said[start:end] for start, end in pairwise(places) if start < end)
    events = [event for part in parts for event in client.talk.receive(part)]
    want = [b"".join(bytes((n,)) * n * 20 for n in range(8) if n % 2 == which) for which in (0, 1)]
    got = {event.connection: event.data for event in flat(events) if isinstance(event, Received)}
    assert got == {1: want[0], 2: want[1]}
