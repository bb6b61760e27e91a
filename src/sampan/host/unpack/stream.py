"""The unpacking child's pipeline: read and hash what comes in, inflate it, hash what comes out, each in a
thread of its own.

Reading, hashing and inflating large buffers release the GIL, so these overlap with each other and with the
writing. Buffers in flight are bounded. Part of `host.unpack.child`'s child: imports little, and all of it before
confinement.
"""

import _thread
import os
from _queue import SimpleQueue
from collections.abc import Callable, Iterator
from hashlib import sha256
from time import thread_time

from sampan.host.unpack.write import write_all

READ = 1 << 20  # bytes; the largest read and the largest inflated piece: smaller ones cost more switching
DEPTH = 4  # buffers in flight between two stages
Inflate = Callable[[Iterator[bytes]], Iterator[bytes]]


class Channel:
    """A bounded queue of buffers from one thread to another. An exception that is sent is raised at the
    other end.
    """

    def __init__(self, depth: int = DEPTH) -> None:
        self._items: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(depth):
            self._room.put(None)
        self.cpu = 0.0  # seconds that the thread took which fed it, once it is through

    def feed(self, pieces: Iterator[bytes]) -> None:
        """Send all of `pieces`, then the end or whatever they raised."""
        try:
            for piece in pieces:
                self._room.get()
                self._items.put(piece)
            self.cpu = thread_time()
            self._items.put(None)
        except BaseException as error:  # noqa: BLE001 - carried to the other thread
            self._items.put(error)

    def __iter__(self) -> Iterator[bytes]:
        while (item := self._items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            self._room.put(None)


class Hashed:
    """Passes chunks on and keeps their count and SHA-256."""

    def __init__(self) -> None:
        self._hash = sha256()
        self.size = 0

    def over(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._hash.update(chunk)
            self.size += len(chunk)
            yield chunk

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


def read(fd: int, first: bytes = b"", copy: int = -1) -> Iterator[bytes]:
    """What comes from `fd`, after `first`, which was read before. All of it is also written to `copy`."""
    chunk = first or os.read(fd, READ)
    while chunk:
        if copy >= 0:
            write_all(copy, memoryview(chunk))
        yield chunk
        chunk = os.read(fd, READ)


class Pipeline:
    """The threads. `plain` are the uncompressed bytes; the hashes of both sides are whole once those have ended."""

    def __init__(self, chunks: Iterator[bytes], inflate: Inflate) -> None:
        self.blob, self.content = Hashed(), Hashed()
        self._read, self._inflated, self._hashed = Channel(), Channel(), Channel()
        for channel, pieces in (
            (self._read, self.blob.over(chunks)),
            (self._inflated, inflate(iter(self._read))),
            (self._hashed, self.content.over(iter(self._inflated))),
        ):
            _thread.start_new_thread(channel.feed, (pieces,))

    @property
    def plain(self) -> Iterator[bytes]:
        return iter(self._hashed)

    def spent(self) -> str:
        """Where the CPU time went, in ms, when all is done; called by the thread that wrote."""
        read, inflate, digest, write = (
            round(seconds * 1000)
            for seconds in (self._read.cpu, self._inflated.cpu, self._hashed.cpu, thread_time())
        )
        return f"receive {read}, inflate {inflate}, diff-id {digest}, start and write {write}"
