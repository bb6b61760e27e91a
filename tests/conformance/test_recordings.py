"""What clients say in a session, byte for byte as recorded, through the protocols alone: whole, one byte at a time, and
cut at random, the same must be understood. `test_sessions.py` has recorded crictl; `old` is client-go 0.20 and `python`
the Python client (kubernetes 37.0), which speaks v4.channel.k8s.io, each in a session of the same kind.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.wire.portforward import over_spdy as forward_spdy
from sampan.wire.portforward import over_websocket as forward_websocket
from sampan.wire.portforward import tunnel
from sampan.wire.portforward.forward import Dropped, HalfClosed, Opened, PortForward, Received
from sampan.wire.remotecommand import over_spdy, over_websocket
from sampan.wire.remotecommand.channels import Input, InputEnd, Left, Ready, RemoteCommand, Resize, Wanted
from sampan.wire.upgrade import HeadReader, Kind, Upgrade, negotiate

RECORDINGS = Path(__file__).with_name("recordings")
EXEC = Wanted(stdin=True, stdout=True, stderr=True)
TERMINAL = Wanted(stdin=True, stdout=True, tty=True)
TYPED = b"stty size\rwhile ! stty size | grep 50; do sleep 0.1; done\rexit 3\r"
Cut = list[bytes]


def cuts(said: bytes) -> Iterator[Cut]:
    yield [said]
    yield [said[at : at + 1] for at in range(len(said))]
    for seed in range(50):
        at, parts, chance = 0, [], random.Random(seed)
        while at < len(said):
            size = chance.choice((1, 2, 3, 7, 8, 9, 100, 1000))
            parts.append(said[at : at + size])
            at += size
        yield parts


def upgraded(parts: Cut, spdy: tuple[str, ...], websocket: tuple[str, ...]) -> tuple[Upgrade, Cut]:
    """What the client asked for, and the cut of what it said after that."""
    reader = HeadReader()
    for number, part in enumerate(parts):
        if (head := reader.receive(part)) is not None:
            assert head.path.endswith("/a-token-that-has-been-used")
            return negotiate(head, spdy=spdy, websocket=websocket), [head.rest, *parts[number + 1 :]]
    raise AssertionError("the head of the request has no end")


def command(name: str, parts: Cut, wanted: Wanted) -> tuple[bytes, list[object]]:
    """What the client typed, and all else in order."""
    upgrade, parts = upgraded(parts, tuple(over_spdy.PROTOCOLS), tuple(over_websocket.PROTOCOLS))
    assert (upgrade.kind is Kind.SPDY) == name.endswith("spdy")
    spdy = upgrade.kind is Kind.SPDY
    talk: RemoteCommand = (
        over_spdy.OverSpdy(wanted, upgrade.protocol)
        if spdy
        else over_websocket.OverWebSocket(wanted, upgrade.protocol)
    )
    events = [*talk.start()]
    for part in filter(None, parts):
        events += talk.receive(part)
        talk.to_send()
    typed = b"".join(bytes(event.data) for event in events if isinstance(event, Input))
    return typed, [event for event in events if not isinstance(event, Input)]


@pytest.mark.parametrize("carrier", ["spdy", "websocket", "old-spdy"])
def test_exec_with_input(carrier: str) -> None:
    name = f"exec-{carrier}"
    for parts in cuts((RECORDINGS / f"{name}.bin").read_bytes()):
        typed, rest = command(name, parts, EXEC)
        assert typed == b"one\ntwo\n"
        assert rest[:2] == [Ready(), InputEnd()]


def test_exec_with_input_by_a_client_without_half_close() -> None:
    for parts in cuts((RECORDINGS / "exec-python-websocket.bin").read_bytes()):
        typed, rest = command("exec-python-websocket", parts, EXEC)
        assert typed == b"one\ntwo\n"
        assert rest[0] == Ready()
        assert {type(event) for event in rest[1:]} <= {Left}


@pytest.mark.parametrize("carrier", ["spdy", "websocket"])
def test_exec_with_a_terminal(carrier: str) -> None:
    name = f"exec-terminal-{carrier}"
    for parts in cuts((RECORDINGS / f"{name}.bin").read_bytes()):
        typed, rest = command(name, parts, TERMINAL)
        assert typed == TYPED
        assert rest[0] == Ready()
        sizes = [event for event in rest if isinstance(event, Resize)]
        assert sizes[-1] == Resize(60, 50)
        assert set(sizes) <= {Resize(101, 33), Resize(60, 50)}


@pytest.mark.parametrize("carrier", ["spdy", "websocket"])
def test_attach(carrier: str) -> None:
    name = f"attach-{carrier}"
    for parts in cuts((RECORDINGS / f"{name}.bin").read_bytes()):
        typed, rest = command(name, parts, EXEC)
        assert typed == b"hello\n"
        assert rest == [Ready()]


@pytest.mark.parametrize("carrier", ["spdy", "websocket", "old-spdy"])
def test_port_forward(carrier: str) -> None:
    for parts in cuts((RECORDINGS / f"port-forward-{carrier}.bin").read_bytes()):
        upgrade, rest = upgraded(parts, (forward_spdy.PROTOCOL,), (tunnel.PROTOCOL,))
        talk: PortForward = forward_spdy.OverSpdy() if upgrade.kind is Kind.SPDY else tunnel.Tunnel()
        events = [*talk.start()]
        for part in filter(None, rest):
            events += talk.receive(part)
            talk.to_send()
        opened = [event for event in events if isinstance(event, Opened)]
        assert [one.port for one in opened] == [8080, 8080]
        for one, sent in zip(opened, (b"first", b"second" * 1000), strict=True):
            got = [
                event
                for event in events
                if isinstance(event, Received) and event.connection == one.connection
            ]
            assert b"".join(bytes(event.data) for event in got) == sent
            ends = [
                event
                for event in events
                if isinstance(event, HalfClosed | Dropped) and event.connection == one.connection
            ]
            assert ends[0] == HalfClosed(one.connection)


def test_port_forward_in_plain_channels() -> None:
    for parts in cuts((RECORDINGS / "port-forward-python-websocket.bin").read_bytes()):
        upgrade, rest = upgraded(parts, (), forward_websocket.PROTOCOLS)
        talk = forward_websocket.OverWebSocket([9080, 9], upgrade.protocol)
        events = [*talk.start()]
        for part in filter(None, rest):
            events += talk.receive(part)
            talk.to_send()
        assert events[:2] == [Opened(1, 9080), Opened(2, 9)]
        got = [event for event in events if isinstance(event, Received)]
        assert {event.connection for event in got} == {1}
        assert b"".join(bytes(event.data) for event in got) == b"first" + b"second" * 1000
