"""zstd for the unpacking child; apart, because loading the library costs more than most layers do.
Source: RFC 8878.
"""

from collections.abc import Iterator

from zstandard import ZstdDecompressor, ZstdError

from sampan.host.unpack_stream import READ
from sampan.model.errors import Invalid

WINDOW = 1 << 27  # bytes; `zstd --ultra -22` needs as much, more (`--long=31`) is refused


class _Readable:
    """Chunks as the file that zstandard wants to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""

    def read(self, size: int) -> bytes:
        if not self._chunk:
            self._chunk = next(self._chunks, b"")
        found, self._chunk = self._chunk[:size], self._chunk[size:]
        return found


def unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The content of all frames of a zstd stream, skippable ones passed over."""
    reader = ZstdDecompressor(max_window_size=WINDOW).stream_reader(
        _Readable(chunks), read_size=READ, read_across_frames=True
    )
    try:
        while piece := reader.read(READ):
            yield piece
    except ZstdError as error:
        raise Invalid(
            f"the zstd stream is damaged or needs a window above {WINDOW} bytes: {error}"
        ) from error
