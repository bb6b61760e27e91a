"""How an HTTP/1.1 connection becomes one of SPDY or WebSocket: the request's head, what it asks for, the answer.

h11 reads, both roles; no socket, no clock. After the answer the connection speaks another protocol: bytes that came
behind the head belong to that. Sources: RFC 9110 7.8, RFC 6455 4, Kubernetes' apimachinery httpstream (Handshake).
"""

import base64
import binascii
import enum
import hashlib
import http
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import h11

Headers = tuple[tuple[str, str], ...]
"""Names in lower case, in the order they came."""

HEAD_MOST = 16 * 1024
"""Bytes of a request's or an answer's head."""
HEADERS_MOST = 100
_BODY_MOST = 64 * 1024
BROKEN = 502  # the status of `Refused` for what is no answer of a server of sessions
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_SPDY = "SPDY/3.1"


class Kind(enum.Enum):
    """What the connection speaks after the answer."""

    SPDY = "SPDY/3.1"
    WEBSOCKET = "websocket"


class Refused(Exception):
    """The request gets this answer instead (server), or got it (client); the text is the answer's body."""

    def __init__(self, status: int, words: str, headers: Headers = ()) -> None:
        super().__init__(words)
        self.status = status
        self.headers = headers

    def response(self) -> bytes:
        """The whole answer; the connection is to be closed after it."""
        body = f"{self}\n".encode()
        about = (
            ("content-type", "text/plain; charset=utf-8"),
            ("x-content-type-options", "nosniff"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        )
        return _head(self.status, (*about, *self.headers)) + body


@dataclass(frozen=True, slots=True)
class Head:
    """A request that has no body. `path` and `query` are as they came, never decoded; which host it named is not kept
    apart, so that nothing gets built from it."""

    method: str
    path: str
    query: str
    headers: Headers = field(repr=False)
    rest: bytes = field(repr=False)
    """What came behind it."""

    def values(self, name: str) -> list[str]:
        """The elements of all headers of this (lower-case) name, each of which may be a list with commas."""
        return [
            element
            for header, value in self.headers
            if header == name
            for part in value.split(",")
            if (element := part.strip())
        ]


class HeadReader:
    """Server role: bytes in, one `Head` out."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MOST)
        self._request: h11.Request | None = None

    def receive(self, data: bytes) -> Head | None:
        """The head once it is whole, None before; b"" is the connection's end. Raises Refused; not to be used then."""
        try:
            self._http.receive_data(data)
            if self._request is None and not self._take_request():
                return None
            return self._take_end()
        except h11.RemoteProtocolError as error:
            raise Refused(error.error_status_hint, f"the request cannot be understood: {error}") from None

    def _take_request(self) -> bool:
        event = self._http.next_event()
        if isinstance(event, h11.Request):
            self._request = event
            return True
        if event is h11.NEED_DATA:
            return False
        raise Refused(400, "the connection ended before a request came")

    def _take_end(self) -> Head | None:
        request = self._request
        assert request is not None
        if request.http_version != b"1.1":
            raise Refused(505, "a connection is upgraded in HTTP/1.1 only")
        if request.method not in (b"GET", b"POST"):
            raise Refused(405, "only GET and POST are served here", (("allow", "GET, POST"),))
        headers = _bounded(request)
        if any(
            name == "transfer-encoding" or (name == "content-length" and value != "0")
            for name, value in headers
        ):
            raise Refused(400, "a request to upgrade has no body")
        event = self._http.next_event()
        if not isinstance(event, h11.EndOfMessage):
            raise Refused(400, "a request to upgrade has no body")
        rest, _ = self._http.trailing_data
        path, query = _split(request.target.decode("ascii"))
        return Head(request.method.decode("ascii"), path, query, headers, rest)


def _bounded(request: h11.Request) -> Headers:
    """h11 bounds only what has come in several parts."""
    raw = list(request.headers)
    if len(raw) > HEADERS_MOST:
        raise Refused(431, f"the request has more than {HEADERS_MOST} headers")
    if len(request.target) + sum(len(name) + len(value) + 4 for name, value in raw) > HEAD_MOST:
        raise Refused(431, f"the request's head is larger than {HEAD_MOST} bytes")
    return tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in raw)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What a request asked for and gets: `response` is to be sent, then the connection speaks `protocol` (one of those
    that were offered; "" where a WebSocket has none) over `kind`."""

    kind: Kind
    protocol: str
    response: bytes = field(repr=False)


def negotiate(head: Head, *, spdy: Sequence[str], websocket: Sequence[str]) -> Upgrade:
    """Choose what the client likes best among our `spdy` and `websocket` subprotocols. Raises Refused with the answer
    that Kubernetes' own streaming server gives, where it has one."""
    asked = {name.lower() for name in head.values("upgrade")}
    if "upgrade" not in {token.lower() for token in head.values("connection")} or not asked:
        raise Refused(426, "this address is for upgraded connections only", _offers())
    if "websocket" in asked:
        return _to_websocket(head, websocket)
    if _SPDY.lower() in asked:
        return _to_spdy(head, spdy)
    raise Refused(400, f"unable to upgrade: only to {_SPDY} and to websocket", _offers())


def _offers() -> Headers:
    return (("upgrade", f"{_SPDY}, websocket"),)


def _to_spdy(head: Head, known: Sequence[str]) -> Upgrade:
    asked = head.values("x-stream-protocol-version")
    if not asked:
        raise Refused(400, "unable to upgrade: X-Stream-Protocol-Version is required")
    protocol = _first_known(asked, known)
    if protocol is None:
        accepted = tuple(("x-accepted-stream-protocol-versions", name) for name in known)
        raise Refused(403, f"unable to upgrade: {_disagreement(asked, known)}", accepted)
    headers = (("Connection", "Upgrade"), ("Upgrade", _SPDY), ("X-Stream-Protocol-Version", protocol))
    return Upgrade(Kind.SPDY, protocol, _head(101, headers))


def _to_websocket(head: Head, known: Sequence[str]) -> Upgrade:
    if head.method != "GET":
        raise Refused(405, "a WebSocket is opened by GET", (("allow", "GET"),))
    version = ",".join(head.values("sec-websocket-version"))
    if version != "13":
        said = f"WebSocket version {version[:20]!r}" if version else "no Sec-WebSocket-Version"
        raise Refused(
            426 if version else 400, f"{said}; this is version 13", (("sec-websocket-version", "13"),)
        )
    keys = [value for name, value in head.headers if name == "sec-websocket-key"]
    if len(keys) != 1 or not _is_key(keys[0]):
        raise Refused(400, "Sec-WebSocket-Key must be there once, 16 bytes in base64")
    asked = head.values("sec-websocket-protocol") or [""]
    protocol = _first_known(asked, known)
    if protocol is None:
        raise Refused(403, f"unable to upgrade: {_disagreement(asked, known)}")
    headers = (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", _accept(keys[0])),
    )
    named = (("Sec-WebSocket-Protocol", protocol),) if protocol else ()
    return Upgrade(Kind.WEBSOCKET, protocol, _head(101, (*headers, *named)))


def _first_known(asked: Iterable[str], known: Sequence[str]) -> str | None:
    return next((name for name in asked if name in known), None)


def _disagreement(asked: Sequence[str], known: Sequence[str]) -> str:
    wanted = ", ".join(asked)[:200] or "no subprotocol"
    return f"the client supports {wanted!a}, the server {', '.join(filter(None, known))}"


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _accept(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def _split(target: str) -> tuple[str, str]:
    """Path and query of a request's target, which may be a whole URL (RFC 9112, 3.2.2)."""
    for scheme in ("http://", "https://"):
        if target.lower().startswith(scheme):
            _, slash, path = target[len(scheme) :].partition("/")
            target = slash + path
    if not target.startswith("/"):
        raise Refused(400, "the request's target is no path")
    path, _, query = target.partition("#")[0].partition("?")
    return path, query


def _head(status: int, headers: Headers) -> bytes:
    lines = (
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        *(f"{name}: {value}" for name, value in headers),
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass(frozen=True, slots=True)
class Answer:
    """The server agreed: the connection speaks `protocol` now, beginning with `rest`."""

    protocol: str
    rest: bytes = field(repr=False)


class Asking:
    """Client role: one request to upgrade, one answer. `target` is the path with its query."""

    def __init__(self, kind: Kind, target: str, host: str, protocols: Sequence[str]) -> None:
        self._kind = kind
        self._protocols = tuple(protocols)
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MOST)
        method, headers = ("GET", self._websocket()) if kind is Kind.WEBSOCKET else ("POST", self._spdy())
        request = h11.Request(method=method, target=target, headers=[("Host", host), *headers])
        self._out = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        self._refusal: h11.Response | None = None
        self._body = b""

    def to_send(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def receive(self, data: bytes) -> Answer | None:
        """None until the answer is whole. Raises Refused, with the server's own words where it gave any; BROKEN is said
        of what is no answer."""
        if not data and self._refusal is None:
            raise Refused(BROKEN, "the connection ended before an answer came")
        try:
            self._http.receive_data(data)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                    return self._agreed(event)
                self._refused(event)
        except h11.RemoteProtocolError as error:
            if self._refusal is not None:
                self._end()
            raise Refused(BROKEN, f"the server's answer cannot be understood: {error}") from None
        return None

    def _websocket(self) -> list[tuple[str, str]]:
        headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
        headers.append(("Sec-WebSocket-Key", self._key))
        named = [name for name in self._protocols if name]
        return [*headers, ("Sec-WebSocket-Protocol", ", ".join(named))] if named else headers

    def _spdy(self) -> list[tuple[str, str]]:
        headers = [("Connection", "Upgrade"), ("Upgrade", _SPDY), ("Content-Length", "0")]
        return headers + [("X-Stream-Protocol-Version", name) for name in self._protocols]

    def _agreed(self, event: h11.InformationalResponse) -> Answer:
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
        if headers.get("upgrade", "").lower() != self._kind.value.lower():
            raise Refused(BROKEN, f"the server upgraded to something else than {self._kind.value}")
        if self._kind is Kind.WEBSOCKET and headers.get("sec-websocket-accept") != _accept(self._key):
            raise Refused(BROKEN, "the server answered another WebSocket's request")
        spdy = self._kind is Kind.SPDY
        protocol = headers.get("x-stream-protocol-version" if spdy else "sec-websocket-protocol", "")
        if protocol not in self._protocols:
            raise Refused(
                BROKEN, f"the server chose the subprotocol {protocol[:100]!a}, which was not offered"
            )
        return Answer(protocol, self._http.trailing_data[0])

    def _refused(self, event: object) -> None:
        if isinstance(event, h11.Response):
            self._refusal = event
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > _BODY_MOST:
                self._end()
        elif isinstance(event, h11.EndOfMessage):
            self._end()
        elif not isinstance(event, h11.InformationalResponse):
            raise Refused(BROKEN, "the connection ended before an answer came")

    def _end(self) -> None:
        assert self._refusal is not None
        words = self._body[:_BODY_MOST].decode("utf-8", "replace").strip()
        status = self._refusal.status_code
        raise Refused(status, words or f"the server answered {status}") from None
