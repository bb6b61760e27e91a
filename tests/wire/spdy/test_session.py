"""Two sessions that talk to each other, and both against bytes that Go's spdystream made."""

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.wire.spdy import frames
from sampan.wire.spdy.limits import Limits
from sampan.wire.spdy.session import (
    CANCEL,
    Data,
    Ended,
    Event,
    MoreHeaders,
    Opened,
    Pinged,
    Received,
    Replied,
    Session,
    SpdyError,
    WasReset,
    WentAway,
)
from tests.wire.spdy.peers import (
    STDIN,
    Client,
    carry,
    ended,
    opened,
    pair,
    plain,
    received,
    said,
    settle,
)


def test_a_stream_lives_from_open_to_the_end_of_both_sides() -> None:
    client, server = pair()
    number = client.open(STDIN)
    assert carry(client, server) == [Opened(number, STDIN, False)]
    server.reply(number, (("answer", "yes"),))
    assert carry(server, client) == [Replied(number, (("answer", "yes"),), False)]
    client.send(number, b"in")
    server.send(number, b"out")
    assert carry(client, server) == [Received(number, b"in")]
    assert carry(server, client) == [Received(number, b"out")]
    client.send(number, fin=True)
    assert carry(client, server) == [Ended(number)]
    server.send(number, b"still", fin=False)  # half-closed: the other direction goes on
    server.send(number, b" here", fin=True)
    assert carry(server, client) == [Received(number, b"still here"), Ended(number)]


@pytest.mark.parametrize("server_opens", [False, True], ids=["the client opens", "the server opens"])
def test_numbers_tell_who_opened(server_opens: bool) -> None:
    client, server = pair()
    opener, other = (server, client) if server_opens else (client, server)
    numbers = [opener.open(()) for _ in range(3)]
    assert numbers == ([2, 4, 6] if server_opens else [1, 3, 5])
    assert carry(opener, other) == [Opened(number, (), False) for number in numbers]
    other.reply(numbers[1])
    assert carry(other, opener) == [Replied(numbers[1], (), False)]


def test_an_end_may_come_with_every_frame() -> None:
    client, server = pair()
    number = client.open(STDIN, fin=True)
    assert carry(client, server) == [Opened(number, STDIN, True), Ended(number)]
    server.reply(number, fin=True)
    assert carry(server, client) == [Replied(number, (), True), Ended(number)]
    late = client.open(())
    carry(client, server)
    assert plain(server.receive(Client().headers(99)[:0])) == []
    server.send(number, b"nobody reads that")  # the stream is over: swallowed
    assert said(server) == b""
    assert late == 3


def test_headers_may_come_amid_a_stream() -> None:
    peer, server = Client(), Session(server=True)
    told = plain(server.receive(peer.syn(1) + peer.headers(1, ("a", "b")) + peer.headers(1, fin=True)))
    assert told == [
        Opened(1, (), False),
        MoreHeaders(1, (("a", "b"),), False),
        MoreHeaders(1, (), True),
        Ended(1),
    ]


def test_data_waits_for_the_reply() -> None:
    client, server = pair()
    number = client.open(())
    client.send(number, b"early")
    client.send(number, fin=True)
    assert client.backlog(number) == 5
    assert carry(client, server) == [Opened(number, (), False)]
    server.reply(number)
    carry(server, client)
    assert client.backlog(number) == 0
    assert carry(client, server) == [Received(number, b"early"), Ended(number)]


def test_payload_is_not_copied() -> None:
    client, server, number = opened()
    payload = bytes(100_000)
    client.send(number, payload)
    head, body = client.to_send()
    assert isinstance(body, memoryview)
    assert body.obj is payload
    server.receive(head)
    (event,) = server.receive(body)
    assert isinstance(event, Received)
    assert isinstance(event.data, memoryview)
    assert event.data.obj is payload


def test_more_than_a_frame_can_hold_goes_in_several() -> None:
    server = Session(server=True)
    server.receive(Client().syn(1))
    server.reply(1)
    said(server)
    server.send(1, bytes(frames.LONGEST_DATA + 5), fin=True)
    sizes = [len(part) for part in server.to_send()]
    assert sizes == [8, frames.LONGEST_DATA, 8, 5]


def test_a_reset_ends_both_ways_at_once() -> None:
    client, server, number = opened()
    client.send(number, b"on its way")
    late = said(client)
    server.reset(number)
    assert carry(server, client) == [WasReset(number, CANCEL)]
    assert server.receive(late) == []  # it crossed our reset: no violation, no event
    client.send(number, b"swallowed", fin=True)
    client.reset(number)
    client.consumed(number, 10)
    assert said(client) == b""
    assert client.backlog(number) == 0


def test_a_reset_drops_what_waits() -> None:
    client, _server = pair()
    number = client.open(())
    client.send(number, b"never")
    said(client)
    client.reset(number, frames.REFUSED_STREAM)
    assert said(client) == frames.rst_stream(number, frames.REFUSED_STREAM)


@pytest.mark.parametrize("server_asks", [False, True], ids=["the client asks", "the server asks"])
def test_pings_are_answered(server_asks: bool) -> None:
    client, server, _ = opened()
    one, other = (server, client) if server_asks else (client, server)
    numbers = [one.ping(), one.ping()]
    assert [number % 2 for number in numbers] == [0 if server_asks else 1] * 2
    assert carry(one, other) == []
    answers = said(other)
    assert plain(one.receive(answers)) == [Pinged(number) for number in numbers]
    assert plain(one.receive(answers)) == []  # answered once


def test_an_answer_to_a_ping_that_never_was_is_ignored() -> None:
    server = Session(server=True)
    assert server.receive(frames.ping(2) + frames.ping(400)) == []
    assert said(server) == b""


def test_after_the_peers_goaway_streams_go_on_and_new_ones_do_not() -> None:
    client, server, number = opened()
    unseen = client.open(())  # crosses the GOAWAY
    server.goaway()
    assert carry(server, client) == [WentAway(number, 0), WasReset(unseen, frames.REFUSED_STREAM)]
    assert carry(client, server) == []  # not looked at
    with pytest.raises(SpdyError, match="no new streams"):
        client.open(())
    client.send(number, b"goes on", fin=True)
    assert carry(client, server) == [Received(number, b"goes on"), Ended(number)]


def test_data_for_a_stream_that_came_after_our_goaway_is_ignored() -> None:
    peer, server = Client(), Session(server=True)
    server.receive(peer.syn(1))
    server.goaway()
    assert server.receive(peer.syn(3) + peer.data(3, b"x") + peer.headers(3) + frames.rst_stream(3, 5)) == []
    assert plain(server.receive(peer.headers(1, ("a", "b")))) == [MoreHeaders(1, (("a", "b"),), False)]


def test_a_server_says_nothing_before_its_client() -> None:
    client, server = pair()
    assert said(server) == b""
    assert said(client) != b""
    client.open(())
    carry(client, server)
    assert said(server) != b""  # its windows


def test_streams_beyond_the_limit_are_refused_and_places_come_back() -> None:
    client, server = pair(Limits(streams=2))
    numbers = [client.open(()) for _ in range(3)]
    assert carry(client, server) == [Opened(number, (), False) for number in numbers[:2]]
    assert WasReset(numbers[2], frames.REFUSED_STREAM) in carry(server, client)
    server.reset(numbers[0])
    carry(server, client)
    again = client.open(STDIN)
    assert carry(client, server) == [Opened(again, STDIN, False)]


def test_our_own_streams_do_not_count_for_the_peers_limit() -> None:
    client, server = pair(Limits(streams=1))
    for _ in range(5):
        server.open(())
    client.open(())
    assert carry(client, server) == [Opened(1, (), False)]


def test_wrong_calls_are_errors_of_the_caller() -> None:
    client, server = pair()
    number = client.open(())
    carry(client, server)
    with pytest.raises(ValueError, match="has to be replied to"):
        server.send(number, b"x")
    server.reply(number)
    with pytest.raises(ValueError, match="cannot be replied to"):
        server.reply(number)
    with pytest.raises(ValueError, match="cannot be replied to"):
        client.reply(number)
    server.send(number, fin=True)
    with pytest.raises(ValueError, match="after its end"):
        server.send(number, b"x")


def test_the_end_of_the_connection_is_no_event() -> None:
    _client, server, _ = opened()
    assert server.receive(b"") == []


# What moby/spdystream v0.5.0 (Go 1.26) sent as a client of ours: three streams as an exec has them, "hello world" for
# stdin, a ping, a stream that it reset, one that it opened at its end, and a GOAWAY.
BY_GO_CLIENT = bytes.fromhex("""
80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff
0000000101000000800300010000001700000003000000000000c22e555c92929907000000ffff
800300010000001900000005000000000000c22ac5565c92925f5a02000000ffff800300060000000400000001
000000030000000668656c6c6f200000000300000005776f726c64000000030100000000000005010000008003
00010000003b0000000700000000000002651890c20add92f27c7029cb9084a11654582542cafd227016b330b0
30606060e02c82a4934c50fe61340000 0000ffff8003000300000008000000070000000580030001010000170000
0009000000000000829a85294a86e900000000ffff80030007000000080000000000000000
""")

REQUEST = [("streamtype", "data"), ("port", "8080"), ("requestid", "0"), ("x-two", "a"), ("x-two", "b")]


def test_a_go_client_is_understood() -> None:
    server = Session(server=True)
    told = plain(server.receive(BY_GO_CLIENT))
    assert [event for event in told if not isinstance(event, Opened)] == [
        Ended(1),
        Received(3, b"hello world"),
        Ended(3),
        Ended(5),
        WasReset(7, CANCEL),
        Ended(9),
        WentAway(0, 0),
    ]
    by_number = {event.stream: event for event in told if isinstance(event, Opened)}
    assert [by_number[number].headers for number in (1, 3, 5)] == [
        (("streamtype", "error"),),
        (("streamtype", "stdin"),),
        (("streamtype", "stdout"),),
    ]
    assert sorted(by_number[7].headers) == sorted(by_number[9].headers) == sorted(REQUEST)
    assert by_number[9].fin
    assert frames.ping(1) in said(server)


# And as a server: a reply, the answer to our ping, an echo, its end.
BY_GO_SERVER = bytes.fromhex("""
80030002000000200000000178f9e3c6a7c2626060600497ae79c5e5e0acc15c995a0c000000ffff
8003000600000004000000010000000100000003787878000000010100000080030002000000 0c00000003c22a08000000ffff
""")


def test_a_go_server_is_understood() -> None:
    client = Session(server=False)
    first, second, ping = client.open(()), client.open(()), client.ping()
    yes = (("answer", "yes"),)
    assert plain(client.receive(BY_GO_SERVER)) == [
        Replied(first, yes, False),
        Pinged(ping),
        Received(first, b"xxx"),
        Ended(first),
        Replied(second, yes, False),
    ]


@given(st.lists(st.integers(0, len(BY_GO_CLIENT)), max_size=30))
def test_where_a_connection_is_cut_does_not_matter(cuts: list[int]) -> None:
    whole = plain(Session(server=True).receive(BY_GO_CLIENT))
    server = Session(server=True)
    bounds = [0, *sorted(cuts), len(BY_GO_CLIENT)]
    told: list[Event] = []
    for a, b in pairwise(bounds):
        told += server.receive(BY_GO_CLIENT[a:b])
    assert plain(told) == whole


class Wire:
    """One direction: bytes that were sent and have not come yet."""

    def __init__(self) -> None:
        self.queue: deque[Data] = deque()

    def take(self, size: int) -> bytes:
        data = b"".join(self.queue)
        self.queue.clear()
        self.queue.append(data[size:])
        return data[:size]


ACTIONS = st.one_of(
    st.tuples(st.just("send"), st.booleans(), st.integers(0, 3), st.integers(0, 150_000)),
    st.tuples(st.just("end"), st.booleans(), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("move"), st.booleans(), st.just(0), st.integers(1, 300_000)),
    st.tuples(st.just("ping"), st.booleans(), st.just(0), st.just(0)),
)
ALPHABET = bytes(range(251)) * 700


class Conversation:
    """A client and a server with four streams, both windows kept, and what each side should have read by now."""

    def __init__(self) -> None:
        limits = Limits(window=1 << 16, strict_windows=True)
        self.sides = dict(zip((False, True), pair(limits, limits), strict=True))
        self.wires = {False: Wire(), True: Wire()}
        client, server = self.sides[False], self.sides[True]
        self.numbers = [client.open(()) for _ in range(4)]
        settle(client, server)
        for number in self.numbers:
            server.reply(number)
        settle(client, server)
        self.sent = {(side, number): b"" for side in (False, True) for number in self.numbers}
        self.got = dict(self.sent)
        self.over: set[tuple[bool, int]] = set()
        self.seen_over: set[tuple[bool, int]] = set()

    def act(self, action: str, side: bool, which: int, size: int) -> None:
        key = side, self.numbers[which]
        if action == "move":
            self.move(side, size)
        elif action == "ping":
            self.sides[side].ping()
        elif key not in self.over:
            data = ALPHABET[which : which + size] if action == "send" else b""
            self.sides[side].send(key[1], data, fin=action == "end")
            self.sent[key] += data
            self.over |= {key} if action == "end" else set()

    def move(self, side: bool, size: int) -> bool:
        """Some bytes from this side to the other, which consumes them at once."""
        self.wires[side].queue.extend(self.sides[side].to_send())
        data = self.wires[side].take(size)
        other = self.sides[not side]
        for event in other.receive(data):
            if isinstance(event, Received):
                assert (side, event.stream) not in self.seen_over
                self.got[side, event.stream] += bytes(event.data)
                other.consumed(event.stream, len(event.data))
            elif isinstance(event, Ended):
                self.seen_over.add((side, event.stream))
            else:
                assert isinstance(event, Pinged)
        return bool(data)

    def finish(self) -> None:
        while self.move(False, 1 << 30) | self.move(True, 1 << 30):
            pass


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_all_data_arrives_in_order_whatever_happens_in_between(
    actions: list[tuple[str, bool, int, int]],
) -> None:
    talk = Conversation()
    for action in actions:
        talk.act(*action)
    talk.finish()
    assert talk.got == talk.sent
    assert talk.seen_over == talk.over
    assert [talk.sides[side].backlog(number) for side in (False, True) for number in talk.numbers] == [0] * 8


def test_large_data_both_ways_at_once_keeps_its_order() -> None:
    client, server, number = opened()
    up, down = ALPHABET * 20, ALPHABET[::-1] * 20
    client.send(number, up, fin=True)
    server.send(number, down, fin=True)
    to_client: list[Event] = []
    to_server: list[Event] = []
    for _ in range(1000):
        if not (ended(to_client, number) and ended(to_server, number)):
            for mine, theirs, told in ((client, server, to_server), (server, client, to_client)):
                for event in theirs.receive(said(mine)):
                    told.append(event)
                    if isinstance(event, Received):
                        theirs.consumed(number, len(event.data))
    assert received(to_server, number) == up
    assert received(to_client, number) == down
