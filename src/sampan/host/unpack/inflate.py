"""Decompression of layers for the unpacking child: gzip by isal, zstd by zstandard, in pieces of bounded
size.

Both libraries are loaded by `inflater`, before the child confines itself. Sources: RFC 1952, RFC 8878.
"""

from collections.abc import Iterator

from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor, IsalError

from sampan.host.unpack.stream import READ, Inflate
from sampan.model.errors import Invalid

MAGIC = 4  # bytes that tell how a stream is compressed
_SMALL_STEP = 1 << 12  # bytes fed at first to a gzip member that follows another
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16)))


def sniff(first: bytes, stated: str) -> str:
    """How a blob is compressed, by its first bytes. Media types lie; the other runtimes look as well."""
    if first.startswith(_GZIP_MAGIC):
        return "gzip"
    if first.startswith(_ZSTD_MAGICS):
        return "zstd"
    if stated != "none" and not first:
        raise Invalid(f"the layer is empty where a {stated} stream was promised")
    return "none"


def inflater(compression: str) -> Inflate:
    """The function that turns a compressed stream into its content; its library is loaded when this
    returns.
    """
    if compression == "gzip":
        return gunzip
    if compression == "zstd":
        from sampan.host.unpack.zstd import unzstd

        return unzstd
    return lambda chunks: chunks


def gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The content of all members of a gzip stream; zeros after the last are padding."""
    stream = _Gunzip()
    try:
        for chunk in chunks:
            yield from stream.feed(memoryview(chunk))
    except IsalError as error:  # type: ignore[misc]  # a class made in C, which its stub hides
        raise Invalid(f"the gzip stream is damaged: {error}") from error
    if stream.member is not None:
        raise Invalid("the gzip stream ends too early")


class _Gunzip:
    def __init__(self) -> None:
        self.member: IgzipDecompressor | None = None  # the one we are in
        self._step = READ
        self._padding = False

    def feed(self, view: memoryview) -> Iterator[bytes]:
        at = 0
        while at < len(view):
            if self.member is None:
                self._begin(view[at])
            if self._padding or self.member is None:
                if any(view[at:]):
                    raise Invalid("there is something else behind the gzip stream")
                return
            fed = view[at : at + self._step]
            at += len(fed)
            yield from _drained(self.member, fed)
            if self.member.eof:
                # What was fed beyond the end is copied for us each time, so the steps are small where members
                # are: a million empty members must not cost a million copies of a whole chunk.
                at -= len(self.member.unused_data)
                self.member, self._step = None, _SMALL_STEP
            else:
                self._step = min(READ, self._step * 2)

    def _begin(self, byte: int) -> None:
        if byte:
            self.member = IgzipDecompressor(flag=DECOMP_GZIP)
        else:
            self._padding = True


def _drained(member: IgzipDecompressor, fed: memoryview) -> Iterator[bytes]:
    """All that `fed` inflates to, never more than READ at once: a bomb's output waits in its compressed
    form.
    """
    if piece := member.decompress(fed, READ):
        yield piece
    while not member.needs_input and not member.eof:
        yield member.decompress(b"", READ)
