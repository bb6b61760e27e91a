"""Flow control: towards peers that know it, and towards those that do not."""

import pytest

from sampan.wire.spdy import frames
from sampan.wire.spdy.limits import DEFAULT_WINDOW, Limits
from sampan.wire.spdy.session import Opened, Received, Session, SpdyError, WasReset
from tests.wire.spdy.peers import Client, carry, opened, plain, received, said

WINDOW = Limits().window


def test_a_peer_without_windows_is_not_held_back() -> None:
    server, peer = Session(server=True), Client()
    server.receive(peer.syn(1))
    server.reply(1)
    said(server)
    server.send(1, bytes(10 << 20))
    assert server.backlog(1) == 0
    assert len(said(server)) == (10 << 20) + 8


def test_what_comes_beyond_the_window_is_taken() -> None:
    server, peer = Session(server=True), Client()
    server.receive(peer.syn(1))
    assert len(received(server.receive(peer.data(1, bytes(3 * WINDOW))), 1)) == 3 * WINDOW


def test_strict_windows_end_the_stream_that_overflows() -> None:
    server, peer = Session(server=True, limits=Limits(strict_windows=True)), Client()
    server.receive(peer.syn(1) + peer.syn(3))
    assert len(received(server.receive(peer.data(1, bytes(WINDOW))), 1)) == WINDOW
    assert server.receive(peer.data(1, b"x")) == [WasReset(1, frames.FLOW_CONTROL_ERROR)]
    assert plain(server.receive(peer.data(3, b"x"))) == [Received(3, b"x")]
    assert frames.rst_stream(1, frames.FLOW_CONTROL_ERROR) in said(server)


def test_the_window_is_given_back_by_halves() -> None:
    server, peer = Session(server=True), Client()
    server.receive(peer.syn(1) + peer.data(1, bytes(WINDOW)))
    said(server)
    server.consumed(1, WINDOW // 2 - 1)
    assert said(server) == b""
    server.consumed(1, 1)
    assert said(server) == frames.window_update(1, WINDOW // 2)
    server.consumed(1, WINDOW // 2)
    assert said(server) == frames.window_update(1, WINDOW // 2)


def test_nothing_is_given_to_who_has_ended() -> None:
    server, peer = Session(server=True), Client()
    server.receive(peer.syn(1) + peer.data(1, bytes(WINDOW), fin=True))
    said(server)
    server.consumed(1, WINDOW)
    assert said(server) == b""


def server_to(peer: Client, *streams: int) -> Session:
    server = Session(server=True)
    server.receive(b"".join(peer.syn(stream) for stream in streams))
    for stream in streams:
        server.reply(stream)
    said(server)
    return server


def test_a_window_that_was_given_is_kept() -> None:
    server = server_to(Client(), 1)
    server.receive(frames.window_update(1, 10))
    server.send(1, bytes(DEFAULT_WINDOW))
    server.send(1, b"0123456789abc")
    server.send(1, b"def", fin=True)
    assert said(server).endswith(b"0123456789")
    assert server.backlog(1) == 6
    server.receive(frames.window_update(1, 4))
    assert said(server) == frames.data_head(1, 3, False) + b"abc" + frames.data_head(1, 1, False) + b"d"
    server.receive(frames.window_update(1, 4))
    assert said(server) == frames.data_head(1, 2, True) + b"ef"
    assert server.backlog(1) == 0


def test_what_was_sent_before_the_first_update_counts() -> None:
    server = server_to(Client(), 1)
    server.send(1, bytes(3 * DEFAULT_WINDOW))
    said(server)
    server.receive(
        frames.window_update(1, DEFAULT_WINDOW)
    )  # it reads at last: two windows are still on their way
    server.send(1, b"x")
    assert server.backlog(1) == 1
    server.receive(frames.window_update(1, DEFAULT_WINDOW))
    assert server.backlog(1) == 1
    server.receive(frames.window_update(1, 1))
    assert server.backlog(1) == 0


def test_settings_change_every_window_even_below_zero() -> None:
    server, peer = server_to(peer := Client(), 1), peer
    server.send(1, bytes(100))
    said(server)
    server.receive(frames.settings([(frames.INITIAL_WINDOW_SIZE, 40), (frames.INITIAL_WINDOW_SIZE, 1 << 20)]))
    server.send(1, b"y")
    server.receive(frames.window_update(1, 60))
    assert server.backlog(1) == 1
    server.receive(frames.settings([(4, 100), (frames.INITIAL_WINDOW_SIZE, 41)]))
    assert server.backlog(1) == 0
    assert plain(server.receive(peer.syn(3))) == [Opened(3, (), False)]
    server.reply(3)
    server.send(3, bytes(50))
    assert server.backlog(3) == 9


def test_the_sessions_window_is_kept_once_it_was_given_and_shared_in_turn() -> None:
    server = server_to(Client(), 1, 3)
    server.receive(frames.window_update(0, 10))
    server.send(1, bytes(DEFAULT_WINDOW))
    said(server)
    server.send(1, b"a" * 20, fin=True)
    server.send(3, b"b" * 20)
    assert (server.backlog(1), server.backlog(3)) == (10, 20)
    said(server)
    server.receive(frames.window_update(0, 5))
    assert said(server) == frames.data_head(1, 5, False) + b"aaaaa"
    server.receive(frames.window_update(0, 5))
    assert said(server) == frames.data_head(3, 5, False) + b"bbbbb"
    server.receive(frames.window_update(0, 100))
    assert said(server) == (
        frames.data_head(1, 5, True) + b"aaaaa" + frames.data_head(3, 15, False) + b"b" * 15
    )


def test_a_stream_that_is_reset_leaves_the_sessions_window_to_others() -> None:
    server = server_to(Client(), 1, 3)
    server.receive(frames.window_update(0, 1))
    server.send(1, bytes(DEFAULT_WINDOW + 2))
    server.send(3, b"b")
    server.receive(frames.rst_stream(1, 5))
    said(server)
    server.receive(frames.window_update(0, 1))
    assert said(server) == frames.data_head(3, 1, False) + b"b"


def test_the_sessions_window_of_a_peer_never_runs_out() -> None:
    server, peer = Session(server=True), Client()
    server.receive(peer.syn(1))
    given = DEFAULT_WINDOW
    sent = 0
    megabyte = frames.data_head(1, 1 << 20, False), bytes(1 << 20)
    for _ in range(3 << 10):
        for part in megabyte:
            server.receive(part)
        sent += 1 << 20
        for update in server.to_send():
            if bytes(update[:4]) == frames.WORD.pack(0x80030009):
                stream, count = frames.WORDS.unpack(update[8:])
                given += count if stream == 0 else 0
        assert 0 < given - sent < 1 << 31


def test_both_sides_of_ours_keep_windows_from_the_first_byte() -> None:
    client, server, number = opened(client=Limits(window=1 << 17))
    server.send(number, bytes(1 << 18))
    assert server.backlog(number) == 1 << 17
    assert len(received(carry(server, client), number)) == 1 << 17
    client.consumed(number, 1 << 16)
    carry(client, server)
    assert server.backlog(number) == 1 << 16


@pytest.mark.parametrize("stream", [0, 1])
@pytest.mark.parametrize("count", [0, (1 << 31) - DEFAULT_WINDOW, 1 << 31, (1 << 32) - 1])
def test_a_window_cannot_grow_by_nothing_or_beyond_its_end(stream: int, count: int) -> None:
    server = server_to(Client(), 1)
    with pytest.raises(SpdyError, match="window grew"):
        server.receive(frames.window_update(stream, count))


@pytest.mark.parametrize("window", [0, 65535, 1 << 31])
def test_a_window_of_ours_is_one_that_a_peer_can_keep(window: int) -> None:
    with pytest.raises(ValueError, match="a window of"):
        Limits(window=window)


def test_a_peer_that_gave_a_window_once_gives_them_for_all_later_streams() -> None:
    server = server_to(peer := Client(), 1)
    server.receive(frames.window_update(1, 10) + peer.syn(3))
    server.reply(3)
    server.send(3, bytes(DEFAULT_WINDOW + 7))
    assert server.backlog(3) == 7


def test_an_end_alone_waits_for_the_reply_too() -> None:
    client = Session(server=False)
    said(client)
    number = client.open(())
    opening = said(client)
    client.send(number, fin=True)
    assert (opening[:4], said(client)) == (frames.WORD.pack(0x80030001), b"")
    client.receive(Client().reply(number))
    assert said(client) == frames.data_head(number, 0, True)
