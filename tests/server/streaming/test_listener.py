"""The address of sessions: what is let in, what is turned away, and what that costs those who are in."""

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from sampan.config import Streaming
from sampan.model.errors import Unavailable
from sampan.server.streaming import listener as module
from sampan.server.streaming.listener import Listener
from sampan.server.streaming.tokens import Tokens
from sampan.wire.remotecommand.status import Status
from sampan.wire.upgrade import Refused
from tests.runtime.system import until
from tests.sessions import ALL, Lab, descriptors, lab
from tests.stream_clients import Client

UPGRADE = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"


@pytest.fixture
async def it() -> AsyncIterator[Lab]:
    async with lab() as made:
        yield made


async def ask(
    url: str, method: str = "POST", path: str | None = None, headers: str = UPGRADE, host: str = "x"
) -> str:
    """The whole answer to one request, or its head where the connection stays open."""
    address, _, target = url.removeprefix("http://").partition("/")
    name, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(name.strip("[]"), int(port))
    target = f"/{target}" if path is None else path
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode())
    try:
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            return head if " 101 " in head.splitlines()[0] else head + (await reader.read()).decode()
    finally:
        writer.close()


def status_of(answer: str) -> int:
    return int(answer.split(" ", 2)[1])


async def test_a_url_is_fixed_but_for_its_kind_and_token(it: Lab) -> None:
    url = await it.url("echo")
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]*/exec/[A-Za-z0-9_-]{43}", url)
    forward = it.listener.url(await it.streaming.port_forward(it.pod, []))
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]*/portforward/[A-Za-z0-9_-]{43}", forward)


async def test_an_ipv6_address_is_in_brackets() -> None:
    async with lab(address="::1") as it:
        url = await it.url("echo", "six")
        assert url.startswith("http://[::1]:")
        client = await Client.connect("spdy", url, ALL)
        assert await client.finished() == Status(code=0)


@pytest.mark.parametrize(("address", "host"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
async def test_who_listens_everywhere_is_found_here(address: str, host: str) -> None:
    async with lab(address=address) as it:  # what the configuration lets nobody do without TLS
        assert (await it.url("echo")).startswith(f"http://{host}:")


async def test_a_token_is_good_for_one_session(it: Lab) -> None:
    url = await it.url("echo")
    assert status_of(await ask(url)) == 101
    assert status_of(await ask(url)) == 404


async def test_of_a_hundred_that_use_a_token_at_once_one_gets_the_session(it: Lab) -> None:
    url = await it.url("echo")
    answers = await asyncio.gather(*(ask(url) for _ in range(100)))
    assert sorted(map(status_of, answers)) == [101] + 99 * [404]
    assert len(it.commands.ran) <= 1


@pytest.mark.parametrize("kind", ["attach", "portforward", "EXEC", "", "exec/exec", "%65xec"])
async def test_a_token_at_another_place_is_refused_and_not_spent(it: Lab, kind: str) -> None:
    url = await it.url("echo")
    token = url.rpartition("/")[2]
    assert status_of(await ask(url, path=f"/{kind}/{token}")) == 404
    assert status_of(await ask(url)) == 101


@pytest.mark.parametrize(
    "path", ["/", "/exec", "/exec/", "/exec/x", "/exec/../exec/x", "/%2e%2e", "/metrics"]
)
async def test_everything_else_is_404(it: Lab, path: str) -> None:
    answer = await ask(await it.url("echo"), path=path)
    assert status_of(answer) == 404 and "there is no such session" in answer


@pytest.mark.parametrize("host", ["evil.example", "169.254.169.254", "a\tb", ""])
async def test_nothing_of_a_request_gets_into_a_url(it: Lab, host: str) -> None:
    base = it.listener.url(it.operation("echo")).rpartition("/")[0]
    await ask(await it.url("echo"), host=host)
    assert it.listener.url(it.operation("echo")).rpartition("/")[0] == base


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("PUT", UPGRADE, 405),
        ("DELETE", UPGRADE, 405),
        ("GET", "", 426),
        ("POST", "Content-Length: 5\r\n", 400),
    ],
)
async def test_requests_that_make_no_session_are_answered_in_words(
    it: Lab, method: str, headers: str, status: int
) -> None:
    answer = await ask(await it.url("echo"), method=method, headers=headers)
    assert status_of(answer) == status
    assert len(answer.partition("\r\n\r\n")[2]) > 10


async def test_what_is_no_http_is_answered_and_closed(it: Lab) -> None:
    url = await it.url("echo")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]))
    writer.write(b"\x16\x03\x01 hello\r\n\r\n")
    async with asyncio.timeout(10):
        assert status_of((await reader.read()).decode()) == 400
    writer.close()


async def test_a_client_that_says_nothing_is_closed_after_its_time(
    it: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.1)
    url = await it.url("echo")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]))
    writer.write(b"POST /exec/x HTTP/1.1\r\nHost:")
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionResetError):
            assert await reader.read() == b""
            raise ConnectionResetError  # closed either way
    writer.close()


async def test_clients_that_say_nothing_keep_no_session_out(it: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int((await it.url("echo")).split(":")[2].split("/")[0])
    before = descriptors()
    silent = []
    for number in range(module.HALF_OPEN + 100):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"POST /exec/slow HTTP/1.1\r\n" if number % 2 else b"")
        silent.append(client)
        await asyncio.sleep(0)
    begin = time.monotonic()
    session = await it.exec("spdy", "echo", "in")
    assert await session.finished() == Status(code=0)
    assert time.monotonic() - begin < 0.5
    assert len(it.listener._half_open) <= module.HALF_OPEN
    for client in silent:
        client.close()
    await until(lambda: not it.listener._half_open)
    await asyncio.sleep(0.05)
    assert descriptors() <= before


async def test_clients_that_do_not_go_when_they_are_refused_are_bounded_too(
    it: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HALF_OPEN", 8)
    port = int((await it.url("echo")).split(":")[2].split("/")[0])
    before = descriptors()
    guessing = []
    for _ in range(40):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(f"POST /exec/guess HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n".encode())
        guessing.append(client)
        await asyncio.sleep(0.002)
    ours = descriptors() - before - len(guessing)
    session = await it.exec("spdy", "echo", "in")
    assert await session.finished() == Status(code=0)
    for client in guessing:
        assert client.recv(12) == b"HTTP/1.1 404"
        client.close()
    assert ours <= 8 + 2


async def test_more_sessions_than_there_may_be_are_told_when_to_come_back(
    it: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SESSIONS", 2)
    clients = [await it.exec("spdy", "sleep") for _ in range(2)]
    url = await it.url("echo")
    answer = await ask(url)
    assert status_of(answer) == 429 and "retry-after: 60" in answer.lower()
    clients[0].leave()
    await until(lambda: it.sessions.open()["exec"] == 1)
    assert status_of(await ask(url)) == 101  # its token was not spent
    clients[1].leave()


async def test_a_port_that_is_taken_is_said_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        keys = replace(Streaming(), port=port)

        async def serve(*_: object) -> None: ...

        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port}: Address already in use; see streaming"):
            await Listener(keys, Tokens(), serve).open()


async def test_a_token_is_in_no_log(it: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    url = await it.url("echo", "hello")
    token = url.rpartition("/")[2]
    await ask(url, path=f"/attach/{token}")
    client = await Client.connect("websocket", url, ALL)
    await client.finished()
    with pytest.raises(Refused):
        await Client.connect("websocket", url, ALL)
    await it.listener.close()
    assert caplog.records
    for record in caplog.records:
        assert token not in str(vars(record)) and token not in record.getMessage()
