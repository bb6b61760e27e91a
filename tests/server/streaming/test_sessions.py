"""Which session a request gets, and what is told of those that are open."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sampan.wire.portforward import tunnel
from sampan.wire.remotecommand import over_spdy, over_websocket
from sampan.wire.remotecommand.status import Status
from sampan.wire.upgrade import Asking, Kind, Refused
from tests.fake_streams import echo
from tests.runtime.system import until
from tests.sessions import ALL, Lab, lab
from tests.stream_clients import Client


@pytest.fixture
async def it() -> AsyncIterator[Lab]:
    async with lab() as made:
        yield made


@pytest.mark.parametrize("protocol", over_spdy.PROTOCOLS)
async def test_every_protocol_over_spdy_has_its_session(it: Lab, protocol: str) -> None:
    client = await Client.connect("spdy", await it.url("echo", "x"), ALL, protocol)
    await client.until(lambda: client.stdout == b"x\n")
    client.leave()


@pytest.mark.parametrize("protocol", [over_websocket.V5, over_websocket.V4])
async def test_every_protocol_over_websocket_has_its_session(it: Lab, protocol: str) -> None:
    client = await Client.connect("websocket", await it.url("echo", "x"), ALL, protocol)
    assert await client.finished() == Status(code=0)
    assert client.stdout == b"x\n"


@pytest.mark.parametrize("carrier", ["spdy", "websocket"])
async def test_a_protocol_that_nobody_knows_is_refused_before_anything_runs(it: Lab, carrier: str) -> None:
    with pytest.raises(Refused, match="the server v"):
        await Client.connect(carrier, await it.url("echo"), ALL, "v9.channel.k8s.io")
    assert not it.commands.ran and it.sessions.open()["exec"] == 0


async def answered(url: str, kind: Kind, protocol: str) -> str:
    """The protocol that the server chose. Raises Refused."""
    host, _, target = url.removeprefix("http://").partition("/")
    asking = Asking(kind, f"/{target}", host, (protocol,))
    reader, writer = await asyncio.open_connection(*host.rsplit(":", 1))
    try:
        writer.write(asking.to_send())
        while (answer := asking.receive(await reader.read(1 << 16))) is None:
            pass
        return answer.protocol
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        (Kind.SPDY, "portforward.k8s.io"),
        (Kind.WEBSOCKET, tunnel.PROTOCOL),
        (Kind.WEBSOCKET, "v4.channel.k8s.io"),
        (Kind.WEBSOCKET, "v4.base64.channel.k8s.io"),
        (Kind.WEBSOCKET, ""),
    ],
)
async def test_every_form_of_port_forward_has_its_session(it: Lab, kind: Kind, protocol: str) -> None:
    operation = await it.streaming.port_forward(it.pod, [80])
    it.dialer.ports[(it.streaming.network(operation), 80)] = echo
    assert await answered(it.listener.url(operation), kind, protocol) == protocol
    await until(lambda: it.sessions.open()["portforward"] == 0)


async def test_plain_websocket_needs_the_ports_in_the_request(it: Lab) -> None:
    url = it.listener.url(await it.streaming.port_forward(it.pod, []))
    with pytest.raises(Refused, match="0 ports in one session") as refused:
        await answered(url, Kind.WEBSOCKET, "v4.channel.k8s.io")
    assert refused.value.status == 400


async def test_a_pod_that_is_no_longer_ready_is_told_before_any_session(it: Lab) -> None:
    url = it.listener.url(await it.streaming.port_forward(it.pod, []))
    await it.system.pods.stop(it.pod)
    with pytest.raises(Refused, match="it is not ready") as refused:
        await answered(url, Kind.SPDY, "portforward.k8s.io")
    assert refused.value.status == 409


async def test_open_sessions_are_counted_by_kind(it: Lab) -> None:
    assert it.sessions.open() == {"exec": 0, "attach": 0, "portforward": 0}
    clients = [await it.exec("spdy", "sleep"), await it.exec("websocket", "sleep")]
    assert it.sessions.open()["exec"] == 2
    for client in clients:
        client.leave()
    await until(lambda: it.sessions.open()["exec"] == 0)
