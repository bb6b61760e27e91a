"""Exec, attach and port-forward through a whole daemon, as clients have them."""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.wire.remotecommand.channels import Wanted
from sampan.wire.remotecommand.status import Status
from sampan.wire.spdy import session as spdy
from sampan.wire.upgrade import Asking, Kind
from tests.daemon.conftest import SECONDS, Live
from tests.sessions import ALL, TERMINAL
from tests.stream_clients import CARRIERS, Client

pytestmark = pytest.mark.root
both = pytest.mark.parametrize("carrier", CARRIERS)


def exec_url(daemon: Live, id: str, *command: str, wanted: Wanted = ALL) -> str:
    request = cri.ExecRequest(
        container_id=id, cmd=list(command), stdin=wanted.stdin, stdout=wanted.stdout,
        stderr=wanted.stderr, tty=wanted.tty,
    )  # fmt: skip
    return daemon.runtime.Exec(request, timeout=SECONDS).url


async def exec(daemon: Live, carrier: str, id: str, *command: str, wanted: Wanted = ALL) -> Client:
    return await Client.connect(carrier, exec_url(daemon, id, *command, wanted=wanted), wanted)


def commands(word: str) -> list[int]:
    """Processes that have this word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


async def forwarded(url: str, port: int) -> bytes:
    """What the port says to who says nothing."""
    parts = urlsplit(url)
    asking = Asking(Kind.SPDY, parts.path, parts.netloc, ("portforward.k8s.io",))
    session = spdy.Session(server=False)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(asking.to_send())
    while (answer := asking.receive(await reader.read(1 << 16))) is None:
        pass
    headers = (("port", str(port)), ("requestid", "0"))
    session.open((("streamtype", "error"), *headers))
    data = session.open((("streamtype", "data"), *headers))
    said, ended = b"", False
    async with asyncio.timeout(20):
        while not ended:
            writer.writelines(session.to_send())
            for event in session.receive(answer.rest or await reader.read(1 << 16)):
                if isinstance(event, spdy.Received):
                    said += bytes(event.data)
                ended |= isinstance(event, spdy.Ended) and event.stream == data
            answer = dataclasses.replace(answer, rest=b"")
    writer.close()
    return said


async def gone(word: str) -> None:
    deadline = time.monotonic() + 10
    while commands(word):
        assert time.monotonic() < deadline, f"{word} still runs"
        await asyncio.sleep(0.02)


@both
async def test_a_command_says_something_and_ends(daemon: Live, carrier: str) -> None:
    id = daemon.started(daemon.pod())
    client = await exec(daemon, carrier, id, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert await client.finished() == Status(code=7)
    assert (client.stdout, client.stderr) == (b"out\n", b"err\n")
    client = await exec(daemon, carrier, id, "/nonesuch")
    assert "nonesuch" in (await client.finished()).failure


@both
async def test_input_goes_in_and_comes_back(daemon: Live, carrier: str) -> None:
    id = daemon.started(daemon.pod())
    data = os.urandom(1 << 20) * 16
    client = await exec(daemon, carrier, id, "cat")

    async def speak() -> None:
        for start in range(0, len(data), 1 << 16):
            await client.say(data[start : start + (1 << 16)])
        await client.end()

    speaking = asyncio.create_task(speak())
    assert await client.finished() == Status(code=0)
    await speaking
    assert hashlib.sha256(client.stdout).digest() == hashlib.sha256(data).digest()


@both
async def test_a_terminal_is_one(daemon: Live, carrier: str) -> None:
    id = daemon.started(daemon.pod())
    client = await exec(daemon, carrier, id, "sh", wanted=TERMINAL)
    await client.resize(132, 43)
    await client.until(lambda: b"# " in client.stdout)
    await client.say(b"stty size; tty; echo $TERM; exit 3\n")
    assert await client.finished() == Status(code=3)
    assert b"43 132" in client.stdout and b"/dev/pts/" in client.stdout and b"xterm" in client.stdout


@both
async def test_a_client_that_goes_away_ends_its_command_and_all_that_it_started(
    daemon: Live, carrier: str
) -> None:
    id = daemon.started(daemon.pod())
    client = await exec(daemon, carrier, id, "sh", "-c", "sleep 987654 & echo up; sleep 987654")
    await client.until(lambda: client.stdout == b"up\n")
    assert len(commands("987654")) >= 2
    client.leave()
    await gone("987654")
    assert daemon.status(id).state == cri.CONTAINER_RUNNING


@both
async def test_a_container_that_is_stopped_ends_its_sessions(daemon: Live, carrier: str) -> None:
    id = daemon.started(daemon.pod())
    client = await exec(daemon, carrier, id, "sh", "-c", "echo up; sleep 100000")
    await client.until(lambda: client.stdout == b"up\n")
    stopping = asyncio.create_task(
        asyncio.to_thread(daemon.runtime.StopContainer, cri.StopContainerRequest(container_id=id, timeout=0))
    )
    assert (await client.finished()).code == 137
    await stopping


async def test_a_daemon_that_ends_tells_its_clients_and_leaves_no_command(daemon: Live) -> None:
    id = daemon.started(daemon.pod())
    clients = [await exec(daemon, carrier, id, "sleep", "876543") for carrier in CARRIERS]
    assert daemon.own.process is not None
    begin = time.monotonic()
    daemon.own.process.terminate()
    for client in clients:
        assert "is ending" in (await client.finished()).failure
    await asyncio.to_thread(daemon.ended)
    assert time.monotonic() - begin < 6
    await gone("876543")


@both
async def test_an_attached_client_hears_and_is_heard(daemon: Live, carrier: str) -> None:
    id = daemon.started(daemon.pod(), "sh", "-c", "while read x; do echo got $x; done", stdin=True)
    wanted = Wanted(stdin=True, stdout=True, stderr=True)
    request = cri.AttachRequest(container_id=id, stdin=True, stdout=True, stderr=True)
    client = await Client.connect(carrier, daemon.runtime.Attach(request, timeout=SECONDS).url, wanted)
    await client.say(b"one\n")
    await client.until(lambda: client.stdout == b"got one\n")
    stopping = asyncio.create_task(
        asyncio.to_thread(daemon.runtime.StopContainer, cri.StopContainerRequest(container_id=id, timeout=0))
    )
    assert await client.finished() == Status(code=0)
    await stopping


async def test_a_port_of_the_pod_is_reached(daemon: Live) -> None:
    pod = daemon.pod()
    daemon.started(pod, "sh", "-c", "echo over there | nc -l -p 4321")
    url = daemon.runtime.PortForward(cri.PortForwardRequest(pod_sandbox_id=pod, port=[4321])).url
    assert await forwarded(url, 4321) == b"over there\n"


async def test_an_exec_after_the_container_has_ended_is_refused(daemon: Live) -> None:
    id = daemon.started(daemon.pod())
    url = exec_url(daemon, id, "true")
    daemon.exec(id, "kill", "-9", "1", timeout=5)
    daemon.runtime.StopContainer(cri.StopContainerRequest(container_id=id, timeout=0))
    with pytest.raises(grpc.RpcError) as error:
        exec_url(daemon, id, "true")
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    client = await Client.connect("spdy", url, ALL)
    assert "not running" in (await client.finished()).failure
