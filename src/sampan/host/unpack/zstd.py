"""zstd for the unpacking child; apart, because loading the library costs more than most layers do.
Source: RFC 8878.
"""

import os
from collections.abc import Iterator
from itertools import chain
from typing import IO, cast

from zstandard import ZstdDecompressor, ZstdError, compress

from sampan.host.unpack.stream import READ
from sampan.model.errors import Invalid

WINDOW = 1 << 27  # bytes; `zstd --ultra -22` needs as much, more (`--long=31`) is refused


class _Readable:
    """Chunks, and then a frame of ours, as the file that zstandard wants to read from."""

    def __init__(self, chunks: Iterator[bytes], last: bytes) -> None:
        self._chunks = chain(chunks, (last,))
        self._chunk = b""

    def read(self, size: int) -> bytes:
        if not self._chunk:
            self._chunk = next(filter(None, self._chunks), b"")
        found, self._chunk = self._chunk[:size], self._chunk[size:]
        return found


def unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The content of all frames of a zstd stream, skippable ones passed over.

    The library ends without a word where a frame is cut off. So a frame that nobody could foresee is put
    behind the stream: its content must come out last.
    """
    end = os.urandom(16)
    source = cast(IO[bytes], _Readable(chunks, compress(end)))  # it only ever reads
    reader = ZstdDecompressor(max_window_size=WINDOW).stream_reader(
        source, read_size=READ, read_across_frames=True
    )
    held = b""
    try:
        while piece := reader.read(READ):
            if len(piece) < len(end):
                held += piece
            else:
                yield held
                held = piece
    except ZstdError as error:
        raise Invalid(
            f"the zstd stream is damaged or needs a window above {WINDOW} bytes: {error}"
        ) from error
    if not held.endswith(end):
        raise Invalid("the zstd stream ends too early")
    yield held[: -len(end)]
