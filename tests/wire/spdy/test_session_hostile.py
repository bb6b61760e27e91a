"""Peers that break the rules: what ends the session, what ends a stream, and what an honest peer may do too."""

import tracemalloc
from collections.abc import Callable
from struct import pack

import pytest

from sampan.wire.protocol_error import ProtocolError
from sampan.wire.spdy import frames
from sampan.wire.spdy.frames import HEAD, Kind, control
from sampan.wire.spdy.limits import Limits
from sampan.wire.spdy.session import Ended, Opened, Received, Replied, Session, SpdyError, WasReset
from tests.wire.spdy.peers import Client, plain, said

# Each says its piece after it has opened stream 1 and got stream 2, which is not replied to yet.
VIOLATIONS: dict[str, Callable[[Client], bytes]] = {
    "SYN_STREAM with an even number": lambda peer: peer.syn(4),
    "SYN_STREAM with number 0": lambda peer: peer.syn(0),
    "SYN_STREAM with the same number": lambda peer: peer.syn(1),
    "SYN_STREAM with a smaller number": lambda peer: peer.syn(7) + peer.syn(5),
    "SYN_STREAM too short": lambda peer: control(Kind.SYN_STREAM, bytes(9)),
    "SYN_STREAM empty": lambda peer: control(Kind.SYN_STREAM, b""),
    "SYN_STREAM with no block": lambda peer: frames.syn_stream(3, b"", False),
    "SYN_STREAM with rubbish for a block": lambda peer: frames.syn_stream(3, b"\xff" * 30, False),
    "SYN_STREAM with a block of another connection": lambda peer: Client().syn(3, ("a", "b")),
    "SYN_STREAM with two blocks": lambda peer: frames.syn_stream(3, peer.block() + peer.block(), False),
    "SYN_STREAM with a bomb": lambda peer: peer.syn(3, ("a", "b" * (20 << 20))),
    "SYN_STREAM with 10^4 headers": lambda peer: peer.syn(3, *((f"h{i}", "") for i in range(10_000))),
    "SYN_STREAM with 101 headers": lambda peer: peer.syn(3, *((f"h{i}", "") for i in range(101))),
    "SYN_STREAM with a long value": lambda peer: peer.syn(3, ("a", "b" * 8193)),
    "SYN_STREAM of 64 KiB and one": lambda peer: HEAD.pack(0x80030001, (64 << 10) + 1),
    "SYN_STREAM of 2^24 - 1 bytes": lambda peer: HEAD.pack(0x80030001, (1 << 24) - 1),
    "an unknown frame of 2^24 - 1 bytes": lambda peer: HEAD.pack(0x8003FFFF, (1 << 24) - 1),
    "SYN_REPLY for a stream of its own": lambda peer: peer.reply(1),
    "SYN_REPLY twice": lambda peer: peer.reply(2) + peer.reply(2),
    "SYN_REPLY for a stream that never was": lambda peer: peer.reply(4),
    "SYN_REPLY for stream 0": lambda peer: peer.reply(0),
    "SYN_REPLY too short": lambda peer: control(Kind.SYN_REPLY, bytes(3)),
    "data before the reply": lambda peer: peer.data(2, b"x"),
    "data for stream 0": lambda peer: peer.data(0, b"x"),
    "data for a stream that never was": lambda peer: peer.data(3, b"x"),
    "an end for a stream that never was": lambda peer: peer.data(4, fin=True),
    "data for the last stream there can be": lambda peer: peer.data(2**31 - 1, b"x"),
    "HEADERS for a stream that never was": lambda peer: peer.headers(3),
    "HEADERS for stream 0": lambda peer: peer.headers(0),
    "HEADERS too short": lambda peer: control(Kind.HEADERS, bytes(2)),
    "RST_STREAM for a stream that never was": lambda peer: frames.rst_stream(3, 5),
    "RST_STREAM for stream 0": lambda peer: frames.rst_stream(0, 5),
    "RST_STREAM too short": lambda peer: control(Kind.RST_STREAM, bytes(7)),
    "RST_STREAM too long": lambda peer: control(Kind.RST_STREAM, bytes(9)),
    "SETTINGS that say 2^32 - 1": lambda peer: control(Kind.SETTINGS, pack(">I", 2**32 - 1)),
    "SETTINGS that say one more": lambda peer: control(Kind.SETTINGS, pack(">III", 2, 7, 65536)),
    "SETTINGS that say one less": lambda peer: control(Kind.SETTINGS, pack(">III", 0, 7, 65536)),
    "SETTINGS empty": lambda peer: control(Kind.SETTINGS, b""),
    "SETTINGS with a window of 2^31": lambda peer: frames.settings([(7, 1 << 31)]),
    "SETTINGS that overflow a stream's window": lambda peer: (
        frames.window_update(1, (1 << 31) - 1 - 65536) + frames.settings([(7, 65536 + 100)])
    ),
    "PING 0": lambda peer: frames.ping(0),
    "PING empty": lambda peer: control(Kind.PING, b""),
    "PING too long": lambda peer: control(Kind.PING, bytes(8)),
    "GOAWAY as in SPDY/2": lambda peer: control(Kind.GOAWAY, bytes(4)),
    "GOAWAY too long": lambda peer: control(Kind.GOAWAY, bytes(12)),
    "WINDOW_UPDATE by nothing": lambda peer: frames.window_update(1, 0),
    "WINDOW_UPDATE by 2^32 - 1": lambda peer: frames.window_update(1, 2**32 - 1),
    "WINDOW_UPDATE beyond the end": lambda peer: frames.window_update(1, 2**31 - 1),
    "WINDOW_UPDATE of the session beyond the end": lambda peer: frames.window_update(0, 2**31 - 1) * 2,
    "WINDOW_UPDATE for a stream that never was": lambda peer: frames.window_update(3, 1),
    "WINDOW_UPDATE too short": lambda peer: control(Kind.WINDOW_UPDATE, bytes(4)),
    "SPDY/2": lambda peer: bytes.fromhex("8002 0006 00000004 00000001"),
    "SPDY/4": lambda peer: bytes.fromhex("8004 0006 00000004 00000001"),
    "TLS": lambda peer: bytes.fromhex("1603010200010001fc0303"),
    "HTTP": lambda peer: b"GET / HTTP/1.1\r\n\r\n",
    "1,001 pings at once": lambda peer: frames.ping(1) * 1001,
}


def victim(peer: Client, limits: Limits = Limits()) -> Session:  # noqa: B008 - frozen
    session = Session(server=True, limits=limits)
    session.receive(peer.syn(1))
    session.reply(1)
    session.open(())
    said(session)
    return session


@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_ends_the_session(violation: Callable[[Client], bytes]) -> None:
    peer = Client()
    session = victim(peer)
    session.send(1, b"before")
    with pytest.raises(SpdyError) as error:
        session.receive(violation(peer))
    assert isinstance(error.value, ProtocolError)
    out = said(session)
    assert out.startswith(frames.data_head(1, 6, False) + b"before")
    assert out[-16:-8] == frames.goaway(0, 0)[:8]
    assert out[-4:] == frames.WORD.pack(frames.GOAWAY_PROTOCOL_ERROR)
    with pytest.raises(SpdyError, match="SPDY"):
        session.receive(frames.ping(1))
    with pytest.raises(SpdyError):
        session.open(())
    session.send(1, b"swallowed")
    session.goaway()
    assert said(session) == b""


@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_is_found_byte_by_byte_too(violation: Callable[[Client], bytes]) -> None:
    peer = Client()
    session = victim(peer)
    with pytest.raises(SpdyError):
        for byte in violation(peer):
            session.receive(bytes([byte]))


def test_a_client_is_as_strict() -> None:
    client = Session(server=False)
    client.open(())
    with pytest.raises(SpdyError, match="opened stream 3"):
        client.receive(Client().syn(3))


# What an honest peer may say without knowing better: nothing happens.
CROSSING: dict[str, Callable[[Client], bytes]] = {
    "data": lambda peer: peer.data(1, b"x"),
    "an end": lambda peer: peer.data(1, fin=True),
    "headers": lambda peer: peer.headers(1, ("a", "b")),
    "a reset": lambda peer: frames.rst_stream(1, 5),
    "a window": lambda peer: frames.window_update(1, 100),
    "a reply": lambda peer: peer.reply(2),
    "data of a stream that it replied to": lambda peer: peer.reply(2) + peer.data(2, b"x", fin=True),
    "an unknown frame": lambda peer: control(99, b"whatever"),
    "NOOP of SPDY/2": lambda peer: control(5, b""),
    "CREDENTIAL of SPDY/3": lambda peer: control(10, bytes(100)),
    "settings of no interest": lambda peer: frames.settings([(4, 100), (9, 2**32 - 1)]),
    "no settings": lambda peer: frames.settings([]),
    "an answer to no ping": lambda peer: frames.ping(2),
    "flags that nobody knows": lambda peer: control(Kind.PING, pack(">I", 2), 0xFF),
}


@pytest.mark.parametrize("frame", CROSSING.values(), ids=CROSSING)
def test_what_crosses_our_resets_is_ignored(frame: Callable[[Client], bytes]) -> None:
    peer = Client()
    session = victim(peer)
    session.reset(1)
    session.reset(2)
    said(session)
    assert session.receive(frame(peer)) == []
    assert said(session) == b""
    assert plain(session.receive(peer.syn(3, ("still", "readable")))) == [
        Opened(3, (("still", "readable"),), False)
    ]


@pytest.mark.parametrize(
    "frame",
    [lambda peer: peer.data(1, b"x"), lambda peer: peer.data(1, fin=True), lambda peer: peer.headers(1)],
    ids=["data", "another end", "headers"],
)
def test_who_goes_on_after_its_end_loses_the_stream(frame: Callable[[Client], bytes]) -> None:
    peer = Client()
    session = victim(peer)
    told = plain(
        session.receive(peer.data(1, fin=True) + frame(peer) + peer.syn(3) + peer.data(1, b"ignored"))
    )
    assert told == [Ended(1), WasReset(1, frames.STREAM_ALREADY_CLOSED), Opened(3, (), False)]
    assert said(session) == frames.rst_stream(1, frames.STREAM_ALREADY_CLOSED)


def test_one_way_streams_are_refused() -> None:
    peer = Client()
    session = victim(peer)
    one_way = control(Kind.SYN_STREAM, pack(">IIBB", 3, 0, 0, 0) + peer.block(), frames.UNIDIRECTIONAL)
    assert session.receive(one_way) == []
    assert said(session) == frames.rst_stream(3, frames.REFUSED_STREAM)


def test_a_refused_stream_does_not_garble_the_headers_of_the_next() -> None:
    peer = Client()
    session = victim(peer, Limits(streams=2))
    assert len(session.receive(peer.syn(3, ("a", "1")) + peer.syn(5, ("a", "2")))) == 1
    session.reset(1)
    assert session.receive(peer.syn(7, ("a", "3"))) == [Opened(7, (("a", "3"),), False)]


def test_a_thousand_answers_are_given_and_no_more_before_they_were_taken() -> None:
    peer = Client()
    session = victim(peer)
    for _ in range(3):
        session.receive(frames.ping(1) * 1000)
        assert len(said(session)) == 12 * 1000
    session.receive(frames.ping(1) * 1000)
    with pytest.raises(SpdyError, match="1000 answers"):
        session.receive(frames.ping(1))


def test_refusals_are_answers_too() -> None:
    peer = Client()
    session = victim(peer, Limits(streams=1, answers=10))
    session.receive(b"".join(peer.syn(number) for number in range(3, 23, 2)))
    with pytest.raises(SpdyError, match="10 answers"):
        session.receive(peer.syn(23))


FLOODS: dict[str, Callable[[Client], bytes]] = {
    "PING": lambda peer: frames.ping(1),
    "PING of ours": lambda peer: frames.ping(2),
    "RST_STREAM": lambda peer: frames.rst_stream(1, 5),
    "SETTINGS": lambda peer: frames.settings([]),
    "SETTINGS of windows": lambda peer: frames.settings([(7, 65536)]),
    "GOAWAY": lambda peer: frames.goaway(0, 0),
    "HEADERS": lambda peer: peer.headers(1),
    "WINDOW_UPDATE": lambda peer: frames.window_update(1, 1),
    "WINDOW_UPDATE of the session": lambda peer: frames.window_update(0, 1),
    "unknown": lambda peer: control(99, b""),
    "empty data": lambda peer: peer.data(1),
    "SYN_REPLY for a stream that is gone": lambda peer: peer.reply(2),
}


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
def test_a_flood_ends(frame: Callable[[Client], bytes]) -> None:
    peer = Client()
    session = victim(peer, Limits(idle_frames=500))
    session.reset(2)
    said(session)
    with pytest.raises(SpdyError, match="more than 500 SPDY control frames without data"):
        for _ in range(503):
            session.receive(frame(peer))
            said(session)


def test_blocks_of_many_headers_run_out_sooner() -> None:
    peer = Client()
    session = victim(peer, Limits(idle_frames=500))
    many = [(f"h{i}", "") for i in range(100)]
    with pytest.raises(SpdyError, match="more than 500"):
        for _ in range(6):
            session.receive(peer.headers(1, *many))


def test_a_session_that_carries_data_never_runs_out() -> None:
    peer = Client()
    session = victim(peer, Limits(idle_frames=10))
    for _ in range(1000):
        assert plain(session.receive(frames.ping(1) + peer.data(1, b"x"))) == [Received(1, b"x")]
        session.receive(frames.ping(1))
        said(session)
        session.send(1, b"y")
        said(session)


def test_a_month_of_pings_is_borne() -> None:
    peer = Client()
    session = victim(peer)
    for _ in range(0, 4 * 3600, 5):  # four hours of a client that says nothing else
        session.receive(frames.ping(1))
        assert said(session) == frames.ping(1)
    assert Limits().idle_frames * 5 > 28 * 24 * 3600


def test_many_settings_over_many_streams_cost_what_they_cause() -> None:
    peer = Client()
    session = Session(server=True, limits=Limits(streams=512, idle_frames=5000))
    session.receive(b"".join(peer.syn(number) for number in range(1, 1025, 2)))
    with pytest.raises(SpdyError, match="more than 5000"):
        session.receive(frames.settings([(7, 65536)]) * 10)


def test_a_settings_frame_looks_at_a_window_once() -> None:
    session = victim(Client())
    session.receive(frames.settings([(7, 10)] + [(7, 20)] * 8000))
    session.send(1, bytes(30))
    assert session.backlog(1) == 20


def test_opening_and_resetting_leaves_nothing() -> None:
    peer = Client()
    session = victim(peer)
    tracemalloc.start()
    try:
        for number in range(3, 40_003, 2):
            session.receive(peer.syn(number, ("port", "80")) + frames.rst_stream(number, 5))
        said(session)
        assert tracemalloc.get_traced_memory()[0] < 300_000
    finally:
        tracemalloc.stop()


def test_endless_data_for_streams_that_are_gone_keeps_nothing() -> None:
    peer = Client()
    session = victim(peer)
    session.reset(1)
    said(session)
    data = peer.data(1, bytes(1 << 20))
    for _ in range(100):
        assert session.receive(data) == []
    assert said(session) == b""


def test_a_reply_with_an_end_is_an_end() -> None:
    peer = Client()
    session = victim(peer)
    assert session.receive(peer.reply(2, fin=True)) == [Replied(2, (), True), Ended(2)]
