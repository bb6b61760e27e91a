"""Between a real client and the daemon: everything goes through, and what the client says in a session is kept.

The CRI socket here passes each call on; the URL that Exec, Attach and PortForward answer leads to a port of ours, from
which the connection goes on to the daemon's.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import grpc

from sampan.api import cri_pb2 as pb

_URLS: dict[str, Any] = {
    "Exec": pb.ExecResponse,
    "Attach": pb.AttachResponse,
    "PortForward": pb.PortForwardResponse,
}
TOKEN = b"a-token-that-has-been-used"  # what a recording has instead of the real one


class Recorder:
    """A CRI endpoint that leads to another, and the bytes of each session that went through."""

    def __init__(self, endpoint: str, socket_path: Path) -> None:
        self.endpoint = f"unix://{socket_path}"
        self.sessions: list[bytearray] = []
        self._channel = grpc.insecure_channel(endpoint)
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=[_Everything(self._channel, self._here)])
        self._server.add_insecure_port(self.endpoint)
        self._server.start()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._there = ("", 0)
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._server.stop(None).wait()
        self._channel.close()

    def _here(self, url: str) -> str:
        """The same URL, by way of us."""
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        self._there = (parts.hostname, parts.port)
        host, port = self._listener.getsockname()
        return urlunsplit(parts._replace(netloc=f"{host}:{port}"))

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._there)
                self._open += [client, server]
                kept = bytearray()
                self.sessions.append(kept)
                for source, sink, keep in ((client, server, kept.extend), (server, client, None)):
                    threading.Thread(target=_copy, args=(source, sink, keep), daemon=True).start()

    def recording(self, number: int = -1) -> bytes:
        """What the client said in a session, with a token that says nothing."""
        said = bytes(self.sessions[number])
        target = said.split(b" ", 2)[1]
        path, question, query = target.partition(b"?")
        plain = path.rpartition(b"/")[0] + b"/" + TOKEN + question + query
        return said.replace(target, plain, 1)


def _copy(source: socket.socket, sink: socket.socket, keep: Callable[[bytes], object] | None) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            if keep:
                keep(data)
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class _Everything(grpc.GenericRpcHandler):
    """Every unary call, as bytes."""

    def __init__(self, channel: grpc.Channel, here: Callable[[str], str]) -> None:
        self._channel = channel
        self._here = here

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        forward: Any = self._channel.unary_unary(method)

        def call(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                answer: bytes = forward(request)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details() or "")
            kind = _URLS.get(method.rpartition("/")[2])
            if kind is None:
                return answer
            led: bytes = kind(url=self._here(kind.FromString(answer).url)).SerializeToString()
            return led

        return grpc.unary_unary_rpc_method_handler(call)


@contextmanager
def recorder(endpoint: str, directory: Path) -> Iterator[Recorder]:
    running = Recorder(endpoint, directory / "recorder.sock")
    try:
        yield running
    finally:
        running.close()
