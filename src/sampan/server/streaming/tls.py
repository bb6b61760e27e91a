"""The certificate that sessions are served with, read anew when its files change."""

import logging
import ssl
from pathlib import Path

from sampan.config import Streaming
from sampan.host.threads import in_thread
from sampan.model.errors import Unavailable

log = logging.getLogger("sampan.streaming")
Stamp = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """TLS 1.2 and later; with `tls_client_ca` none but clients with a certificate from there are let in."""

    def __init__(self, streaming: Streaming) -> None:
        self._cert = streaming.tls_cert
        self._key = streaming.tls_key
        self._client_ca = streaming.tls_client_ca
        self._stamp: Stamp | None = None
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext | None:
        """For the next connection; None without a certificate. While new files cannot be used the last good ones are,
        and the log says why. Raises Unavailable where there never were any."""
        return await in_thread(self._current) if self._cert else None

    def _current(self) -> ssl.SSLContext:
        stamp = self._stamped()
        if self._context is None or stamp != self._stamp:
            self._stamp = stamp  # those that are no good are complained of once
            try:
                self._context = self._load()
            except (OSError, ValueError) as error:
                if self._context is None:
                    raise Unavailable(self._words(error)) from error
                log.error("%s; sessions go on with what was read before", self._words(error))
        return self._context

    def _stamped(self) -> Stamp:
        return tuple(_stamp(Path(path)) for path in (self._cert, self._key, self._client_ca) if path)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._cert, self._key, password=_none)
        if self._client_ca:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _words(self, error: Exception) -> str:
        files = ", ".join(filter(None, (self._cert, self._key, self._client_ca)))
        return f"the TLS files of streaming ({files}) cannot be used: {error}"


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino, found.st_size)


def _none() -> str:
    raise ValueError("the key is encrypted; there is nobody to ask for its password")
