"""Sessions: how fast bytes go through exec and port-forward, and what that costs the daemon in memory.

The client is a process of its own (`python -m bench.sessions URL BYTES`), so that the daemon is measured and not
the client's lock; it speaks SPDY as kubectl and crictl do, with frames of 256 KiB. The machine's own measure beside it
is `cat | cat`.
"""

import contextlib
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bench.work import Bench, Pod
from sampan.api import cri_pb2 as pb
from sampan.wire.spdy.frames import Control, Data, Kind, Piece, Splitter, data_head
from sampan.wire.spdy.session import Session

MIB = 1 << 20
SIZE = 1024  # MiB of a run
PORT = 5000
FRAME = 256 << 10
_HEAD = (
    "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
    "X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
)


class Client:
    """One upgraded connection, and the streams on it."""

    def __init__(self, url: str, protocol: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        self.socket = socket.create_connection((parts.hostname, parts.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = _HEAD.format(path=f"{parts.path}?{parts.query}", host=parts.netloc, protocol=protocol)
        self.socket.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = self.socket.recv(4096)
            assert more, f"the server closed: {answer!r}"
            answer += more
        assert answer.startswith(b"HTTP/1.1 101"), answer
        self.session = Session(server=False)  # opens streams, no more: Go's clients know nothing of windows
        self.session.to_send()
        self.splitter = Splitter(1 << 16)
        self.rest = answer.partition(b"\r\n\r\n")[2]

    def open(self, *headers: tuple[str, str]) -> int:
        stream = self.session.open(headers)
        self.flush()
        return stream

    def flush(self) -> None:
        self.socket.sendall(b"".join(self.session.to_send()))

    def feed(self, stream: int, payloads: Iterable[bytes]) -> None:
        """All of these, and the end of the stream."""
        for payload in payloads:
            self.socket.sendall(data_head(stream, len(payload), False))
            self.socket.sendall(payload)
        self.socket.sendall(data_head(stream, 0, True))

    def heard(self, stream: int) -> Iterator[Data]:
        """What comes on this stream, to its end."""
        data = self.rest
        while True:
            for frame in self.splitter.feed(data):
                if isinstance(frame, Piece) and frame.stream == stream:
                    yield frame.data
                    if frame.fin:
                        return
                assert not isinstance(frame, Control) or frame.kind not in (Kind.RST_STREAM, Kind.GOAWAY), (
                    frame
                )
            data = self.socket.recv(1 << 18)
            assert data, "the connection ended before the stream"


def connected(url: str) -> tuple[Client, int, int]:
    """A client of this session, the stream that takes bytes and the one that gives them back."""
    forward = "/portforward/" in url
    client = Client(url, "portforward.k8s.io" if forward else "v4.channel.k8s.io")
    if forward:
        port = (("port", str(PORT)), ("requestid", "0"))
        client.open(("streamtype", "error"), *port)
        into = back = client.open(("streamtype", "data"), *port)
    else:
        client.open(("streamtype", "error"))
        into, back = client.open(("streamtype", "stdin")), client.open(("streamtype", "stdout"))
    return client, into, back


def run(url: str, size: int) -> float:
    """Send `size` bytes, whole frames of them, and take them back; MiB a second."""
    client, into, back = connected(url)
    payload = bytes(range(256)) * (FRAME // 256)
    begin = time.perf_counter()
    feeding = threading.Thread(target=client.feed, args=(into, itertools.repeat(payload, size // FRAME)))
    feeding.start()
    got = sum(map(len, client.heard(back)))
    took = time.perf_counter() - begin
    feeding.join()
    client.socket.close()
    assert got == size, f"{got} bytes came back, not {size}"
    return size / MIB / took


def pipes() -> float:
    """MiB a second through `cat | cat`."""
    begin = time.perf_counter()
    subprocess.run(["sh", "-c", f"head -c {SIZE}M /dev/zero | cat | cat > /dev/null"], check=True)
    return SIZE / (time.perf_counter() - begin)


def sessions(bench: Bench, times: int = 3) -> None:
    """Throughput of exec and port-forward, and how far the daemon's memory grew meanwhile."""
    figures = bench.measures.figures
    with container(bench) as pod:
        daemon = bench.processes()[0] if bench.processes else 0
        before = highest(daemon)
        for _ in range(times):
            bench.measures.add("pipes", pipes())
            bench.measures.add("exec_throughput", elsewhere(exec_url(bench, pod)))
            bench.measures.add("forward_throughput", elsewhere(forward_url(bench, pod)))
        if daemon:
            figures["sessions_growth"] = highest(daemon) - before


@contextlib.contextmanager
def container(bench: Bench) -> Iterator[Pod]:
    """A pod whose container echoes what comes to PORT."""
    echo = ["nc", "-ll", "-p", str(PORT), "-e", "cat"]
    pod, _ = bench.up(echo)
    try:
        yield pod
    finally:
        bench.down(pod)


def exec_url(bench: Bench, pod: Pod) -> str:
    request = pb.ExecRequest(container_id=pod.container, cmd=["cat"], stdin=True, stdout=True)
    return bench.runtime.Exec(request).url


def forward_url(bench: Bench, pod: Pod) -> str:
    return bench.runtime.PortForward(pb.PortForwardRequest(pod_sandbox_id=pod.id, port=[PORT])).url


def elsewhere(url: str) -> float:
    """`run` in a process of its own."""
    argv = [sys.executable, "-m", "bench.sessions", url, str(SIZE * MIB)]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def highest(pid: int) -> float:
    """MiB that the process has had at most (proc(5), VmHWM); 0 for no process."""
    if not pid:
        return 0.0
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    print(run(sys.argv[1], int(sys.argv[2])))
