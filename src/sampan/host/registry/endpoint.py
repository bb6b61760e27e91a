"""Requests to one registry host (RFC 9110, distribution-spec). Imports aiohttp: loaded at the first pull.

What is asked for, and of which host, is `host.registry.client`'s business. Held here: credentials and configured
headers go to the host's own origin alone; redirects are few, never leave TLS and never reach an address that
`host.registry.address` refuses; nothing is decompressed; nothing is read beyond what was asked for; what
breaks is tried again, with patience but not for ever; no error shows a query, a user or a token.
"""

import asyncio
import ipaddress
import random
import re
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from sampan.host.registry import proxies
from sampan.host.registry.address import AddressRefused, Resolver, tls
from sampan.host.registry.failures import Broken, explain, passes, refusal
from sampan.host.registry.login import Login
from sampan.host.registry.node_credentials import NodeCredentials
from sampan.model.errors import Invalid, RegistryUnavailable
from sampan.wire import distribution
from sampan.wire.credentials import Credentials
from sampan.wire.hosts_toml import Host
from sampan.wire.reference import Reference

T = TypeVar("T")
REDIRECTS = 5
ATTEMPTS = 4
MIRROR_ATTEMPTS = 2  # there is another host to ask
MIRROR_SECONDS = 30.0  # an attempt at a mirror may bring nothing for so long
MIRROR_WAIT = 5.0  # seconds; a mirror that asks for more is not waited for
LONGEST_WAIT = 60.0  # seconds; a registry that asks for more is not waited for
READ_BUFFER = 512 << 10  # bytes buffered of one download before the socket is left to wait
ERROR_BODY = 64 << 10  # bytes of an error answer that are read
MINIMUM_RATE = 1024  # bytes a second; a download below it for an attempt's time is taken up anew
WORTH_ANOTHER = 1 << 20  # bytes a broken download must have brought for its attempts to count anew

_LOCATION = re.compile(r"[\x21-\x7e]+")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait: `progress` seconds (0: for ever) for a byte to move, over all attempts that bring
    nothing; how the pause between two attempts is made; the wall clock. With a mirror there is less of it."""

    progress: float = 300.0
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.time
    mirror: bool = False

    @property
    def attempts(self) -> int:
        return MIRROR_ATTEMPTS if self.mirror else ATTEMPTS

    @property
    def longest_wait(self) -> float:
        return MIRROR_WAIT if self.mirror else LONGEST_WAIT

    @property
    def attempt(self) -> float | None:
        """The share of one attempt: a stalled connection is worth a new one before all patience is gone."""
        share = self.progress / ATTEMPTS or None
        return min(share, MIRROR_SECONDS) if share and self.mirror else share


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` to `stop` of a blob of `size`. `exact`: NotImplementedError from a host that knows no ranges,
    whose answer would have to be read from the blob's first byte on."""

    start: int
    stop: int
    size: int
    exact: bool = False

    @property
    def headers(self) -> dict[str, str]:
        if self.stop < self.size:
            return {"Range": f"bytes={self.start}-{self.stop - 1}"}
        return {"Range": f"bytes={self.start}-"} if self.start else {}


class Endpoint:
    """One host, for the length of one pull."""

    def __init__(
        self,
        host: Host,
        reference: Reference,
        credentials: Credentials | None,
        patience: Patience,
        node: NodeCredentials | None = None,
    ) -> None:
        self.host = host
        self._patience = patience
        self._origin = _origin(URL(f"{host.scheme}://{host.host}", encoded=True))
        self._resolver = Resolver(self._origin[1], proxies.hosts())
        self._login = Login(self, reference, credentials, node)
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(self, method: str, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """A successful answer, its body unread. Raises NotFound, Denied, RegistryUnavailable, Invalid."""
        return await self._retried(lambda: self._authorized(method, url, headers))

    async def fetch(self, url: str, headers: Mapping[str, str], limit: int) -> bytes:
        """The whole body of a small answer."""

        async def attempt() -> bytes:
            return await self.read(await self._authorized("GET", url, headers), limit)

        return await self._retried(attempt)

    async def stream(self, url: str, span: Span) -> AsyncGenerator[bytes, None]:
        """These bytes of a blob; a download that breaks is taken up where it broke."""
        tries, mark = 0, span.start
        while True:
            try:
                async with aclosing(self._part(url, span)) as part:
                    async for data in part:
                        span = replace(span, start=span.start + len(data))
                        yield data
                return
            except Broken as error:
                if span.start == span.stop:
                    return  # all of it came; only the end of the answer did not
                if span.start - mark >= WORTH_ANOTHER:
                    tries, mark = 0, span.start
                tries += 1
                await self._wait(tries, error)

    # --- attempts -----------------------------------------------------------------------------------------

    async def _retried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        tries = 0
        while True:
            try:
                return await attempt()
            except Broken as error:
                tries += 1
                await self._wait(tries, error)

    async def _wait(self, tries: int, error: Broken) -> None:
        """Pause before the next attempt, or give up."""
        wait = error.after if error.after is not None else min(0.5 * 2 ** (tries - 1), 10.0)
        if tries >= self._patience.attempts or wait > self._patience.longest_wait:
            more = f"; it asks to wait {wait:.0f} s" if error.after is not None else ""
            if error.stalled and not self._patience.mirror:
                more = (
                    f"; nothing moved for {self._patience.progress:g} s in all: if this registry needs longer, "
                    "set images.pull_progress_timeout in sampan's configuration"
                )
            raise RegistryUnavailable(f"{error} (attempt {tries}){more}") from None
        await self._patience.pause(wait * random.uniform(0.8, 1.2))  # jitter: not all nodes at once

    # --- one answer ---------------------------------------------------------------------------------------

    async def _authorized(self, method: str, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """One attempt, with one more if the host wants to know who we are, and one if it does not want us."""
        shown = self._login.authorization
        response = await self._redirected(method, url, headers, shown)
        for turn in range(2):
            # Only the host itself may ask who we are: not whoever it redirects to.
            if response.status not in (401, 403) or not self._own(response.url):
                break
            asked = distribution.challenges(response.headers.getall("WWW-Authenticate", []))
            # reads the body, so that the connection serves the next request
            codes = await self._error_codes(response)
            if not await self._login.answer(asked, shown, renew=turn == 0 and response.status == 401):
                raise refusal(response.status, distribution.redact(url), codes, self._login.hint)
            shown = self._login.authorization
            response = await self._redirected(method, url, headers, shown)
        if response.status not in (200, 206):
            raise await self.failure(response)
        return response

    async def failure(self, response: aiohttp.ClientResponse) -> Exception:
        """The error that an answer stands for: Broken if the host may answer better later."""
        codes = await self._error_codes(response)
        where = distribution.redact(str(response.url))
        if passes(response.status):
            after = distribution.retry_after(response.headers.get("Retry-After", ""), self._patience.now())
            return Broken(f"{where} answered {response.status}{f' ({codes})' if codes else ''}", after)
        return refusal(response.status, where, codes, self._login.hint)

    async def _redirected(
        self, method: str, url: str, headers: Mapping[str, str], authorization: str
    ) -> aiohttp.ClientResponse:
        target = URL(url, encoded=True)
        for _ in range(REDIRECTS + 1):
            own = self._own(target)
            # What proves who we are is for the host's own origin only.
            shown = {"Authorization": authorization} if own and authorization else {}
            response = await self.send(method, target, {**shown, **headers})
            if response.status == 405 and method == "HEAD":  # some registries have no HEAD
                response.close()
                response = await self.send("GET", target, {**shown, **headers})
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.close()
            target = self._next(target, location)
        raise Invalid(f"{distribution.redact(url)} redirects more than {REDIRECTS} times")

    def _next(self, source: URL, location: str) -> URL:
        where = distribution.redact(str(source))
        if not _LOCATION.fullmatch(location):
            raise Invalid(f"{where} redirects to a malformed address")
        try:
            target = source.join(URL(location, encoded=True))
            plain = target.with_user(None).with_fragment(None)
        except ValueError:
            raise Invalid(f"{where} redirects to a malformed address") from None
        if plain.scheme not in ("http", "https") or not plain.host:
            raise Invalid(f"{where} redirects to a {plain.scheme[:20]!r} address")
        if source.scheme == "https" and plain.scheme != "https":
            raise Invalid(f"{where} redirects from https to plain http, which is not followed")
        return plain

    async def send(
        self, method: str, url: URL, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        """One request, no redirect followed. What the host was configured to be sent goes to its own origin only,
        and less than `headers`. Raises Broken, RegistryUnavailable, Invalid."""
        own = self._own(url)
        sent = CIMultiDict(self.host.headers if own else ())
        sent.update(headers)
        context = await self._context(own) if url.scheme == "https" else True
        try:
            self._resolver.check_literal(url.host or "")
            async with asyncio.timeout(self._patience.attempt):
                return await self._opened().request(
                    method,
                    url,
                    headers=sent,
                    data=form,
                    allow_redirects=False,
                    ssl=context,
                    proxy=proxies.of(url),
                )
        except (aiohttp.ClientError, AddressRefused, OSError, ValueError) as error:
            raise explain(error, url, self._patience.attempt) from None

    def _own(self, url: URL) -> bool:
        return _origin(url) == self._origin

    async def _context(self, own: bool) -> ssl.SSLContext:
        """What is trusted and shown at the host is for its own origin only. Made once: a connection is used again only
        with the context that it was made with."""
        if not own:
            return await tls(Host("https", ""))
        if self._tls is None:
            self._tls = await tls(self.host)
        return self._tls

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=self._resolver, limit=0),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self.host.dial_timeout, sock_read=self._patience.attempt
                ),
                headers={"User-Agent": "sampan", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=READ_BUFFER,
            )
        return self._session

    # --- bodies -------------------------------------------------------------------------------------------

    async def read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """The body, if it is within `limit`; the answer is done with afterwards."""
        data = bytearray()
        try:
            async with asyncio.timeout(self._patience.attempt):
                while piece := await response.content.readany():
                    data += piece
                    if len(data) > limit:
                        where = distribution.redact(str(response.url))
                        raise Invalid(f"{where} sends more than the {limit} bytes allowed")
        except (aiohttp.ClientError, OSError) as error:
            raise explain(error, response.url, self._patience.attempt) from None
        finally:
            _done(response)
        return bytes(data)

    async def _error_codes(self, response: aiohttp.ClientResponse) -> str:
        try:
            return distribution.error_codes(await self.read(response, ERROR_BODY))
        except (Invalid, Broken, RegistryUnavailable):
            return ""

    async def _part(self, url: str, span: Span) -> AsyncGenerator[bytes, None]:
        """What one connection brings of a blob."""
        response = await self._authorized("GET", url, span.headers)
        where = distribution.redact(url)
        try:
            if span.exact and response.status != 206:
                raise NotImplementedError(f"{where} knows no ranges")
            skip = _to_skip(response, span.start, where)
            left = span.stop - span.start
            async with aclosing(self._pieces(response)) as pieces:
                async for piece in pieces:
                    data = piece[skip:] if skip else piece
                    skip = max(0, skip - len(piece))
                    if len(data) > left and span.stop == span.size:
                        raise Invalid(f"{where} is longer than the {span.size} bytes its descriptor says")
                    left -= len(data)
                    if data:
                        yield data[:left] if left < 0 else data
                    if left <= 0 and span.stop < span.size:
                        return
            if left:
                raise Broken(f"{where} ended {left} bytes early")
        finally:
            _done(response)

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Only waiting for the network counts against its rate, not what is done with
        it."""
        clock = asyncio.get_running_loop().time
        window = self._patience.attempt
        waited, received = 0.0, 0
        try:
            while True:
                begin = clock()
                piece = await response.content.readany()
                if not piece:
                    return
                waited += clock() - begin
                received += len(piece)
                if window and waited > window:
                    if received < window * MINIMUM_RATE:
                        where = distribution.redact(str(response.url))
                        slow = f"{where} brought only {received} bytes in {waited:.0f} s"
                        raise Broken(slow, stalled=True)
                    waited, received = 0.0, 0
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            raise explain(error, response.url, window) from None


def _to_skip(response: aiohttp.ClientResponse, offset: int, where: str) -> int:
    """How many bytes of the body we have already: all of them where the host ignored our Range."""
    if response.status != 206:
        return offset
    start = distribution.range_start(response.headers.get("Content-Range", ""))
    if start is None or start > offset:
        raise Invalid(f"{where} answered with another range than was asked for")
    return offset - start


def _done(response: aiohttp.ClientResponse) -> None:
    """Give the connection back if the whole body was read, else drop it."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


def _origin(url: URL) -> tuple[str, str, int | None]:
    """Scheme, host and port, the host in one spelling: names may have capitals, IPv6 addresses zeros."""
    host = (url.host or "").lower()
    with suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return url.scheme, host, url.port
