"""The ways in which a command gets into a container: to its end by one RPC, or in a session with pipes or a terminal;
by each of the OCI runtimes, of which crun stays with a command itself and runc has the adopter for that."""

import asyncio
import shutil
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.wire.remotecommand.channels import Wanted
from tests import oci_runtimes
from tests.daemon.conftest import SECONDS, Live
from tests.stream_clients import Client

SYNC, PIPES, TERMINAL = "sync", "pipes", "terminal"
WAYS = (SYNC, PIPES, TERMINAL)
HANDLERS = tuple(name for name in oci_runtimes.RUNTIMES if name == "crun" or shutil.which(name))
each_way = pytest.mark.parametrize("way", WAYS)
each_handler = pytest.mark.parametrize("handler", oci_runtimes.RUNTIMES)


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a command: its code and all that it said, or why it could not be run."""

    code: int = -1
    said: bytes = b""
    failure: str = ""

    @property
    def lines(self) -> list[str]:
        return self.said.decode().splitlines()


def wanted(way: str, *, stdin: bool = False) -> Wanted:
    return Wanted(stdin=stdin, stdout=True, stderr=way == PIPES, tty=way == TERMINAL)


def url(daemon: Live, id: str, *command: str, wanted: Wanted) -> str:
    """Where a session with this command is."""
    asked = cri.ExecRequest(
        container_id=id,
        cmd=list(command),
        stdin=wanted.stdin,
        stdout=wanted.stdout,
        stderr=wanted.stderr,
        tty=wanted.tty,
    )
    return daemon.runtime.Exec(asked, timeout=SECONDS).url


async def begin(daemon: Live, way: str, id: str, *command: str, stdin: bool = False) -> Client:
    """A session in which this command runs."""
    streams = wanted(way, stdin=stdin)
    return await Client.connect("websocket", url(daemon, id, *command, wanted=streams), streams)


async def run(daemon: Live, way: str, id: str, *command: str) -> Ran:
    """To its end."""
    try:
        if way == SYNC:
            done = await asyncio.to_thread(daemon.exec, id, *command)
            return Ran(done.exit_code, done.stdout + done.stderr)
        client = await begin(daemon, way, id, *command)
    except grpc.RpcError as error:
        return Ran(failure=f"{error.code().name}: {error.details()}")
    status = await client.finished()
    said = client.stdout.replace(b"\r\n", b"\n") + client.stderr
    return Ran(status.code, said, status.failure)


def pod(daemon: Live, handler: str, name: str, **more: Any) -> str:
    """A pod whose containers this runtime runs."""
    oci_runtimes.require(handler.removeprefix("own-"))
    config = daemon.pod_config(name, **more)
    request = cri.RunPodSandboxRequest(config=config, runtime_handler="" if handler == "crun" else handler)
    return daemon.runtime.RunPodSandbox(request, timeout=SECONDS).pod_sandbox_id


def remove(daemon: Live, pod: str) -> None:
    daemon.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=SECONDS)
    daemon.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=SECONDS)
