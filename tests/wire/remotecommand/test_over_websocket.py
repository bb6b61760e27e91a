"""Sessions in WebSocket messages: every subprotocol, in any cut, and clients that break the rules."""

import base64
import json
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.wire import websocket
from sampan.wire.protocol_error import ProtocolError
from sampan.wire.remotecommand.channels import (
    Channel,
    Event,
    Input,
    InputEnd,
    Left,
    Ready,
    RemoteCommand,
    Resize,
    Wanted,
)
from sampan.wire.remotecommand.over_websocket import PROTOCOLS, V4, V4_BASE64, V5, OverWebSocket
from sampan.wire.remotecommand.status import Status
from sampan.wire.upgrade import HeadReader, negotiate

ALL = Wanted(stdin=True, stdout=True, stderr=True)
TTY = Wanted(stdin=True, stdout=True, tty=True)
JSON = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io")

Said = tuple[bool, bytes]
"""A message: is it text, and its bytes."""


class Peer:
    """A client that says and hears whole messages in the protocol's own form."""

    def __init__(self, wanted: Wanted, protocol: str) -> None:
        self.base64 = "base64" in protocol
        self.socket = websocket.WebSocket(server=False)
        self.server = OverWebSocket(wanted, protocol)
        self.closed: int | None = None

    def say(self, channel: int, data: bytes) -> None:
        if self.base64:
            self.socket.send(base64.b64encode(data), prefix=bytes((48 + channel,)), text=True)
        else:
            self.socket.send(data, prefix=bytes((channel,)))

    def told(self, *cuts: int) -> list[Event]:
        """What the server makes of all that was said, cut into such pieces."""
        wire = b"".join(self.socket.to_send())
        events: list[Event] = []
        for cut in (*cuts, len(wire)):
            if wire:
                events += self.server.receive(wire[:cut])
            wire = wire[cut:]
        return events

    def heard(self) -> list[Said]:
        said: list[Said] = []
        for event in self.socket.receive(b"".join(self.server.to_send()) or b"\x8a\x00"):
            if isinstance(event, websocket.Piece):
                assert event.first and event.last
                said.append((event.text, bytes(event.data)))
            elif isinstance(event, websocket.Closed):
                self.closed = event.code
        return said

    def form(self, channel: int, data: bytes) -> Said:
        if self.base64:
            return True, b"%d" % channel + base64.b64encode(data)
        return False, bytes((channel,)) + data


def joined(events: list[Event]) -> list[Event]:
    """Input in one piece, however it was cut."""
    whole: list[Event] = []
    for event in events:
        if isinstance(event, Input):
            before = whole.pop() if whole and isinstance(whole[-1], Input) else Input(b"")
            assert isinstance(before, Input)
            whole.append(Input(bytes(before.data) + bytes(event.data)))
        else:
            whole.append(event)
    return whole


def test_it_is_a_remote_command() -> None:
    session: RemoteCommand = OverWebSocket(ALL, V5)
    assert session.backlog() == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_session_goes_its_way_in_every_protocol(protocol: str) -> None:
    peer = Peer(ALL, protocol)
    assert peer.server.start() == [Ready()]
    assert peer.heard() == [peer.form(1, b"")]
    data = random.Random(1).randbytes(100_000)
    peer.say(0, data)
    assert joined(peer.told(10, 50_000)) == [Input(data)]
    peer.server.consumed(len(data))
    peer.server.send(Channel.STDOUT, memoryview(data))
    peer.server.send(Channel.STDERR, b"oh")
    assert peer.heard() == [peer.form(1, data), peer.form(2, b"oh")]
    peer.server.finish(Status(7))
    *status, (_, last) = peer.heard()
    assert not status
    said = base64.b64decode(last[1:]) if peer.base64 else last[1:]
    assert last[:1] == (b"3" if peer.base64 else b"\x03")
    if protocol in JSON:
        assert json.loads(said)["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    else:
        assert said == b"command terminated with non-zero exit code 7"
    assert peer.closed == 1000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_success_is_said_from_v4_on(protocol: str) -> None:
    peer = Peer(ALL, protocol)
    peer.server.finish(Status())
    assert len(peer.heard()) == (1 if protocol in JSON else 0)
    assert peer.closed == 1000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_terminals_have_a_size_and_no_stderr(protocol: str) -> None:
    peer = Peer(Wanted(stdin=True, stdout=True, stderr=True, tty=True), protocol)
    peer.say(4, b'{"Width":80,')
    peer.say(4, b'"Height":24}')
    assert peer.told() == [Resize(80, 24)]
    peer.server.send(Channel.STDERR, b"never")
    assert peer.heard() == []


def test_sizes_are_ignored_without_a_terminal() -> None:
    peer = Peer(ALL, V4)
    peer.say(4, b"rubbish")
    assert peer.told() == []


@pytest.mark.parametrize(
    ("wanted", "channel"),
    [(ALL, 1), (Wanted(stderr=True), 2), (Wanted(stdin=True), 3), (Wanted(stderr=True, tty=True), 3)],
)
def test_the_first_message_is_empty_on_the_lowest_channel(wanted: Wanted, channel: int) -> None:
    peer = Peer(wanted, V4)
    peer.server.start()
    assert peer.heard() == [(False, bytes((channel,)))]


@settings(deadline=None)
@given(
    said=st.lists(st.binary(max_size=60), max_size=6),
    cuts=st.lists(st.integers(1, 30), max_size=30),
    protocol=st.sampled_from(PROTOCOLS),
)
def test_input_is_the_same_in_any_cut(said: list[bytes], cuts: list[int], protocol: str) -> None:
    peer = Peer(ALL, protocol)
    for data in said:
        peer.say(0, data)
    whole = b"".join(said)
    assert joined(peer.told(*cuts)) == ([Input(whole)] if whole else [])


def test_v5_ends_the_input_once() -> None:
    peer = Peer(ALL, V5)
    peer.say(0, b"x")
    for _ in range(2):
        peer.say(255, b"\x00")
    peer.say(255, b"\x04")
    peer.say(0, b"late")
    assert joined(peer.told(*[1] * 100)) == [Input(b"x"), InputEnd()]


def test_a_half_close_may_come_in_fragments() -> None:
    server = OverWebSocket(ALL, V5)
    fragments = b"\x02\x80\0\0\0\0" + b"\x00\x81\0\0\0\0\xff" + b"\x80\x81\0\0\0\0\x00"
    assert server.receive(fragments) == [InputEnd()]


def test_v4_knows_no_end_of_input() -> None:
    peer = Peer(ALL, V4)
    peer.say(255, b"\x00")
    peer.say(255, b"too long")
    peer.say(0, b"x")
    assert peer.told() == [Input(b"x")]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_channels_that_are_not_the_clients_are_ignored(protocol: str) -> None:
    peer = Peer(Wanted(stdout=True), protocol)
    for channel in (0, 1, 2, 3, 5, 70):
        peer.say(channel, b"!!!!")
    peer.socket.send(b"")
    assert peer.told() == []
    assert peer.heard() == []


def test_text_messages_carry_raw_channels_too() -> None:
    peer = Peer(ALL, V4)
    peer.socket.send(b"abc", prefix=b"\x00", text=True)
    assert joined(peer.told()) == [Input(b"abc")]


def test_base64_may_have_line_ends() -> None:
    peer = Peer(ALL, V4_BASE64)
    peer.socket.send(b"YW\r\nJj\nZA==\n", prefix=b"0")
    assert joined(peer.told(*[1] * 40)) == [Input(b"abcd")]


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (V5, b"\xff"),
        (V5, b"\xff\x00\x00"),
        (V5, b"\xff\x05"),
        (V5, b"\xff\xff"),
        (V5, b"\x04nonsense}"),
        (V5, b"\x04" + b" " * 5000),
        (V4_BASE64, b"0YQ"),
        (V4_BASE64, b"0YQ="),
        (V4_BASE64, b"0YQ==YQ=="),
        (V4_BASE64, b"0Y!=="),
        (V4_BASE64, b"0===="),
        (V4_BASE64, "0äää".encode()),
        (V4_BASE64, b"4" + base64.b64encode(b"nonsense}")),
    ],
)
@pytest.mark.parametrize("cut", [1, 3, 10_000])
def test_a_client_that_breaks_the_rules_is_told_and_left(protocol: str, message: bytes, cut: int) -> None:
    peer = Peer(Wanted(stdin=True, stdout=True, tty=True), protocol)
    peer.socket.send(message)
    with pytest.raises(ProtocolError):
        peer.told(*[cut] * 6000)
    assert peer.heard() == []
    assert peer.closed == 1002
    assert peer.server.receive(b"") in ([], [Left("the connection ended without a Close frame")])


def test_a_client_may_leave() -> None:
    peer = Peer(ALL, V5)
    peer.socket.close(1001, "bye")
    assert peer.told() == [Left("the client closed the session (code 1001): bye")]
    peer.server.send(Channel.STDOUT, b"never")
    peer.server.finish(Status())
    assert peer.heard() == []


def test_a_connection_may_end() -> None:
    server = OverWebSocket(ALL, V5)
    assert server.receive(b"") == [Left("the connection ended without a Close frame")]
    assert server.receive(b"") == []


def test_after_the_end_only_leaving_is_heard() -> None:
    peer = Peer(TTY, V5)
    peer.server.finish(Status())
    peer.say(0, b"late")
    peer.say(4, b"rubbish}")
    peer.say(255, b"rubbish")
    assert peer.told() == []
    peer.heard()
    assert peer.told() == [Left("the client closed the session (code 1000)")]


def test_fifty_thousand_fuzzed_messages_only_ever_break_the_protocol() -> None:
    broken, heard = _survived(50_000)
    assert broken > 1_000
    assert heard > 1_000


def test_fuzzed_messages_leave_nothing_in_memory() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        _survived(3_000)
        assert tracemalloc.get_traced_memory()[1] - before < 1 << 20
    finally:
        tracemalloc.stop()


def _survived(count: int) -> tuple[int, int]:
    """How often the protocol was broken, and how many events there were."""
    chance = random.Random(7)
    broken = heard = 0
    for protocol in PROTOCOLS:
        server = OverWebSocket(Wanted(stdin=True, stdout=True, tty=True), protocol)
        for _ in range(-(-count // len(PROTOCOLS))):
            wire = _message(_fuzzed(chance))
            cut = chance.randrange(len(wire))
            try:
                heard += len(server.receive(wire[:cut] or b"\x8a\x80\0\0\0\0"))
                heard += len(server.receive(wire[cut:]))
            except ProtocolError:
                broken += 1
                assert server.to_send()
                server = OverWebSocket(Wanted(stdin=True, stdout=True, tty=True), protocol)
    return broken, heard


def _message(body: bytes) -> bytes:
    """A client's binary message, with a mask that changes nothing."""
    return b"\x82" + bytes((0x80 | len(body),)) + bytes(4) + body


def _fuzzed(chance: random.Random) -> bytes:
    size = chance.choice((0, 0, 1, 1, 2, 3, 4, 8, 30))
    body = chance.choice(
        (
            chance.randbytes(size),
            base64.b64encode(chance.randbytes(size)),
            b'{"Width":%d,"Height":%d}' % (chance.randrange(70_000), size),
            b"\x00",
        )
    )
    return chance.choice((b"", b"\x00", b"\x00", b"0", b"0", b"\x04", b"4", b"\xff", b"9")) + body


def test_a_message_of_a_gigabyte_is_never_held() -> None:
    server = OverWebSocket(ALL, V5)
    server.receive(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + b"mask" + b"m")  # m masks to 0: stdin
    chunk, count = bytes(128 << 10), 0
    tracemalloc.start()
    try:
        for _ in range(1 << 13):
            for event in server.receive(chunk):
                assert isinstance(event, Input)
                count += len(event.data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert count == (1 << 30) - 1


def test_a_flood_of_tiny_messages_makes_few_events() -> None:
    server = OverWebSocket(TTY, V5)
    tiny = b"\x82\x82\0\0\0\0\x00x" + b"\x82\x83\0\0\0\0\x04{}"
    assert server.receive(tiny * 5000) == [Resize(0, 0), Input(b"x" * 5000)]


# What a real client says

CAT = base64.b64decode(
    "R0VUIC9leGVjL3RvayBIVFRQLzEuMQ0KSG9zdDogMTI3LjAuMC4xOjQ1MTk1DQpVc2VyLUFnZW50OiBHby1odHRwLWNsaWVudC8x"
    "LjENCkNvbm5lY3Rpb246IFVwZ3JhZGUNClNlYy1XZWJTb2NrZXQtS2V5OiBrekwxNGRyRVg3eUtFY2w5ZmlxUEJBPT0NClNlYy1X"
    "ZWJTb2NrZXQtUHJvdG9jb2w6IHY1LmNoYW5uZWwuazhzLmlvDQpTZWMtV2ViU29ja2V0LVZlcnNpb246IDEzDQpVcGdyYWRlOiB3"
    "ZWJzb2NrZXQNCg0KgodkzhCRZKZ1/QihGoKCZ/tTy5j7iIK+DZfcveU="
)
"""What crictl 1.36 sent for `echo hello | crictl exec -i x cat` over WebSocket."""

TERMINAL = base64.b64decode(
    "R0VUIC9leGVjL3RvayBIVFRQLzEuMQ0KSG9zdDogMTI3LjAuMC4xOjQ1MTk1DQpVc2VyLUFnZW50OiBHby1odHRwLWNsaWVudC8x"
    "LjENCkNvbm5lY3Rpb246IFVwZ3JhZGUNClNlYy1XZWJTb2NrZXQtS2V5OiBSczJJd0tWRXNCaEEyenZnT3ZPVjJ3PT0NClNlYy1X"
    "ZWJTb2NrZXQtUHJvdG9jb2w6IHY1LmNoYW5uZWwuazhzLmlvDQpTZWMtV2ViU29ja2V0LVZlcnNpb246IDEzDQpVcGdyYWRlOiB3"
    "ZWJzb2NrZXQNCg0KgppOt6ALSsyCXCfT1GNsjZg7YpXobifQyH9sjZI/M72Ch/DIvLLwvMXClay2goIXzHseF8iCglwjAgpcJ4mA"
    "BbJ++g=="
)
"""What it sent for `crictl exec -it x cat` in a terminal of 80 by 24, where someone typed, then Ctrl-D twice."""


def replayed(recording: bytes, wanted: Wanted, sizes: list[int]) -> list[Event]:
    """The events of a recorded connection that came in such pieces."""
    events: list[Event] = []
    reader, session = HeadReader(), None
    for size in [*sizes, len(recording)]:
        part, recording = recording[:size], recording[size:]
        if session is None and part and (head := reader.receive(part)):
            session = OverWebSocket(wanted, negotiate(head, spdy=PROTOCOLS, websocket=PROTOCOLS).protocol)
            events += session.start()
            part = head.rest
        if session and part:
            events += session.receive(part)
    return joined(events)


@settings(deadline=None)
@given(st.one_of(st.just([1] * 1000), st.lists(st.integers(1, 50), max_size=50)))
def test_crictl_is_understood_in_any_cut(sizes: list[int]) -> None:
    cat: list[Event] = [Ready(), Input(b"hello\n"), InputEnd()]
    assert [event for event in replayed(CAT, ALL, sizes) if not isinstance(event, Left)] == cat
    terminal: list[Event] = [Ready(), Resize(80, 24), Input(b"typed\n\x04\x04")]
    assert [event for event in replayed(TERMINAL, TTY, sizes) if not isinstance(event, Left)] == terminal
