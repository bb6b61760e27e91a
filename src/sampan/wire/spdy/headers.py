"""SPDY header blocks: names and values, compressed as one zlib stream for each direction of a connection.

A block that cannot be read, or that was never decompressed, makes all later ones unreadable: so every block goes
through `Unpacker`, wanted or not, and any failure ends the session.
Source: draft-mbelshe-httpbis-spdy-00, section 2.6.10 (name/value header block) and its compression dictionary.
"""

import re
import zlib
from struct import Struct

from sampan.wire.spdy.frames import SpdyError
from sampan.wire.spdy.limits import Limits

Headers = tuple[tuple[str, str], ...]  # lower-case names; a name with several values comes several times

LENGTH = Struct(">I")
SEPARATOR = b"\0"  # between the values of one header

NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")  # RFC 9110 token without capitals; ":" as in ":path"
CONTROL_CHARACTER = re.compile(rb"[\x01-\x08\x0a-\x1f\x7f]")

# What a block is likely to say, in the protocol's order: first words in the form that they have in a block (length and
# text), then bare text.
WORDS = """
options head post put delete trace
accept accept-charset accept-encoding accept-language accept-ranges age allow authorization cache-control connection
content-base content-encoding content-language content-length content-location content-md5 content-range content-type
date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified
location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer
transfer-encoding upgrade user-agent vary via warning www-authenticate
method get status|200 OK|version HTTP/1.1 url public set-cookie keep-alive origin
"""
STATUSES = """
100 101 201 202 205 206 300 302 303 304 305 306 307 402 405 406 407 408 409 410 411 412 413 414 415 416 417 502 504 505
"""
PHRASES = (
    "203 Non-Authoritative Information",
    "204 No Content",
    "301 Moved Permanently",
    "400 Bad Request",
    "401 Unauthorized",
    "403 Forbidden",
    "404 Not Found",
    "500 Internal Server Error",
    "501 Not Implemented",
    "503 Service Unavailable",
)
DATES = "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
VALUES = (
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    words = [word for part in WORDS.split("|") for word in ([part] if part == "200 OK" else part.split())]
    text = "".join(STATUSES.split()) + "".join(PHRASES) + DATES + VALUES
    return b"".join(_prefixed(word.encode()) for word in words) + text.encode()


def _prefixed(text: bytes) -> bytes:
    return LENGTH.pack(len(text)) + text


DICTIONARY = _dictionary()


def value(headers: Headers, name: str) -> str:
    """The first value of this header, "" where there is none."""
    return next((text for key, text in headers if key == name), "")


class Packer:
    """Writes the blocks of one direction. Its window just holds the dictionary: blocks are small and alike."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._zlib = zlib.compressobj(6, zlib.DEFLATED, 11, 4, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)

    def pack(self, headers: Headers) -> bytes:
        """Raises ValueError for what no peer could read."""
        values: dict[bytes, list[bytes]] = {}
        for name, text in headers:
            values.setdefault(name.lower().encode(), []).append(text.encode())
        block = LENGTH.pack(len(values))
        for key, texts in values.items():
            whole = SEPARATOR.join(texts)
            if not NAME.fullmatch(key) or CONTROL_CHARACTER.search(whole):
                raise ValueError(f"no SPDY header can be {key!r}: {whole[:100]!r}")
            block += _prefixed(key) + _prefixed(whole)
        if len(block) > self._limits.block:
            raise ValueError(f"a SPDY header block of {len(block)} bytes, the limit is {self._limits.block}")
        return self._zlib.compress(block) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


class Unpacker:
    """Reads the blocks of one direction."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)

    def unpack(self, packed: bytes) -> Headers:
        """The headers of the next block. Raises SpdyError."""
        block = self._inflate(packed)
        limits = self._limits
        count, at = _length(block, 0)
        if count > limits.headers:
            raise SpdyError(f"a SPDY header block with {count} headers, the limit is {limits.headers}")
        found: list[tuple[str, str]] = []
        names: set[bytes] = set()
        for _ in range(count):
            name, at = _field(block, at, limits.field)
            text, at = _field(block, at, limits.field)
            if not NAME.fullmatch(name) or name in names:
                raise SpdyError(f"a SPDY header's name is no lower-case word or comes twice: {name[:100]!r}")
            names.add(name)
            found += _values(name, text)
            if len(found) > limits.headers:
                raise SpdyError(f"a SPDY header block with more than {limits.headers} values")
        if at != len(block):
            raise SpdyError(f"a SPDY header block with {len(block) - at} bytes after its last header")
        return tuple(found)

    def _inflate(self, packed: bytes) -> bytes:
        """Stops at the limit, whatever `packed` would become."""
        limit = self._limits.block
        try:
            block = self._zlib.decompress(packed, limit + 1)
        except zlib.error as error:
            raise SpdyError(f"a SPDY header block cannot be decompressed: {error}") from None
        if len(block) > limit:
            raise SpdyError(f"a SPDY header block of more than {limit} bytes")
        if self._zlib.eof:
            raise SpdyError("the SPDY headers' zlib stream ended before its connection")
        return block


def _values(name: bytes, text: bytes) -> list[tuple[str, str]]:
    if CONTROL_CHARACTER.search(text):
        raise SpdyError(f"the SPDY header {name[:100]!r} holds a control character")
    try:
        return [(name.decode(), part) for part in text.decode().split("\0")]
    except UnicodeDecodeError:
        raise SpdyError(f"the SPDY header {name[:100]!r} is no UTF-8") from None


def _length(block: bytes, at: int) -> tuple[int, int]:
    if len(block) - at < LENGTH.size:
        raise SpdyError("a SPDY header block ends within a length")
    (length,) = LENGTH.unpack_from(block, at)
    return length, at + LENGTH.size


def _field(block: bytes, at: int, limit: int) -> tuple[bytes, int]:
    length, at = _length(block, at)
    if length > limit:
        raise SpdyError(f"a SPDY header's name or value of {length} bytes, the limit is {limit}")
    if length > len(block) - at:
        raise SpdyError("a SPDY header block ends within a name or value")
    return block[at : at + length], at + length
