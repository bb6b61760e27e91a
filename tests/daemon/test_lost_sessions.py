"""kill -9 of the daemon while clients have sessions: the next one ends what they were running, and nothing else."""

import asyncio

import pytest

from sampan.api import cri_pb2 as cri
from sampan.wire.remotecommand.channels import Wanted
from sampan.wire.remotecommand.status import Status
from tests.daemon.conftest import SECONDS, Live
from tests.daemon.test_sessions import commands, exec, exec_url, gone
from tests.sessions import ALL, TERMINAL
from tests.stream_clients import Client

pytestmark = pytest.mark.root


async def restarted(daemon: Live) -> None:
    await asyncio.to_thread(daemon.kill)
    await asyncio.to_thread(daemon.start)


async def say_up(daemon: Live, id: str, script: str, wanted: Wanted = ALL) -> Client:
    """A session that runs this script by now."""
    client = await exec(daemon, "spdy", id, "sh", "-c", script, wanted=wanted)
    await client.until(lambda: b"up" in client.stdout)
    return client


async def test_what_a_lost_session_was_running_is_ended_and_what_was_left_behind_lives_on(
    daemon: Live,
) -> None:
    id = daemon.started(daemon.pod())
    left = await exec(daemon, "spdy", id, "sh", "-c", "setsid sleep 765401 >/dev/null 2>&1 & exit 3")
    assert await left.finished() == Status(code=3)
    hidden = "(setsid sh -c 'trap \"\" HUP; setsid sleep 765402 & sleep 765402' &); echo up; sleep 765402"
    clients = [await say_up(daemon, id, hidden), await say_up(daemon, id, hidden, wanted=TERMINAL)]
    url = exec_url(daemon, id, "true")
    await restarted(daemon)
    await gone("765402")
    assert len(commands("sleep\x00765401")) == 1
    assert daemon.status(id).state == cri.CONTAINER_RUNNING
    assert daemon.exec(id, "echo", "hi").stdout == b"hi\n"
    assert list((daemon.own.state / "exec").glob("*")) == []
    for client in clients:
        client.leave()
    with pytest.raises((OSError, AssertionError, EOFError)):  # the address was the dead daemon's
        await Client.connect("spdy", url, ALL)
    daemon.runtime.StopContainer(cri.StopContainerRequest(container_id=id, timeout=0), timeout=SECONDS)
    await gone("765401")


async def test_what_may_outlive_its_client_outlives_the_daemon_and_not_its_container(daemon: Live) -> None:
    with daemon.own.config.open("a") as config:
        config.write("[streaming]\nend_exec_with_client = false\n")
    await restarted(daemon)
    id = daemon.started(daemon.pod())
    gone_before = await say_up(daemon, id, "echo up; sleep 765403")
    gone_before.leave()
    there = await say_up(daemon, id, "echo up; sleep 765404")
    await restarted(daemon)
    assert daemon.exec(id, "true").exit_code == 0
    there.leave()
    assert len(commands("sleep\x00765403")) == len(commands("sleep\x00765404")) == 1
    daemon.runtime.StopContainer(cri.StopContainerRequest(container_id=id, timeout=0), timeout=SECONDS)
    await gone("765403")
    await gone("765404")
