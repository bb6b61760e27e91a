"""Much data through one session: what comes back is what was sent, and the daemon keeps none of it.

SAMPAN_SESSION_MIB sets how much; 128 MiB unless told otherwise.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from bench.sessions import FRAME, PORT, connected, highest
from sampan.api import cri_pb2 as cri
from tests.daemon.conftest import SECONDS, Live

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = int(os.environ.get("SAMPAN_SESSION_MIB", "128")) * MIB
GROWTH = 40  # MiB: the allocator keeps some of what was in use at a time


def exec_url(daemon: Live, _: str, container: str) -> str:
    request = cri.ExecRequest(container_id=container, cmd=["cat"], stdin=True, stdout=True)
    return daemon.runtime.Exec(request, timeout=SECONDS).url


def forward_url(daemon: Live, pod: str, _: str) -> str:
    request = cri.PortForwardRequest(pod_sandbox_id=pod, port=[PORT])
    return daemon.runtime.PortForward(request, timeout=SECONDS).url


def payloads(size: int) -> Iterator[bytes]:
    """Frames of noise that are all different: none may be lost, doubled, cut or change its place."""
    noise = os.urandom(FRAME - 8)
    for number in range(size // FRAME):
        yield number.to_bytes(8, "big") + noise


@pytest.mark.parametrize("url", [exec_url, forward_url], ids=["exec", "port-forward"])
def test_what_comes_back_is_what_was_sent(daemon: Live, url: Callable[[Live, str, str], str]) -> None:
    pod = daemon.pod()
    container = daemon.started(pod, "nc", "-ll", "-p", str(PORT), "-e", "cat")
    daemon.exec(container, "true")
    assert daemon.own.process is not None
    before = highest(daemon.own.process.pid)
    client, into, back = connected(url(daemon, pod, container))
    client.socket.settimeout(SECONDS)
    sent, got, count = hashlib.sha256(), hashlib.sha256(), 0

    def said() -> Iterator[bytes]:
        for payload in payloads(SIZE):
            sent.update(payload)
            yield payload

    feeding = threading.Thread(target=client.feed, args=(into, said()))
    feeding.start()
    for data in client.heard(back):
        got.update(data)
        count += len(data)
    feeding.join()
    client.socket.close()
    assert (count, got.hexdigest()) == (SIZE, sent.hexdigest())
    assert highest(daemon.own.process.pid) - before < GROWTH
