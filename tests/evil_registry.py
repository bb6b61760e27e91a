"""A registry that can be told to misbehave: an HTTP server by hand, because a library would not let it.

Every path has a list of behaviours; each request uses up one, the last one stays. What was asked is recorded.
"""

import asyncio
import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests import images
from tests.signing import Signatures


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


Behaviour = Callable[[Request, asyncio.StreamWriter], Awaitable[bool]]  # False: close the connection


# --- behaviours -------------------------------------------------------------------------------------------


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Behaviour:
    """A whole answer; underscores in header names stand for dashes."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> bool:
        fields = {"Content-Length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        writer.write(head(status, fields) + (b"" if request.method == "HEAD" else body))
        return True

    return behave


def blob(
    body: bytes,
    *,
    ranges: bool = True,
    cut: int | None = None,
    pace: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]] | None = None,
) -> Behaviour:
    """A blob that honours Range unless told not to; with `cut`, it breaks off after so many bytes each
    time; `pace` sends it in its own time."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> bool:
        asked = request.headers.get("range", "") if ranges else ""
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first or 0)
        part = body[start : int(last) + 1 if last else len(body)]
        fields = {"Content-Length": str(len(part))}
        if asked:
            fields["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(body)}"
        writer.write(head(206 if asked else 200, fields) + (b"" if pace else part[:cut]))
        if pace:
            await pace(part, writer)
        return cut is None

    return behave


class throttled:
    """A blob of which each connection brings so many bytes a second. `most` counts those under way together."""

    def __init__(self, body: bytes, rate: int, *, ranges: bool = True) -> None:
        self._body, self._rate, self._ranges = body, rate, ranges
        self._active = self.most = 0

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        whole = blob(self._body, ranges=self._ranges, pace=self._pace)
        self._active += 1
        self.most = max(self.most, self._active)
        try:
            return await whole(request, writer)
        finally:
            self._active -= 1

    async def _pace(self, part: bytes, writer: asyncio.StreamWriter) -> None:
        clock, piece = asyncio.get_running_loop().time, self._rate // 50
        began = clock()
        for start in range(0, len(part), piece):
            writer.write(part[start : start + piece])
            await writer.drain()
            await asyncio.sleep(began + start / self._rate - clock())


def redirect(location: str, status: int = 307) -> Behaviour:
    return answer(status=status, Location=location)


def raw(data: bytes) -> Behaviour:
    """These bytes, then the end."""

    async def behave(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        return False

    return behave


def hang(beginning: bytes = b"") -> Behaviour:
    """Never answer further."""

    async def behave(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(beginning)
        await writer.drain()
        await asyncio.Event().wait()
        return False

    return behave


def endless(beginning: bytes, again: bytes, pause: float = 0.0) -> Behaviour:
    """The same bytes again and again, until the client has had enough."""

    async def behave(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(beginning)
        while True:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(pause)

    return behave


def head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def certificate(directory: Path) -> ssl.SSLContext:
    """A self-signed certificate for 127.0.0.1 in `directory`: cert.pem, key.pem, and both.pem with both; and what a
    server needs to show it. Clients may show it too."""
    request = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    )
    names = "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run([*request.split(), *names.split()], cwd=directory, check=True, capture_output=True)
    key, own = (directory / "key.pem").read_bytes(), (directory / "cert.pem").read_bytes()
    (directory / "both.pem").write_bytes(key + own)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "both.pem")
    context.load_verify_locations(directory / "cert.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


# --- the server -------------------------------------------------------------------------------------------


@dataclass
class EvilRegistry:
    """`address` is host:port. `gate` is asked first for every request (for authentication); None lets it
    pass."""

    address: str = ""
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    gate: Callable[[Request], Behaviour | None] = lambda _: None
    _routes: dict[str, list[Behaviour]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def on(self, path: str, *behaviours: Behaviour) -> None:
        """How requests for this path are answered from now on."""
        self._routes[path] = list(behaviours)

    def serve(self, image: images.Image, repository: str = "app", tag: str = "latest") -> None:
        """An image as an honest registry would serve it."""
        self.serve_manifest(image.manifest, repository, tag)
        for digest, data in image.blobs.items():
            self.on(f"/v2/{repository}/blobs/{digest}", blob(data))

    def serve_signatures(
        self, signatures: Signatures, digest: str, repository: str = "app", *, api: bool = True
    ) -> None:
        """What was signed, beside the image `digest`. Without the referrers API, the index has a tag."""
        for tag, data in signatures.manifests:
            self.serve_manifest(data, repository, tag or images.sha256(data))
        for blob_digest, data in signatures.blobs.items():
            self.on(f"/v2/{repository}/blobs/{blob_digest}", blob(data))
        index = images.referrers([data for tag, data in signatures.manifests if not tag])
        if api:
            self.on(f"/v2/{repository}/referrers/{digest}", answer(index, Content_Type=images.INDEX))
        else:
            self.serve_manifest(index, repository, digest.replace(":", "-"))

    def serve_manifest(self, manifest: bytes, repository: str = "app", *tags: str) -> None:
        kind = str(json.loads(manifest).get("mediaType", images.MANIFEST))
        for target in (*(tags or ("latest",)), images.sha256(manifest)):
            known = answer(manifest, Content_Type=kind, Docker_Content_Digest=images.sha256(manifest))
            self.on(f"/v2/{repository}/manifests/{target}", known)

    def asked(self, method: str, prefix: str) -> list[Request]:
        return [each for each in self.requests if each.method == method and each.path.startswith(prefix)]

    def hosts_toml(self, directory: Path, domain: str, extra: str = "") -> None:
        """Make this the registry of `domain` in a configuration directory."""
        (directory / domain).mkdir(parents=True, exist_ok=True)
        (directory / domain / "hosts.toml").write_text(f'server = "{self.url}"\n{extra}')

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                if not await self._behaviour(request)(request, writer):
                    break
                await writer.drain()
            else:
                writer.write(head(400, {"Connection": "close"}))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _behaviour(self, request: Request) -> Behaviour:
        barred = self.gate(request)
        if barred is not None:
            return barred
        behaviours = self._routes.get(request.path)
        if not behaviours:
            return answer(b'{"errors":[{"code":"NAME_UNKNOWN","message":"?"}]}', 404)
        return behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]


async def _read(reader: asyncio.StreamReader) -> Request | None:
    letter = await reader.readexactly(1)
    if letter == b"\x16":  # a TLS greeting, which web servers answer in plain words
        return None
    text = letter + await reader.readuntil(b"\r\n\r\n")
    first, *lines = text.decode("latin-1").rstrip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    path, _, query = target.partition("?")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, query, headers, body)


@contextlib.asynccontextmanager
async def running(
    context: ssl.SSLContext | None = None, address: str = "127.0.0.1"
) -> AsyncIterator[EvilRegistry]:
    """A registry on a free port of this loopback address, by TLS if a context is given."""
    registry = EvilRegistry(scheme="https" if context else "http")
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await registry._connection(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            connections.discard(task)

    server = await asyncio.start_server(accept, address, 0, ssl=context, limit=1 << 20)
    registry.address = f"{address}:{server.sockets[0].getsockname()[1]}"
    try:
        yield registry
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
