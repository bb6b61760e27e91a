"""Attach through a whole daemon, over both carriers: the RPC, the URL, the session, conmon, the container."""

import asyncio
import hashlib
import os
from contextlib import suppress

import pytest

from sampan.api import cri_pb2 as cri
from sampan.wire.remotecommand.channels import Wanted
from tests.daemon.conftest import Live
from tests.stream_clients import CARRIERS, Client

pytestmark = pytest.mark.root

ALL = Wanted(stdin=True, stdout=True, stderr=True)
LOOKS_ON = Wanted(stdout=True, stderr=True)
TTY = Wanted(stdin=True, stdout=True, tty=True)


async def attach(daemon: Live, carrier: str, container: str, wanted: Wanted) -> Client:
    request = cri.AttachRequest(
        container_id=container,
        stdin=wanted.stdin,
        stdout=wanted.stdout,
        stderr=wanted.stderr,
        tty=wanted.tty,
    )
    return await Client.connect(carrier, daemon.runtime.Attach(request, timeout=20).url, wanted)


async def gone(client: Client) -> None:
    client.writer.transport.abort()
    with suppress(ConnectionError):
        await client.writer.wait_closed()


async def until_over(client: Client) -> None:
    await client.until(lambda: client.stderr == b"over\n" and client.stdout.endswith(b"3000000\n"))


@pytest.fixture(params=sorted(CARRIERS))
def carrier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_input_whole_and_its_end_with_stdin_once(daemon: Live, carrier: str) -> None:
    container = daemon.started(daemon.pod(), "sh", "-c", "sha256sum", stdin=True, stdin_once=True)
    content = os.urandom(4 << 20)
    client = await attach(daemon, carrier, container, ALL)
    for start in range(0, len(content), 65536):
        await client.say(content[start : start + 65536])
    await client.end()
    assert (await client.finished()).failure == ""
    await gone(client)
    assert client.stdout[:64].decode() == hashlib.sha256(content).hexdigest()
    assert daemon.until_exited(container).exit_code == 0


async def test_several_clients_one_of_whom_never_reads(daemon: Live, carrier: str) -> None:
    script = "read x; seq 1000000 3000000; echo over >&2; exec sleep 100000"
    container = daemon.started(daemon.pod(), "sh", "-c", script, stdin=True)
    deaf = await attach(daemon, carrier, container, LOOKS_ON)
    deaf.reader._limit = 1  # type: ignore[attr-defined]  # else asyncio reads on for us
    client = await attach(daemon, carrier, container, ALL)
    onlooker = await attach(daemon, carrier, container, LOOKS_ON)
    await client.say(b"\n")
    await asyncio.gather(until_over(client), until_over(onlooker))
    assert (
        client.stdout == onlooker.stdout == b"".join(b"%d\n" % number for number in range(1000000, 3000001))
    )
    for each in (deaf, client, onlooker):
        await gone(each)
    assert daemon.status(container).state == cri.CONTAINER_RUNNING


async def test_a_terminal_that_a_killed_daemon_has_left(daemon: Live, carrier: str) -> None:
    container = daemon.started(
        daemon.pod(), "sh", "-c", "while read x; do echo got $x; stty size; done", stdin=True, tty=True
    )
    client = await attach(daemon, carrier, container, TTY)
    await client.resize(90, 30)
    await client.say(b"one\n")
    await client.until(lambda: b"got one\r\n30 90" in client.stdout)
    await asyncio.to_thread(daemon.kill)
    await asyncio.to_thread(daemon.start)
    later = await attach(daemon, carrier, container, TTY)
    await later.say(b"two\n")
    await later.until(lambda: b"got two\r\n30 90" in later.stdout)
    assert b"one" not in later.stdout
    await gone(client)
    await later.end()
    await later.finished()  # its input has ended, not the container's
    await gone(later)
    assert daemon.status(container).state == cri.CONTAINER_RUNNING
