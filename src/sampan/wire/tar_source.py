"""A byte stream in chunks, read as tar needs it: exact blocks, and long data without a copy."""

from collections.abc import Iterator

from sampan.model.errors import Invalid

BLOCK = 512


class Source:
    """Chunks of a byte stream, read as exact blocks and as pieces without a copy."""

    __slots__ = ("_at", "_chunk", "_chunks")

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0

    def _more(self) -> bool:
        """Load the next chunk that has bytes; False at the end of the stream."""
        for chunk in self._chunks:
            if chunk:
                self._chunk, self._at = chunk, 0
                return True
        self._chunk, self._at = b"", 0
        return False

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes. Invalid if the stream ends before."""
        end = self._at + size
        found = self._chunk[self._at : end]
        if len(found) == size:
            self._at = end
            return found
        return b"".join([bytes(piece) for piece in self.pieces(size)])

    def header(self) -> bytes:
        """The next block, or nothing at the very end of the stream."""
        if self._at >= len(self._chunk) and not self._more():
            return b""
        return self.take(BLOCK)

    def pieces(self, size: int) -> Iterator[memoryview]:
        """`size` bytes as views that are good until the next one is asked for."""
        while size:
            if self._at >= len(self._chunk) and not self._more():
                raise Invalid(f"the archive ends in the middle of an entry: {size} more bytes were announced")
            piece = memoryview(self._chunk)[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def view(self, size: int) -> memoryview | None:
        """`size` bytes as one view, if the chunk at hand has them; None, and nothing is read, if not."""
        end = self._at + size
        if end > len(self._chunk):
            return None
        found = memoryview(self._chunk)[self._at : end]
        self._at = end
        return found

    def skip(self, size: int) -> None:
        """Pass over `size` bytes."""
        end = self._at + size
        if end <= len(self._chunk):
            self._at = end
            return
        for _ in self.pieces(size):
            pass

    def rest(self) -> Iterator[memoryview]:
        """All that is left, to the end of the stream."""
        while self._at < len(self._chunk) or self._more():
            piece = memoryview(self._chunk)[self._at :]
            self._at = len(self._chunk)
            yield piece
