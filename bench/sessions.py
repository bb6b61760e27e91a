"""Sessions: how fast bytes go through exec and port-forward, and what that costs the daemon in memory.

The client is a process of its own (`python -m bench.sessions URL BYTES`), so that the daemon is measured and not
the client's lock; it speaks SPDY as kubectl and crictl do, with frames of 256 KiB. The machine's own measure beside it
is `cat | cat`.
"""

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sampan.api import cri_pb2 as pb
from sampan.wire.spdy.frames import Control, Kind, Piece, Splitter
from sampan.wire.spdy.session import Session

from bench.work import Bench, Pod

MIB = 1 << 20
SIZE = 1024  # MiB of a run
PORT = 5000
_FRAME = 256 << 10
_LAST = 1  # the flag of a stream's last frame
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

    def feed(self, stream: int, size: int) -> None:
        """`size` bytes, and the end of them."""
        payload = bytes(range(256)) * (_FRAME // 256)
        while size > 0:
            length = min(size, _FRAME)
            size -= length
            head = struct.pack(">II", stream, (0 if size else _LAST) << 24 | length)
            self.socket.sendall(head)
            self.socket.sendall(payload[:length] if length < _FRAME else payload)

    def count(self, stream: int, size: int) -> None:
        """Read until `size` bytes of this stream have come."""
        left, data = size, self.rest
        while True:
            for frame in self.splitter.feed(data):
                if isinstance(frame, Piece) and frame.stream == stream:
                    left -= len(frame.data)
                early = isinstance(frame, Control) and frame.kind in (Kind.RST_STREAM, Kind.GOAWAY)
                assert left <= 0 or not early, frame
            if left <= 0:
                break
            data = self.socket.recv(1 << 18)
            assert data, f"the connection ended {left} bytes too early"
        assert left == 0, f"{-left} bytes too many"


def run(url: str, size: int) -> float:
    """Send `size` bytes and take them back; MiB a second."""
    forward = "/portforward/" in url
    client = Client(url, "portforward.k8s.io" if forward else "v4.channel.k8s.io")
    if forward:
        port = (("port", str(PORT)), ("requestid", "0"))
        client.open(("streamtype", "error"), *port)
        into = back = client.open(("streamtype", "data"), *port)
    else:
        client.open(("streamtype", "error"))
        into, back = client.open(("streamtype", "stdin")), client.open(("streamtype", "stdout"))
    begin = time.perf_counter()
    feeding = threading.Thread(target=client.feed, args=(into, size))
    feeding.start()
    client.count(back, size)
    took = time.perf_counter() - begin
    feeding.join()
    client.socket.close()
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
