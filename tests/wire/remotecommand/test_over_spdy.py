"""Sessions in SPDY streams: every version, in any cut, in any order of streams, and clients that break the rules."""

import base64
import json
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.wire.protocol_error import ProtocolError
from sampan.wire.remotecommand.channels import (
    Channel,
    Data,
    Event,
    Input,
    InputEnd,
    Left,
    Ready,
    RemoteCommand,
    Resize,
    Wanted,
)
from sampan.wire.remotecommand.over_spdy import PROTOCOLS, V1, V2, V3, V4, OverSpdy
from sampan.wire.remotecommand.status import Status
from sampan.wire.spdy import session as spdy
from sampan.wire.upgrade import HeadReader, negotiate

ALL = Wanted(stdin=True, stdout=True, stderr=True)
TTY = Wanted(stdin=True, stdout=True, stderr=True, tty=True)
OF_ALL = ("error", "stdin", "stdout", "stderr")
OF_TTY = ("error", "stdin", "stdout", "resize")


class Peer:
    """A client of SPDY streams; what it heard is kept by stream type."""

    def __init__(self, wanted: Wanted, protocol: str = V4) -> None:
        self.session = spdy.Session(server=False)
        self.server = OverSpdy(wanted, protocol)
        self.streams: dict[str, int] = {}
        self.said: dict[str, bytes] = {}
        self.order: list[str] = []
        """What happened to which stream, in order: replied, ended, reset; `away` at the end."""

    def open(self, *types: str, fin: bool = False) -> None:
        for name in types:
            number = self.session.open((("streamtype", name),), fin=fin)
            self.streams.setdefault(name, number)

    def say(self, name: str, data: bytes = b"", *, fin: bool = False) -> None:
        self.session.send(self.streams[name], data, fin=fin)

    def told(self, *cuts: int) -> list[Event]:
        """What the server makes of all that was said, cut into such pieces."""
        wire = b"".join(self.session.to_send())
        events: list[Event] = []
        for cut in (*cuts, len(wire)):
            if wire:
                events += self.server.receive(wire[:cut])
            wire = wire[cut:]
        return events

    def hear(self) -> None:
        names = {number: name for name, number in self.streams.items()}
        for event in self.session.receive(b"".join(self.server.to_send())):
            match event:
                case spdy.Received(stream, data):
                    self.said[names[stream]] = self.said.get(names[stream], b"") + bytes(data)
                case spdy.Replied(stream):
                    self.order.append(f"{names[stream]} replied")
                case spdy.Ended(stream):
                    self.order.append(f"{names[stream]} ended")
                case spdy.WasReset(stream, status):
                    self.order.append(f"{names.get(stream, 'another')} reset {status}")
                case spdy.WentAway():
                    self.order.append("away")


def opened(wanted: Wanted = ALL, types: tuple[str, ...] = OF_ALL, protocol: str = V4) -> Peer:
    """A peer whose session is ready, and who has heard so."""
    peer = Peer(wanted, protocol)
    peer.open(*types)
    assert peer.told() == [Ready()]
    peer.hear()
    assert peer.order == [f"{name} replied" for name in types]
    peer.order.clear()
    return peer


def joined(events: list[Event]) -> list[Event]:
    whole: list[Event] = []
    for event in events:
        if isinstance(event, Input):
            before = whole.pop() if whole and isinstance(whole[-1], Input) else Input(b"")
            assert isinstance(before, Input)
            whole.append(Input(bytes(before.data) + bytes(event.data)))
        else:
            whole.append(event)
    return whole


def test_it_is_a_remote_command_whose_client_speaks_first() -> None:
    session: RemoteCommand = OverSpdy(ALL, V4)
    assert session.start() == []
    assert session.to_send() == []


@pytest.mark.parametrize(
    ("wanted", "protocol", "types"),
    [
        *((ALL, protocol, OF_ALL) for protocol in PROTOCOLS),
        (TTY, V4, OF_TTY),
        (TTY, V3, OF_TTY),
        (TTY, V2, ("error", "stdin", "stdout")),
        (TTY, V1, ("error", "stdin", "stdout")),
        (Wanted(stdout=True), V4, ("error", "stdout")),
        (Wanted(stderr=True), V4, ("stderr", "error")),
        (Wanted(stdin=True), V1, ("error", "stdin")),
    ],
)
def test_a_session_is_ready_with_its_last_stream(
    wanted: Wanted, protocol: str, types: tuple[str, ...]
) -> None:
    peer = Peer(wanted, protocol)
    for name in types[:-1]:
        peer.open(name)
        assert peer.told() == []
    peer.open(types[-1])
    assert peer.told() == [Ready()]
    peer.hear()
    assert peer.order == [f"{name} replied" for name in types]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_session_goes_its_way_in_every_version(protocol: str) -> None:
    peer = opened(protocol=protocol)
    data = random.Random(1).randbytes(200_000)
    peer.say("stdin", data, fin=True)
    assert joined(peer.told(1, 70_000)) == [Input(data), InputEnd()]
    peer.server.send(Channel.STDOUT, memoryview(data))
    peer.server.send(Channel.STDERR, b"oh")
    peer.server.finish(Status(7))
    peer.server.finish(Status(8))
    peer.server.send(Channel.STDOUT, b"never")
    peer.hear()
    assert peer.said["stdout"] == data
    assert peer.said["stderr"] == b"oh"
    if protocol == V4:
        assert json.loads(peer.said["error"])["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    else:
        assert peer.said["error"] == b"command terminated with non-zero exit code 7"
    assert peer.order[-1] == "away"
    assert set(peer.order[:-1]) == {f"{name} ended" for name in OF_ALL}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_success_is_said_by_v4_only(protocol: str) -> None:
    peer = opened(protocol=protocol)
    peer.server.finish(Status())
    peer.hear()
    assert ("error" in peer.said) is (protocol == V4)
    assert "error ended" in peer.order


@settings(deadline=None)
@given(st.permutations(OF_ALL), st.lists(st.integers(1, 60), max_size=40), st.binary(max_size=100))
def test_events_are_the_same_in_any_order_and_cut(order: list[str], cuts: list[int], data: bytes) -> None:
    peer = Peer(ALL)
    at = order.index("stdin") + 1
    peer.open(*order[:at])
    events = peer.told(*cuts)
    peer.hear()
    peer.say("stdin", data, fin=True)
    peer.open(*order[at:])
    events += peer.told(*cuts)
    ended: list[Event] = [Input(data), InputEnd()] if data else [InputEnd()]
    assert joined(events) == [Ready(), *ended]


def test_input_from_before_the_session_is_ready_waits() -> None:
    peer = Peer(ALL)
    peer.open("stdin")
    assert peer.told() == []
    peer.hear()
    peer.say("stdin", b"ab")
    assert peer.told() == []
    peer.say("stdin", b"cd", fin=True)
    assert peer.told() == []
    peer.open("stdout", "stderr", "error")
    assert peer.told() == [Ready(), Input(b"abcd"), InputEnd()]


def test_input_from_before_the_session_is_ready_is_bounded() -> None:
    peer = Peer(ALL)
    peer.open("stdin")
    peer.told()
    peer.hear()
    beyond_any_window = struct.pack("!II", peer.streams["stdin"], 300_000) + bytes(300_000)
    with pytest.raises(ProtocolError, match="before all streams were open"):
        peer.server.receive(beyond_any_window)
    peer.hear()
    assert peer.order[-1] == "away"
    assert peer.server.receive(b"x") == []


def test_a_stdin_that_opens_with_its_end_has_none() -> None:
    peer = Peer(ALL)
    peer.open("error", "stdout", "stderr")
    peer.open("stdin", fin=True)
    assert peer.told() == [Ready(), InputEnd()]


def test_a_reset_of_stdin_ends_the_input() -> None:
    peer = opened()
    peer.say("stdin", b"x")
    peer.session.reset(peer.streams["stdin"])
    assert joined(peer.told()) == [Input(b"x"), InputEnd()]
    peer.server.consumed(1)
    peer.server.finish(Status())
    peer.hear()
    assert "error ended" in peer.order


def test_output_that_the_client_has_reset_is_dropped() -> None:
    peer = opened()
    peer.session.reset(peer.streams["stdout"])
    assert peer.told() == []
    peer.server.send(Channel.STDOUT, bytes(100_000))
    peer.server.send(Channel.STDERR, b"heard")
    peer.server.finish(Status())
    peer.hear()
    assert "stdout" not in peer.said
    assert peer.said["stderr"] == b"heard"


@pytest.mark.parametrize("name", ["", "data", "STDIN", "stdin"])
def test_unknown_and_second_streams_are_refused_and_the_session_goes_on(name: str) -> None:
    peer = opened()
    peer.streams["second"] = peer.session.open((("streamtype", name),))
    peer.say("second", b"lost", fin=True)
    peer.say("stdin", b"x")
    assert peer.told() == [Input(b"x")]
    peer.hear()
    assert peer.order == ["second reset 3"]


def test_a_stream_that_nobody_asked_for_is_let_be() -> None:
    peer = Peer(Wanted(stdout=True))
    peer.open("stdin", "error", "stdout", "resize")
    peer.say("stdin", b"ignored", fin=True)
    assert peer.told() == [Ready()]
    peer.server.finish(Status())
    peer.hear()
    assert {"stdin ended", "resize ended"} < set(peer.order)


def test_sizes_come_on_the_resize_stream() -> None:
    peer = opened(TTY, OF_TTY)
    peer.say("resize", b'{"Width":80,"Height":24}{"Width":8')
    peer.say("resize", b'1,"Height":25}\n')
    assert peer.told(*[1] * 200) == [Resize(80, 24), Resize(81, 25)]


def test_rubbish_on_the_resize_stream_ends_the_session() -> None:
    peer = opened(TTY, OF_TTY)
    peer.say("resize", b"rubbish}")
    with pytest.raises(ProtocolError, match="no terminal size"):
        peer.told()
    peer.hear()
    assert peer.order == ["away"]


def test_bytes_that_are_no_frame_end_the_session() -> None:
    session = OverSpdy(ALL, V4)
    with pytest.raises(ProtocolError):
        session.receive(b"\xff" * 64)
    assert session.to_send()
    assert session.receive(b"") == []
    assert session.to_send() == []


def test_a_client_may_go_away_or_just_vanish() -> None:
    peer = opened()
    peer.session.goaway()
    assert peer.told() == [Left("the client closed the session")]
    assert peer.server.receive(b"") == []
    vanished = opened().server
    assert vanished.receive(b"") == [Left("the connection ended")]
    assert vanished.receive(b"") == []


def test_a_failure_before_all_streams_are_there_is_told_on_what_is() -> None:
    peer = Peer(ALL)
    peer.open("error", "stdout")
    peer.told()
    peer.server.finish(Status(failure="too slow"))
    peer.hear()
    assert json.loads(peer.said["error"])["message"] == "Internal error occurred: too slow"
    assert peer.order[-1] == "away"


def test_goaway_waits_for_what_a_window_holds_back() -> None:
    peer = Peer(ALL)
    peer.open(*OF_ALL)
    peer.told()
    peer.hear()
    peer.session.consumed(peer.streams["stdout"], 200_000)  # shows that this client keeps windows
    peer.told()
    data = bytes(1_000_000)
    peer.server.send(Channel.STDOUT, data)
    peer.server.finish(Status())
    held = peer.server.backlog()
    assert held > 0
    peer.say("stdin", b"late", fin=True)
    peer.open("resize")
    assert peer.told() == []
    peer.hear()
    assert peer.order[-1] == "resize reset 3"
    assert "away" not in peer.order
    for _ in range(20):
        peer.session.consumed(peer.streams["stdout"], 200_000)
        peer.told()
        peer.hear()
    assert peer.server.backlog() == 0
    assert peer.said["stdout"] == data
    assert peer.order[-1] == "away"


def test_consumed_input_opens_the_window_again() -> None:
    peer = opened()
    peer.say("stdin", bytes(400_000))
    assert len(peer.told()) > 0
    assert sent(peer.server.to_send()) == 0
    peer.server.consumed(400_000)
    assert sent(peer.server.to_send()) == 16  # a WINDOW_UPDATE


def test_what_nobody_reads_opens_its_window_by_itself() -> None:
    peer = Peer(Wanted(stdout=True))
    peer.open("error", "stdout", "stdin")
    peer.told()
    peer.hear()
    peer.say("stdin", bytes(400_000))
    peer.told()
    assert sent(peer.server.to_send()) == 16


def sent(parts: list[Data]) -> int:
    return sum(map(len, parts))


def test_output_is_passed_on_without_a_copy() -> None:
    peer = opened()
    data = bytes(50_000)
    peer.server.send(Channel.STDOUT, data)
    assert any(
        part is data or (isinstance(part, memoryview) and part.obj is data) for part in peer.server.to_send()
    )


def test_fuzzed_clients_only_ever_break_the_protocol() -> None:
    chance = random.Random(9)
    broken = heard = 0
    peer = Peer(TTY, V4)
    for _ in range(10_000):
        _do_something(peer, chance)
        try:
            heard += len(peer.told(chance.randrange(1, 40)))
            if chance.random() < 0.05:
                peer.server.send(Channel.STDOUT, b"said")
                peer.server.consumed(chance.randrange(100))
            if chance.random() < 0.01:
                peer.server.finish(Status(1))
            if chance.random() < 0.5:
                peer.hear()
        except ProtocolError:
            broken += 1
            assert peer.server.to_send()
            peer = Peer(TTY, V4)
        if "away" in peer.order or chance.random() < 0.02:
            peer = Peer(TTY, chance.choice(PROTOCOLS))
    assert broken > 50
    assert heard > 500


def _do_something(peer: Peer, chance: random.Random) -> None:
    names = (*OF_TTY, *OF_TTY, "stderr", "nonsense")
    name = chance.choice(names)
    body = chance.choice((b"", b"x" * chance.randrange(200), b'{"Width":1}', b'{"Width":70000}'))
    fate = chance.random()
    if fate < 0.3 or name not in peer.streams:
        peer.open(name, fin=chance.random() < 0.1)
    elif fate < 0.35:
        peer.session.reset(peer.streams[name])
    else:
        # Beneath the client's own session, which would not let it break its rules.
        fin = (chance.random() < 0.1) << 24
        raw = struct.pack("!II", peer.streams[name], fin | len(body)) + body
        peer.session._out.append(raw)


# What a real client says

CAT = base64.b64decode(
    "UE9TVCAvZXhlYy90b2sgSFRUUC8xLjENCkhvc3Q6IDEyNy4wLjAuMTo0NTE5NQ0KVXNlci1BZ2VudDogR28taHR0cC1jbGllbnQv"
    "MS4xDQpDb250ZW50LUxlbmd0aDogMA0KQ29ubmVjdGlvbjogVXBncmFkZQ0KVXBncmFkZTogU1BEWS8zLjENClgtU3RyZWFtLVBy"
    "b3RvY29sLVZlcnNpb246IHY1LmNoYW5uZWwuazhzLmlvDQpYLVN0cmVhbS1Qcm90b2NvbC1WZXJzaW9uOiB2NC5jaGFubmVsLms4"
    "cy5pbw0KWC1TdHJlYW0tUHJvdG9jb2wtVmVyc2lvbjogdjMuY2hhbm5lbC5rOHMuaW8NClgtU3RyZWFtLVByb3RvY29sLVZlcnNp"
    "b246IHYyLmNoYW5uZWwuazhzLmlvDQpYLVN0cmVhbS1Qcm90b2NvbC1WZXJzaW9uOiBjaGFubmVsLms4cy5pbw0KDQqAAwABAAAA"
    "KQAAAAEAAAAAAAB4+ePGp8JiYGBgBKezkqLUxFxoUcKaCgpoAAAAAP//gAMAAQAAABcAAAADAAAAAAAAwi5VXJKSmQcAAAD//4AD"
    "AAEAAAAZAAAABQAAAAAAAMIqxVZckpJfWgIAAAD//4ADAAEAAAAVAAAABwAAAAAAAMIpl1pUBAAAAP//AAAAAwAAAAZoZWxsbwoA"
    "AAADAQAAAA=="
)
"""What crictl 1.36 sent for `echo hello | crictl exec -i x cat` over SPDY."""

TERMINAL = base64.b64decode(
    "UE9TVCAvZXhlYy90b2sgSFRUUC8xLjENCkhvc3Q6IDEyNy4wLjAuMTo0NTE5NQ0KVXNlci1BZ2VudDogR28taHR0cC1jbGllbnQv"
    "MS4xDQpDb250ZW50LUxlbmd0aDogMA0KQ29ubmVjdGlvbjogVXBncmFkZQ0KVXBncmFkZTogU1BEWS8zLjENClgtU3RyZWFtLVBy"
    "b3RvY29sLVZlcnNpb246IHY1LmNoYW5uZWwuazhzLmlvDQpYLVN0cmVhbS1Qcm90b2NvbC1WZXJzaW9uOiB2NC5jaGFubmVsLms4"
    "cy5pbw0KWC1TdHJlYW0tUHJvdG9jb2wtVmVyc2lvbjogdjMuY2hhbm5lbC5rOHMuaW8NClgtU3RyZWFtLVByb3RvY29sLVZlcnNp"
    "b246IHYyLmNoYW5uZWwuazhzLmlvDQpYLVN0cmVhbS1Qcm90b2NvbC1WZXJzaW9uOiBjaGFubmVsLms4cy5pbw0KDQqAAwABAAAA"
    "KQAAAAEAAAAAAAB4+ePGp8JiYGBgBKezkqLUxFxoUcKaCgpoAAAAAP//gAMAAQAAABcAAAADAAAAAAAAwi5VXJKSmQcAAAD//4AD"
    "AAEAAAAZAAAABQAAAAAAAMIqxVZckpJfWgIAAAD//4ADAAEAAAAYAAAABwAAAAAAAMIuV5RanFmVCgAAAP//AAAABwAAABl7Ildp"
    "ZHRoIjo4MCwiSGVpZ2h0IjoyNH0KAAAAAwAAAAZ0eXBlZAoAAAADAAAAAQQAAAADAAAAAQSAAwAGAAAABAAAAAE="
)
"""What it sent for `crictl exec -it x cat` in a terminal of 80 by 24, where someone typed, then Ctrl-D twice."""


def replayed(recording: bytes, wanted: Wanted, sizes: list[int]) -> list[Event]:
    """The events of a recorded connection that came in such pieces."""
    events: list[Event] = []
    reader, session = HeadReader(), None
    for size in [*sizes, len(recording)]:
        part, recording = recording[:size], recording[size:]
        if session is None and part and (head := reader.receive(part)):
            session = OverSpdy(wanted, negotiate(head, spdy=PROTOCOLS, websocket=PROTOCOLS).protocol)
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
