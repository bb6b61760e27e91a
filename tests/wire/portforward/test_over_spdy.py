"""Port-forward over SPDY, against a SPDY client that behaves as client-go's does, and against one that does not."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.wire.portforward.forward import Data, Dropped, Event, HalfClosed, Left, Opened, Received
from sampan.wire.portforward.over_spdy import OverSpdy, port_number
from sampan.wire.protocol_error import ProtocolError
from sampan.wire.spdy import session as spdy
from sampan.wire.spdy.frames import data_head


class Client:
    """A client's side of a session, and what the server has told it."""

    def __init__(self, connections: int = 256) -> None:
        self.session = spdy.Session(server=False)
        self.talk = OverSpdy(connections)
        self.heard: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.was_reset: set[int] = set()
        self.replied: set[int] = set()

    def exchange(self) -> list[Event]:
        """Carry everything over, both ways, until nobody has more to say."""
        events: list[Event] = []
        while out := b"".join(self.session.to_send()):
            events += self.talk.receive(out)
            self.listen()
        self.listen()
        return events

    def listen(self) -> None:
        for event in self.session.receive(b"".join(self.talk.to_send())):
            match event:
                case spdy.Replied(stream):
                    self.replied.add(stream)
                case spdy.Received(stream, data):
                    self.heard[stream] = self.heard.get(stream, b"") + bytes(data)
                    self.session.consumed(stream, len(data))
                case spdy.Ended(stream):
                    self.ended.add(stream)
                case spdy.WasReset(stream):
                    self.was_reset.add(stream)

    def open(self, kind: str, request: str = "", port: str = "80", *, fin: bool = False) -> int:
        headers = [("streamtype", kind), ("port", port)]
        if request:
            headers.append(("requestid", request))
        return self.session.open(tuple(headers), fin=fin)

    def connect(self, request: str = "1", port: str = "80") -> tuple[int, int, list[Event]]:
        """As kubectl: the error stream, half-closed at once, then the data stream."""
        error = self.open("error", request, port)
        self.session.send(error, fin=True)
        data = self.open("data", request, port)
        return error, data, self.exchange()


def joined(events: Sequence[Event]) -> list[Event]:
    """`events` with neighbouring bytes of a connection in one."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, Received) and isinstance(last, Received) and last.connection == event.connection:
            out[-1] = Received(event.connection, bytes(last.data) + bytes(event.data))
        elif isinstance(event, Received):
            out.append(Received(event.connection, bytes(event.data)))
        else:
            out.append(event)
    return out


def test_a_pair_of_streams_is_a_connection() -> None:
    client = Client()
    error, data, events = client.connect("7", "8080")
    assert events == [Opened(1, 8080)]
    assert client.replied == {error, data}
    assert list(client.talk.start()) == []


def test_bytes_go_both_ways_and_each_way_ends_for_itself() -> None:
    client = Client()
    error, data, _ = client.connect()
    client.session.send(data, b"ping", fin=True)
    assert joined(client.exchange()) == [Received(1, b"ping"), HalfClosed(1)]
    client.talk.send(1, b"pong")
    client.talk.end(1)
    client.listen()
    assert client.heard == {data: b"pong"}
    assert client.ended == {data}
    client.talk.close(1)
    client.listen()
    assert client.ended == {data, error}
    assert not client.was_reset


def test_the_port_may_end_first() -> None:
    client = Client()
    _, data, _ = client.connect()
    client.talk.end(1)
    client.listen()
    client.session.send(data, b"more")
    assert joined(client.exchange()) == [Received(1, b"more")]
    client.session.send(data, fin=True)
    assert client.exchange() == [HalfClosed(1)]


def test_words_of_a_failure_reach_the_error_stream_before_its_end() -> None:
    client = Client()
    error, data, _ = client.connect()
    client.talk.fail(1, "nobody listens")
    client.listen()
    assert client.heard == {error: b"nobody listens"}
    assert client.ended == {error}
    assert client.was_reset == {data}
    client.talk.close(1)  # nothing more happens
    client.listen()
    assert client.was_reset == {data}


def test_a_failure_does_not_touch_the_others() -> None:
    client = Client()
    client.connect("1")
    _, second, _ = client.connect("2")
    client.talk.fail(1, "nobody listens")
    client.talk.send(2, b"still here")
    client.listen()
    assert client.heard[second] == b"still here"


def test_a_client_that_resets_its_data_stream_still_gets_the_end_of_its_error_stream() -> None:
    """kubectl waits for that end."""
    client = Client()
    error, data, _ = client.connect()
    client.session.reset(data)
    assert client.exchange() == [Dropped(1)]
    assert client.ended == {error}
    client.talk.send(1, b"late")
    client.talk.end(1)
    client.talk.fail(1, "late")
    client.talk.close(1)
    client.listen()
    assert client.heard == {}


def test_a_client_that_goes_on_sending_after_the_close_is_told() -> None:
    client = Client()
    _, data, _ = client.connect()
    client.session.send(data, b"first")
    client.exchange()
    client.talk.close(1)
    client.listen()
    assert data in client.ended
    assert data in client.was_reset


def test_a_client_that_keeps_its_error_stream_open_does_not_keep_it() -> None:
    client = Client(connections=1)
    for request in ("1", "2", "3"):
        error, data = client.open("error", request), client.open("data", request)
        [opened] = client.exchange()
        assert isinstance(opened, Opened)
        client.session.send(data, fin=True)
        client.exchange()
        client.talk.close(opened.connection)
        client.listen()
        assert error in client.was_reset


def test_a_reset_error_stream_leaves_the_connection_alone() -> None:
    client = Client()
    error, data = client.open("error", "1"), client.open("data", "1")
    client.exchange()
    client.session.reset(error)
    assert client.exchange() == []
    client.talk.send(1, b"on")
    client.listen()
    assert client.heard == {data: b"on"}
    client.talk.fail(1, "words that nobody hears")
    client.listen()
    assert data in client.was_reset


@pytest.mark.parametrize("first", ["error", "data"])
def test_halves_come_in_any_order(first: str) -> None:
    client = Client()
    client.open(first, "9")
    assert client.exchange() == []
    client.open("data" if first == "error" else "error", "9")
    assert client.exchange() == [Opened(1, 80)]


def test_what_a_lonely_data_stream_says_waits_for_its_error_stream() -> None:
    client = Client()
    data = client.open("data", "9")
    client.session.send(data, b"early", fin=True)
    assert client.exchange() == []
    client.open("error", "9")
    assert joined(client.exchange()) == [Opened(1, 80), Received(1, b"early"), HalfClosed(1)]


def test_a_lonely_data_stream_may_not_say_much() -> None:
    client = Client()
    data = client.open("data", "9")
    client.exchange()
    for _ in range(5):  # as a client that knows no windows
        client.talk.receive(data_head(data, 64 << 10, False) + bytes(64 << 10))
    client.listen()
    assert client.was_reset == {data}
    assert not client.talk.incomplete


def test_old_clients_name_no_request() -> None:
    client = Client()
    client.open("error")
    client.open("data")
    assert client.exchange() == [Opened(1, 80)]
    client.open("error")
    client.open("data")
    assert client.exchange() == [Opened(2, 80)]


def test_interleaved_requests_find_their_halves() -> None:
    client = Client()
    client.open("error", "a", "1")
    client.open("error", "b", "2")
    client.open("data", "b", "2")
    client.open("data", "a", "1")
    assert client.exchange() == [Opened(1, 2), Opened(2, 1)]


def test_a_request_can_be_used_again_after_its_pair_was_whole() -> None:
    client = Client()
    assert client.connect("1")[2] == [Opened(1, 80)]
    assert client.connect("1")[2] == [Opened(2, 80)]


@pytest.mark.parametrize("port", ["", "0", "-1", "65536", "99999999999", "http", "8 0", "٣", "+80"])
def test_a_stream_for_no_port_is_refused(port: str) -> None:
    client = Client()
    error = client.open("error", "1", port)
    assert client.exchange() == []
    assert client.was_reset == {error}
    assert client.connect("2")[2] == [Opened(1, 80)]


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), ("65535", 65535), ("00080", 80), ("65536", 0), ("", 0)]
)
def test_port_numbers(text: str, number: int) -> None:
    assert port_number(text) == number


@pytest.mark.parametrize("kind", ["", "stdin", "Data"])
def test_a_stream_of_no_known_type_is_refused(kind: str) -> None:
    client = Client()
    stream = client.open(kind, "1")
    client.exchange()
    assert client.was_reset == {stream}


def test_a_second_half_of_the_same_kind_is_refused_and_the_first_stays() -> None:
    client = Client()
    client.open("error", "1")
    again = client.open("error", "1")
    client.open("data", "1")
    assert client.exchange() == [Opened(1, 80)]
    assert client.was_reset == {again}


def test_one_connection_too_many_is_refused_and_the_session_stays() -> None:
    client = Client(connections=2)
    client.connect("1")
    _, second, _ = client.connect("2")
    error, data, events = client.connect("3")
    assert events == []
    assert {error, data} <= client.was_reset
    client.talk.send(2, b"on")
    client.session.send(second, fin=True)
    client.exchange()
    assert client.heard[second] == b"on"
    client.talk.close(2)
    client.exchange()
    assert client.connect("4")[2] == [Opened(3, 80)]


def test_halves_that_stay_alone_are_forgotten_at_the_second_call() -> None:
    client = Client()
    error = client.open("error", "1")
    client.exchange()
    assert client.talk.incomplete
    client.talk.forget_incomplete()
    later = client.open("error", "2")
    client.exchange()
    client.talk.forget_incomplete()
    client.listen()
    assert client.was_reset == {error}
    assert client.talk.incomplete
    client.talk.forget_incomplete()
    client.listen()
    assert client.was_reset == {error, later}
    assert not client.talk.incomplete


def test_a_lonely_half_that_is_reset_is_forgotten() -> None:
    client = Client()
    client.session.reset(client.open("error", "1"))
    assert client.exchange() == []
    assert not client.talk.incomplete
    assert client.connect("1")[2] == [Opened(1, 80)]


def test_the_session_ends_with_its_connection() -> None:
    client = Client()
    client.connect()
    assert client.talk.receive(b"") == (Left("the connection ended"),)
    assert client.talk.receive(b"") == ()


def test_a_client_that_goes_away_may_finish_what_it_has() -> None:
    client = Client()
    _, data, _ = client.connect()
    client.session.goaway()
    assert client.exchange() == []
    client.session.reset(data)
    assert client.exchange() == [Dropped(1), Left("the client closed the session")]
    assert client.talk.over


def test_a_client_that_goes_away_is_over_when_its_last_port_is() -> None:
    client = Client()
    _, data, _ = client.connect()
    client.session.send(data, fin=True)
    client.session.goaway()
    client.exchange()
    assert not client.talk.over
    client.talk.close(1)
    assert client.talk.over


def test_noise_is_a_protocol_error_and_the_client_is_told() -> None:
    client = Client()
    client.connect()
    with pytest.raises(ProtocolError):
        client.talk.receive(b"\x80\x03\x00\x63\x00\x00\x00\x00" * 4 + b"GET / HTTP/1.1\r\n\r\n" * 10)
    assert b"".join(client.talk.to_send())


def test_a_client_with_windows_gets_no_more_than_it_can_take() -> None:
    """It has shown that it knows windows by the SETTINGS that it began with."""
    client = Client()
    _, data, _ = client.connect()
    big = bytes(1 << 20)
    client.talk.send(1, big)
    client.talk.end(1)
    assert client.talk.backlog(1) == len(big) - spdy.Limits().window
    client.listen()
    while client.exchange() or client.talk.backlog(1):
        pass
    assert client.heard[data] == big
    assert data in client.ended


def test_closing_does_not_cut_off_what_waits_for_a_window() -> None:
    client = Client()
    _, data, _ = client.connect()
    big = bytes(1 << 20)
    client.talk.send(1, big)
    client.talk.close(1)
    client.listen()
    client.session.send(data, b"nobody listens")
    for _ in range(10):
        assert client.exchange() == []
    assert client.heard[data] == big
    assert data in client.ended


def test_what_is_consumed_is_given_back_as_window() -> None:
    client = Client()
    _, data, _ = client.connect()
    client.session.send(data, bytes(400 << 10))
    got = sum(len(event.data) for event in client.exchange() if isinstance(event, Received))
    assert got == 400 << 10
    client.talk.consumed(1, got)
    assert b"".join(client.talk.to_send())


def cuts(data: bytes, at: Sequence[int]) -> Iterator[bytes]:
    places = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    for start, end in pairwise(places):
        if start < end:
            yield data[start:end]


@cache
def conversation() -> bytes:
    """What a whole session of a client is: three connections with bytes, one dropped, a ping."""
    client = Client()
    sent: list[Data] = []

    def flush() -> None:
        out = client.session.to_send()
        sent.extend(out)
        client.talk.receive(b"".join(out))
        client.listen()

    for request, port in (("1", "80"), ("2", "443"), ("3", "53")):
        error = client.open("error", request, port)
        client.session.send(error, fin=True)
        data = client.open("data", request, port)
        flush()
        client.session.send(data, request.encode() * 100)
        if request == "2":
            client.session.reset(data)
        else:
            client.session.send(data, fin=True)
        client.session.ping()
        flush()
    return b"".join(sent)


@given(st.lists(st.integers(min_value=0, max_value=4096), max_size=20))
def test_it_does_not_matter_how_the_bytes_are_cut(at: list[int]) -> None:
    talk = OverSpdy()
    events = [event for part in cuts(conversation(), at) for event in talk.receive(part)]
    assert joined(events) == EXPECTED


EXPECTED: list[Event] = [
    Opened(1, 80),
    Received(1, b"1" * 100),
    HalfClosed(1),
    Opened(2, 443),
    Received(2, b"2" * 100),
    Dropped(2),
    Opened(3, 53),
    Received(3, b"3" * 100),
    HalfClosed(3),
]


def test_byte_by_byte_is_the_same() -> None:
    data = conversation()
    talk = OverSpdy()
    events = [event for at in range(len(data)) for event in talk.receive(data[at : at + 1])]
    assert joined(events) == EXPECTED
