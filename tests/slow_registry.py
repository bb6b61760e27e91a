"""A slow registry in threads, beside a test that blocks: it may be killed and started again on the same port.

Honest otherwise: manifests by tag and digest, blobs whole and in ranges, each connection at the same rate.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR, socket
from typing import Any

from tests import images

PIECE = 16 << 10


class SlowRegistry:
    """`served` counts the bytes of blobs that went out, `asked` has the requests for blobs: digest and Range."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.served = 0
        self.asked: list[tuple[str, str]] = []
        self._server: _Server | None = None
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def push(self, repository: str, image: images.Image, tag: str = "latest") -> str:
        """The reference by which it can be pulled."""
        for target in (tag, image.digest):
            self.manifests[f"/v2/{repository}/manifests/{target}"] = image.manifest
        self.blobs |= image.blobs
        return f"{self.address}/{repository}:{tag}"

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.registry = self
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        """All connections break, and new ones are refused."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.break_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    registry: SlowRegistry

    def __init__(self, *args: Any) -> None:
        self._connections: set[socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def break_all(self) -> None:
        for connection in list(self._connections):
            try:
                connection.shutdown(SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client went away, which is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        registry = self.server.registry
        path = self.path.partition("?")[0]
        digest = path.rpartition("/")[2]
        if path in registry.manifests:
            data = registry.manifests[path]
            self._answer(200, data, Content_Type=images.MANIFEST, Docker_Content_Digest=images.sha256(data))
        elif "/blobs/" in path and digest in registry.blobs:
            self._blob(registry, digest)
        else:
            self._answer(404, b"")

    def _blob(self, registry: SlowRegistry, digest: str) -> None:
        data, asked = registry.blobs[digest], self.headers.get("Range", "").removeprefix("bytes=")
        registry.asked.append((digest, asked))
        first, _, last = asked.partition("-")
        start, stop = int(first or 0), int(last) + 1 if last else len(data)
        fields = {"Content_Range": f"bytes {start}-{stop - 1}/{len(data)}"} if asked else {}
        self._answer(206 if asked else 200, data[start:stop], registry, **fields)

    def _answer(self, status: int, data: bytes, registry: SlowRegistry | None = None, **fields: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **fields}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        began = time.monotonic()
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self.wfile.write(piece)
            if registry is not None:
                registry.served += len(piece)
                time.sleep(max(0.0, began + (start + len(piece)) / registry.rate - time.monotonic()))

    def log_message(self, format: str, *args: Any) -> None:
        """To nowhere."""
