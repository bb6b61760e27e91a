"""WebSocket messages, against wsproto as an independent peer, in any cut, and against peers that break every rule."""

import random
import struct
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from sampan.wire.protocol_error import ProtocolError
from sampan.wire.websocket import (
    ABNORMAL,
    Closed,
    Event,
    Limits,
    Piece,
    Ponged,
    WebSocket,
    WebSocketError,
)

Message = tuple[bool, bytes]
"""Is it text, and its bytes."""

KEY = b"\x01\x02\x03\x04"


def frame(first: int, payload: bytes = b"", *, key: bytes = KEY, length: int | None = None) -> bytes:
    """A client's frame, right or wrong: `first` is FIN, the reserved bits and the opcode."""
    size = len(payload) if length is None else length
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def messages(events: Iterable[Event]) -> list[Message]:
    """The messages that pieces make; checks that `first` and `last` are where they must be."""
    whole: list[Message] = []
    parts: list[bytes] | None = None
    for event in events:
        if isinstance(event, Piece):
            assert event.first is (parts is None)
            parts = [*(parts or ()), bytes(event.data)]
            if event.last:
                whole.append((event.text, b"".join(parts)))
                parts = None
    return whole


def cuts(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    at = 0
    for size in sizes:
        if at < len(data):
            yield data[at : at + size]
            at += size
    if at < len(data):
        yield data[at:]


def drained(socket: WebSocket) -> bytes:
    return b"".join(socket.to_send())


MESSAGES = st.lists(
    st.one_of(
        st.tuples(st.just(False), st.binary(max_size=300)),
        st.tuples(st.just(True), st.text(max_size=100).map(str.encode)),
    ),
    max_size=8,
)
SIZES = st.lists(st.integers(1, 40), max_size=60)


@settings(deadline=None)
@given(said=MESSAGES, sizes=SIZES)
def test_a_server_hears_what_wsproto_says_in_any_cut(said: list[Message], sizes: list[int]) -> None:
    peer, server = Connection(ConnectionType.CLIENT), WebSocket(server=True)
    wire = b"".join(
        peer.send(TextMessage(data.decode()) if text else BytesMessage(data)) for text, data in said
    )
    assert messages(event for part in cuts(wire, sizes) for event in server.receive(part)) == said


@settings(deadline=None)
@given(said=MESSAGES, sizes=SIZES)
def test_a_client_hears_what_a_server_says_in_any_cut(said: list[Message], sizes: list[int]) -> None:
    client, server = WebSocket(server=False), WebSocket(server=True)
    for text, data in said:
        server.send(data[3:], prefix=data[:3], text=text)
    wire = drained(server)
    assert messages(event for part in cuts(wire, sizes) for event in client.receive(part)) == said


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
def test_wsproto_hears_messages_of_every_length_form(server: bool, size: int) -> None:
    peer = Connection(ConnectionType.CLIENT if server else ConnectionType.SERVER)
    ours = WebSocket(server=server)
    data = random.Random(size).randbytes(size)
    ours.send(data[1:], prefix=data[:1])
    peer.receive_data(drained(ours))
    heard = [event for event in peer.events() if isinstance(event, BytesMessage)]
    assert b"".join(event.data for event in heard) == data
    assert heard[-1].message_finished


def test_a_servers_payload_is_passed_on_as_it_is() -> None:
    payload = bytes(100_000)
    server = WebSocket(server=True)
    server.send(payload, prefix=b"\x01")
    assert any(part is payload for part in server.to_send())


def test_what_a_client_hears_are_slices_of_what_it_got() -> None:
    server, client = WebSocket(server=True), WebSocket(server=False)
    server.send(b"abc" * 1000)
    wire = drained(server)
    (piece,) = client.receive(wire)
    assert isinstance(piece, Piece)
    assert isinstance(piece.data, memoryview)
    assert piece.data.obj is wire


def test_a_frame_is_delivered_before_it_is_whole() -> None:
    server = WebSocket(server=True)
    wire = frame(0x82, b"0123456789")
    assert server.receive(wire[:9]) == [Piece(memoryview(b"012"), text=False, first=True, last=False)]
    assert server.receive(wire[9:]) == [Piece(memoryview(b"3456789"), text=False, first=False, last=True)]


def test_fragments_make_one_message_with_a_ping_in_between() -> None:
    server = WebSocket(server=True)
    wire = frame(0x02, b"ab") + frame(0x89, b"there?") + frame(0x00) + frame(0x80, b"cd")
    assert messages(server.receive(wire)) == [(False, b"abcd")]
    assert drained(server) == b"\x8a\x06there?"


def test_the_two_sides_ping_and_close() -> None:
    peer, server = Connection(ConnectionType.CLIENT), WebSocket(server=True)
    server.receive(peer.send(Ping(b"x")))
    server.ping(b"y")
    peer.receive_data(drained(server))
    ping, pong = peer.events()
    assert isinstance(pong, Pong)
    assert isinstance(ping, Ping)
    assert server.receive(peer.send(ping.response())) == [Ponged(b"y")]
    assert server.receive(peer.send(CloseConnection(1001, "bye"))) == [Closed(1001, "bye")]
    peer.receive_data(drained(server))
    (answer,) = peer.events()
    assert isinstance(answer, CloseConnection)
    assert answer.code == 1001


def test_after_our_close_the_peer_may_still_talk_but_we_may_not() -> None:
    server = WebSocket(server=True)
    server.close(1000, "done")
    server.send(b"more")
    server.close(1001)
    assert drained(server) == b"\x88\x06\x03\xe8done"
    assert messages(server.receive(frame(0x82, b"late"))) == [(False, b"late")]
    assert server.receive(frame(0x88, b"\x03\xe8") + frame(0x82, b"never")) == [Closed(1000, "")]
    assert server.receive(b"anything") == []
    assert drained(server) == b""


def test_a_close_without_a_code_is_answered_by_one() -> None:
    server = WebSocket(server=True)
    assert server.receive(frame(0x88)) == [Closed(1005, "")]
    assert drained(server) == b"\x88\x00"


def test_the_end_of_the_connection_is_told_once() -> None:
    server = WebSocket(server=True)
    (event,) = server.receive(b"")
    assert isinstance(event, Closed)
    assert event.code == ABNORMAL
    assert server.receive(b"") == []


def test_a_long_reason_is_cut_at_a_character() -> None:
    server, peer = WebSocket(server=True), Connection(ConnectionType.CLIENT)
    server.close(1002, "ä" * 100)
    peer.receive_data(drained(server))
    (event,) = peer.events()
    assert isinstance(event, CloseConnection)
    assert event.reason == "ä" * 61


BROKEN = {
    "reserved bit 1": (frame(0xC2, b"x"), 1002),
    "reserved bit 2": (frame(0xA2, b"x"), 1002),
    "reserved bit 3": (frame(0x92, b"x"), 1002),
    "unmasked": (b"\x82\x01x", 1002),
    "unknown data kind": (frame(0x83, b"x"), 1002),
    "unknown control kind": (frame(0x8B, b"x"), 1002),
    "ping in fragments": (frame(0x09, b"x"), 1002),
    "ping too long": (frame(0x89, b"x" * 126), 1002),
    "close too long": (frame(0x88, b"\x03\xe8" + b"x" * 124), 1002),
    "fragment of nothing": (frame(0x80, b"x"), 1002),
    "message in a message": (frame(0x02, b"x") + frame(0x82, b"x"), 1002),
    "length of 2^63": (b"\x82\xff" + struct.pack("!Q", 1 << 63) + KEY, 1002),
    "length of 2^64-1": (b"\x82\xff" + b"\xff" * 8 + KEY, 1002),
    "length of 2^62": (frame(0x82, length=1 << 62), 1009),
    "two bytes of length for 125": (b"\x82\xfe\x00\x7d" + KEY, 1002),
    "eight bytes of length for 65535": (b"\x82\xff" + struct.pack("!Q", 65535) + KEY, 1002),
    "half a close code": (frame(0x88, b"\x03"), 1002),
    "close code 999": (frame(0x88, b"\x03\xe7"), 1002),
    "close code 1005": (frame(0x88, b"\x03\xed"), 1002),
    "close code 1006": (frame(0x88, b"\x03\xee"), 1002),
    "close code 1016": (frame(0x88, b"\x03\xf8"), 1002),
    "close code 5000": (frame(0x88, b"\x13\x88"), 1002),
    "close reason not UTF-8": (frame(0x88, b"\x03\xe8\xff"), 1007),
    "text not UTF-8": (frame(0x81, b"\xff"), 1007),
    "text ends within a character": (frame(0x81, b"\xc3"), 1007),
    "text ends within a character, in fragments": (frame(0x01, b"\xc3") + frame(0x80), 1007),
    "endless empty fragments": (frame(0x02) + frame(0x00) * 64, 1002),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_client_that_breaks_the_rules_is_told_and_left(name: str, size: int) -> None:
    wire, code = BROKEN[name]
    server = WebSocket(server=True)
    with pytest.raises(WebSocketError) as caught:
        for part in cuts(wire, [size] * len(wire)):
            server.receive(part)
    assert caught.value.code == code
    close = drained(server)
    assert close[0] == 0x88
    assert int.from_bytes(close[2:4], "big") == code
    assert server.receive(frame(0x82, b"x")) == []


def test_a_masked_frame_of_a_server_is_refused() -> None:
    with pytest.raises(WebSocketError):
        WebSocket(server=False).receive(frame(0x82, b"x"))


def test_a_limit_of_empty_frames_is_for_each_message() -> None:
    server = WebSocket(server=True, limits=Limits(empty_frames=2))
    said = (frame(0x02) + frame(0x00) + frame(0x80, b"x")) * 3
    assert messages(server.receive(said)) == [(False, b"x")] * 3


def test_a_flood_of_pings_leaves_one_pong() -> None:
    server = WebSocket(server=True)
    server.receive(b"".join(frame(0x89, b"%d" % number) for number in range(10_000)))
    assert drained(server) == b"\x8a\x049999"


def test_fifty_thousand_fuzzed_frames_only_ever_break_the_protocol() -> None:
    broken, heard = _survived(50_000)
    assert broken > 5_000
    assert heard > 5_000


def test_fuzzed_frames_leave_nothing_in_memory() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        _survived(3_000)
        assert tracemalloc.get_traced_memory()[1] - before < 1 << 20
    finally:
        tracemalloc.stop()


def _survived(count: int) -> tuple[int, int]:
    """How often the protocol was broken, and how many events there were."""
    chance = random.Random(5)
    broken = heard = 0
    server = WebSocket(server=True)
    for _ in range(count):
        try:
            heard += len(server.receive(_fuzzed(chance)))
            if chance.random() < 0.01:
                server = WebSocket(server=True)
        except ProtocolError:
            broken += 1
            assert drained(server)
            server = WebSocket(server=True)
    return broken, heard


def _fuzzed(chance: random.Random) -> bytes:
    """A frame that is right, or wrong in one way or several, or bytes that never were one."""
    fate = chance.random()
    if fate < 0.1:
        return chance.randbytes(chance.randrange(1, 64))
    first = chance.choice((0x82, 0x82, 0x02, 0x00, 0x80, 0x81, 0x89, 0x8A, 0x88))
    wire = bytearray(frame(first, chance.randbytes(chance.choice((0, 1, 2, 5, 125, 126, 300)))))
    if fate < 0.3:
        wire[chance.randrange(min(len(wire), 14))] ^= 1 << chance.randrange(8)
    return bytes(wire[: chance.randrange(1, len(wire) + 1)]) if fate > 0.95 else bytes(wire)
