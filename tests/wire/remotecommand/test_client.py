"""Our client against our server, through the handshake, in any cut."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.wire.protocol_error import ProtocolError
from sampan.wire.remotecommand import channels, over_websocket
from sampan.wire.remotecommand.channels import Channel, Input, InputEnd, Resize, Wanted
from sampan.wire.remotecommand.client import Client, Event, Finished, Left, Output, Started
from sampan.wire.remotecommand.over_websocket import V1, V4, V5, OverWebSocket
from sampan.wire.remotecommand.status import MOST, Status
from sampan.wire.upgrade import HeadReader, Refused, negotiate

TTY = Wanted(stdin=True, stdout=True, tty=True)
BOTH = Wanted(stdin=True, stdout=True, stderr=True)


class Line:
    """A client, a server of a session, and the connection between them, which cuts as it likes."""

    def __init__(
        self, wanted: Wanted, known: tuple[str, ...] = over_websocket.PROTOCOLS, seed: int = 0
    ) -> None:
        self.client = Client("/exec/token?x=1", "127.0.0.1:1234")
        self.known = known
        self.wanted = wanted
        self.reader = HeadReader()
        self.server: OverWebSocket | None = None
        self.cut = random.Random(seed)
        self.answer: list[bytes] = []
        self.seen: list[channels.Event] = []  # by the server
        self.heard: list[Event] = []  # by the client

    def carry(self) -> None:
        """Until neither side has more to say."""
        busy = True
        while busy:
            up = b"".join(self.client.to_send())
            for part in self._pieces(up):
                self._serve(part)
            down = b"".join([*self.answer, *(self.server.to_send() if self.server else ())])
            self.answer.clear()
            for part in self._pieces(down):
                self.heard += self.client.receive(part)
            busy = bool(up or down)

    def _serve(self, part: bytes) -> None:
        if self.server:
            self.seen += self.server.receive(part)
            return
        head = self.reader.receive(part)
        if head:
            upgrade = negotiate(head, spdy=(), websocket=self.known)
            self.answer.append(upgrade.response)
            self.server = OverWebSocket(self.wanted, upgrade.protocol)
            self.seen += self.server.start()
            if head.rest:
                self.seen += self.server.receive(head.rest)

    def _pieces(self, data: bytes) -> list[bytes]:
        pieces = []
        while data:
            size = self.cut.choice((1, 2, 5, 40, 1000, 100_000))
            pieces.append(data[:size])
            data = data[size:]
        return pieces


def output(events: list[Event], channel: Channel) -> bytes:
    return b"".join(bytes(e.data) for e in events if isinstance(e, Output) and e.channel is channel)


def fed(events: list[channels.Event]) -> bytes:
    return b"".join(bytes(event.data) for event in events if isinstance(event, Input))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.binary(max_size=3000), st.binary(max_size=3000), st.integers(0, 255))
def test_a_whole_session_in_random_cuts(seed: int, given_input: bytes, said: bytes, code: int) -> None:
    line = Line(BOTH, seed=seed)
    line.carry()
    assert line.heard == [Started(can_end_input=True)]
    line.client.send_input(given_input)
    line.client.end_input()
    line.carry()
    assert fed(line.seen) == given_input
    assert line.seen[-1] == InputEnd()
    assert line.server
    line.server.send(Channel.STDOUT, said)
    line.server.send(Channel.STDERR, said[::-1])
    line.server.finish(Status(code))
    line.carry()
    assert output(line.heard, Channel.STDOUT) == said
    assert output(line.heard, Channel.STDERR) == said[::-1]
    assert line.heard[-2:] == [Finished(Status(code)), Left("the server closed the session (code 1000)")]
    assert isinstance(line.seen[-1], channels.Left)


def test_what_is_said_before_the_server_answers_is_said_then() -> None:
    line = Line(TTY)
    line.client.resize(80, 24)
    line.client.send_input(b"early")
    line.client.end_input()
    line.carry()
    assert line.seen[:2] == [channels.Ready(), Resize(80, 24)]
    assert fed(line.seen) == b"early"
    assert line.seen[-1] == InputEnd()


def test_an_old_server_cannot_end_the_input() -> None:
    line = Line(BOTH, known=(V4,))
    line.client.end_input()
    line.carry()
    line.client.end_input()
    line.client.send_input(b"x")
    line.carry()
    assert line.heard == [Started(can_end_input=False)]
    assert fed(line.seen) == b"x"
    assert InputEnd() not in line.seen


def test_a_server_that_knows_neither_is_refused_by_it() -> None:
    line = Line(BOTH, known=(V1,))
    with pytest.raises(Refused, match="the client supports"):
        line.carry()


def test_the_client_may_leave_and_hears_what_is_on_its_way() -> None:
    line = Line(BOTH)
    line.carry()
    assert line.server
    line.server.send(Channel.STDOUT, b"last")
    line.client.leave()
    line.carry()
    assert output(line.heard, Channel.STDOUT) == b"last"
    assert isinstance(line.heard[-1], Left)
    assert isinstance(line.seen[-1], channels.Left)


def test_a_connection_that_ends_is_told() -> None:
    line = Line(BOTH)
    line.carry()
    assert line.client.receive(b"") == [Left("the connection ended")]
    assert line.client.receive(b"") == []


def test_a_ping_is_answered_and_makes_no_event() -> None:
    line = Line(BOTH)
    line.carry()
    line.client.ping()
    line.carry()
    assert line.heard == [Started(can_end_input=True)]


def test_output_is_not_copied() -> None:
    line = Line(BOTH)
    line.carry()
    assert line.server
    line.server.send(Channel.STDOUT, bytes(10_000))
    wire = b"".join(line.server.to_send())
    (event,) = line.client.receive(wire)
    assert isinstance(event, Output)
    assert isinstance(event.data, memoryview)
    assert event.data.obj is wire


def test_a_status_without_end_is_refused() -> None:
    line = Line(BOTH, known=(V5,))
    line.carry()
    with pytest.raises(ProtocolError, match="bytes of status"):
        line.client.receive(b"\x82\x7f" + (MOST + 2).to_bytes(8, "big") + b"\x03" + bytes(MOST + 1))


def test_channels_that_nobody_knows_are_ignored() -> None:
    line = Line(BOTH)
    line.carry()
    assert line.client.receive(b"\x82\x03\x09hi" + b"\x82\x02\x00x" + b"\x82\x00" + b"\x82\x01\x03") == []
