"""The connection that a session runs over: to the URL that the daemon gave, by TCP or TLS, never waiting.

TLS trusts the machine's authorities; SAMPAN_STREAM_CA names a PEM file of others instead, SAMPAN_STREAM_CERT and
SAMPAN_STREAM_KEY the certificate to show and its key.
"""

import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import SplitResult

from sampan.cli.invocation import Failed
from sampan.wire.upgrade import Asking, Kind, Refused

if TYPE_CHECKING:
    import ssl

Data = bytes | memoryview
CONNECT_SECONDS = 15.0
CHUNK = 128 << 10  # bytes asked of the kernel at once; with 256 KiB, masking takes twice the time
NO_ANSWER = "the daemon does not answer on the session's connection"
_TLS_ADVICE = (
    "SAMPAN_STREAM_CA names the authorities to trust, SAMPAN_STREAM_CERT and _KEY the certificate to show"
)
_BUFFERS = 64  # given to the kernel at once; IOV_MAX is 1024


class Link:
    """A connected socket. What is `pushed` waits here until the kernel takes it (`flush`): look at `waiting` before
    more is pushed."""

    advice = ""  # for a person whose connection breaks before the other side has said anything

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._queue: deque[Data] = deque()
        self.waiting = 0  # bytes
        self.broken = False  # the other side will not read, or has not ended it as it should

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def events(self) -> int:
        """What to poll for."""
        return select.POLLIN | (select.POLLOUT if self._queue else 0)

    def push(self, chunks: Iterable[Data]) -> None:
        """Queue them and send what goes at once."""
        for chunk in chunks:
            if len(chunk):
                self._queue.append(chunk)
                self.waiting += len(chunk)
        self.flush()

    def flush(self) -> None:
        """Send what goes. What nobody reads any more is dropped: the other side's last words may still be there."""
        try:
            while self._queue and not self.broken:
                self._sent(self._send())
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.broken = True
        if self.broken:
            self._queue.clear()
            self.waiting = 0

    def _sent(self, count: int) -> None:
        self.waiting -= count
        while count:
            first = self._queue.popleft()
            if len(first) > count:
                self._queue.appendleft(memoryview(first)[count:])
                return
            count -= len(first)

    def receive(self) -> bytes | None:
        """What has come; b"" at the end, however the other side has ended it; None if nothing is there."""
        try:
            return self._receive()
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            self.broken = True
            return b""

    def more(self) -> bool:
        """Whether more is here that no poll would tell of."""
        return False

    def end(self) -> None:
        """Tell the other side that nothing more comes."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.broken = True

    def _send(self) -> int:
        return self._socket.sendmsg(list(islice(self._queue, _BUFFERS)))

    def _receive(self) -> bytes:
        return self._socket.recv(CHUNK)


class TlsLink(Link):
    """The same through TLS. That a certificate is missing or wrong is told after the handshake (TLS 1.3)."""

    advice = f"; {_TLS_ADVICE}"

    def __init__(self, sock: "ssl.SSLSocket") -> None:
        super().__init__(sock)
        self._tls = sock

    def more(self) -> bool:
        return self._tls.pending() > 0

    def _send(self) -> int:
        import ssl

        try:
            return self._tls.send(self._queue[0])
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            raise BlockingIOError from None

    def _receive(self) -> bytes:
        import ssl

        try:
            return self._tls.recv(CHUNK)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None


def connect(url: SplitResult, environment: Mapping[str, str] = os.environ) -> Link:
    """The connection to where `url` points. Raises Failed."""
    where = f"{url.scheme}://{url.netloc}"
    if url.scheme not in ("http", "https") or not url.hostname:
        raise Failed(f"the daemon gave {where!r} for the session, which is no http or https URL")
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        sock = socket.create_connection((url.hostname, port), CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise Failed(f"cannot connect to {where} for the session: {error}") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if url.scheme == "http":
        return Link(sock)
    try:
        return TlsLink(_context(environment).wrap_socket(sock, server_hostname=url.hostname))
    except (
        OSError,
        ValueError,
    ) as error:  # SSLError is an OSError; ValueError: a hostname that TLS cannot take
        sock.close()
        raise Failed(f"no TLS session with {where}: {error}; {_TLS_ADVICE}") from None


def upgraded(url: SplitResult, kind: Kind, protocols: Sequence[str]) -> tuple[Link, bytes]:
    """The connection to `url`, turned into one of `kind`, and what has come on it already. Raises Failed."""
    link = connect(url)
    asking = Asking(kind, target(url), url.netloc, protocols)
    deadline = time.monotonic() + CONNECT_SECONDS
    try:
        link.push([asking.to_send()])
        while (left := deadline - time.monotonic()) > 0:
            waiting = select.poll()
            waiting.register(link, link.events())
            waiting.poll(left * 1000)
            link.flush()
            data = link.receive()
            answer = asking.receive(data) if data is not None else None
            if answer is not None:
                return link, answer.rest
        raise Failed(NO_ANSWER)
    except Refused as refusal:
        link.close()
        raise Failed(f"the daemon refuses the session: {refusal}") from None
    except BaseException:
        link.close()
        raise


def target(url: SplitResult) -> str:
    """What a request for it names."""
    return (url.path or "/") + (f"?{url.query}" if url.query else "")


def _context(environment: Mapping[str, str]) -> "ssl.SSLContext":
    import ssl

    context = ssl.create_default_context(cafile=environment.get("SAMPAN_STREAM_CA") or None)
    certificate = environment.get("SAMPAN_STREAM_CERT")
    if certificate:
        context.load_cert_chain(certificate, environment.get("SAMPAN_STREAM_KEY") or None)
    return context
