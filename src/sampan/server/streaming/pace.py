"""How much of what a client says is looked at in one go: a flood of tiny frames must not keep the others waiting.

A chunk of 256 KiB is one frame of an honest client, and looked at in no time; of another it is 40,000 frames, and takes
longer than anybody should wait. What matters is therefore measured and not counted: the time that we have spent on it,
on this thread, whatever else the machine does. Who costs us more than `CHEAP` waits after each portion; all of those
together get half of our time at most, however many they are. Who costs more than `DEAR` has smaller portions from then
on, for good: with small ones even a stream of large frames goes at hundreds of MiB a second.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import ClassVar

from sampan.server.streaming.connection import Data

CHEAP, DEAR = 0.001, 0.004  # seconds of our time for a portion
LEAST, FIRST, MOST = 4 << 10, 16 << 10, 256 << 10  # bytes of one


class Pace:
    """One connection's. `with` it each portion is looked at, without awaiting anything; `rest` comes after it."""

    _free_at: ClassVar[float] = 0.0  # when all that was dear has been paid for

    def __init__(self) -> None:
        self._size, self._most = FIRST, MOST
        self._begin = self._took = 0.0

    def portions(self, data: bytes) -> Iterator[Data]:
        """All of `data`, which may be empty, in order."""
        if len(data) <= self._size:
            yield data
            return
        view, at = memoryview(data), 0
        while at < len(view):
            portion = view[at : at + self._size]
            at += len(portion)
            yield portion

    def __enter__(self) -> None:
        self._begin = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self._took = time.thread_time() - self._begin
        if self._took > DEAR:
            self._size = self._most = max(self._size // 4, LEAST)
        elif self._took < CHEAP:
            self._size = min(self._size * 2, self._most)

    async def rest(self) -> None:
        """Let others have their turn, for as long as the portion has taken and those of others like it."""
        if self._took < CHEAP:
            return
        now = asyncio.get_running_loop().time()
        begin = max(now, Pace._free_at)
        Pace._free_at = begin + 2 * self._took
        await asyncio.sleep(begin + self._took - now)
