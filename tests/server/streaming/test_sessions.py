"""Which session a request gets, and what is told of those that are open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sampan.runtime.stream_ports import Running
from sampan.wire.portforward import tunnel
from sampan.wire.remotecommand import over_spdy, over_websocket
from sampan.wire.remotecommand.channels import Wanted
from sampan.wire.remotecommand.status import Status
from sampan.wire.upgrade import Asking, Kind, Refused
from tests.fake_streams import FakeContainer, echo
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


@pytest.mark.parametrize("carrier", ["spdy", "websocket"])
async def test_what_cannot_be_attached_to_is_told_before_any_session(it: Lab, carrier: str) -> None:
    with pytest.raises(Refused, match="nothing watches container") as refused:
        await it.attach(carrier)
    assert refused.value.status == 409
    url = it.listener.url(await it.streaming.attach(it.container, ALL))
    await it.system.containers.stop(it.container, 0)
    with pytest.raises(Refused, match="it is exited, not created or running"):
        await Client.connect(carrier, url, ALL)
    assert it.sessions.open()["attach"] == 0


@pytest.mark.parametrize("carrier", ["spdy", "websocket"])
async def test_the_answer_to_an_attach_comes_when_it_is_attached(
    it: Lab, carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = it.attachments.containers[it.container] = FakeContainer()
    attach, let = it.attachments.attach, asyncio.Event()

    @asynccontextmanager
    async def slow(id: str, wanted: Wanted) -> AsyncIterator[Running]:
        await let.wait()
        async with attach(id, wanted) as running:
            yield running

    monkeypatch.setattr(it.attachments, "attach", slow)
    connecting = asyncio.ensure_future(it.attach(carrier))
    done, _ = await asyncio.wait([connecting], timeout=0.1)
    assert not done
    let.set()
    client = await connecting
    await container.say(b"first\n")
    await client.until(lambda: client.stdout == b"first\n")
    container.end()
    assert await client.finished() == Status(code=0)
    await until(lambda: it.sessions.open()["attach"] == 0)
    assert it.attachments.clients[0].task is not None and it.attachments.clients[0].task.done()


async def test_open_sessions_are_counted_by_kind(it: Lab) -> None:
    assert it.sessions.open() == {"exec": 0, "attach": 0, "portforward": 0}
    clients = [await it.exec("spdy", "sleep"), await it.exec("websocket", "sleep")]
    assert it.sessions.open()["exec"] == 2
    for client in clients:
        client.leave()
    await until(lambda: it.sessions.open()["exec"] == 0)
