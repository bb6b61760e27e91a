"""One blob, in order, from as many connections as it is worth, and from what an earlier try left on disk.

A download begins as one plain request. Where the network turns out to be what it waits for, it is spread over more
connections (RFC 9110 14, ranges), and once it takes long, what comes is kept on disk (`host.storage.spool`), so that
a daemon that starts anew goes on where the last one ended. A quick download pays for none of that. Bytes are not
checked here: whoever reads them knows the digest.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from sampan.host.storage.spool import Part, Parts
from sampan.model.errors import SampanError
from sampan.tasks import Tasks, finish

SEGMENT = 8 << 20  # bytes that one more connection fetches at a time
CONNECTIONS = 3  # more than one, for one blob
SPREAD_AFTER = 1.0  # seconds of a download after which it is judged
KEEP_AFTER = 3.0  # seconds after which what comes is kept
log = logging.getLogger("sampan")

Fetch = Callable[[int, int, bool], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a download may do beside one connection. `more` are the connections left, over all pulls."""

    more: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONNECTIONS))
    spread_after: float = SPREAD_AFTER
    keep_after: float = KEEP_AFTER
    segment: int = SEGMENT


class Download:
    """One blob of `parts.size` bytes. `fetch(start, stop, exact)` brings these bytes of it from a registry, taking up
    what breaks; with `exact` it raises NotImplementedError rather than reading past what was not asked for."""

    def __init__(self, fetch: Fetch, parts: Parts, effort: Effort, *, may_keep: bool = True) -> None:
        self._fetch = fetch
        self._parts = parts
        self._effort = effort
        self._may_keep = may_keep
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._offset = 0
        self._waited = 0.0  # seconds in which nothing came, since we began
        self._part: Part | None = None  # where we keep what we fetch ourselves
        self._ahead = 0  # before it, every segment has somebody who fetches it
        self._helpers = Tasks()
        self._started = 0  # so many of them

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The blob from its first byte to its last."""
        try:
            while self._offset < self._parts.size:
                part = self._parts.at(self._offset)
                if part is not None:
                    data = await part.read(self._offset)
                    if data:
                        self._offset += len(data)
                        yield data
                    continue  # where there is none, whoever wrote the part has given up
                async with aclosing(self._own()) as pieces:
                    async for data in pieces:
                        yield data
        finally:
            await finish(self._end())

    async def _own(self) -> AsyncGenerator[bytes, None]:
        """What we fetch ourselves, up to where somebody else has it."""
        try:
            async with aclosing(self._fetch(self._offset, self._parts.free(self._offset), False)) as pieces:
                asked = self._clock()
                async for piece in pieces:
                    self._waited += self._clock() - asked
                    stop = self._parts.free(
                        self._offset
                    )  # nearer than it was, where helpers have begun since
                    data = piece[: stop - self._offset]
                    await self._keep(data)
                    self._offset += len(data)
                    yield data
                    if self._offset == stop:
                        return
                    self._spread()
                    asked = self._clock()
        finally:
            self._stop_keeping()

    # --- on disk ----------------------------------------------------------------------------------------------

    async def _keep(self, data: bytes) -> None:
        """Keep what comes, once this download takes long."""
        if not self._may_keep or self._elapsed < self._effort.keep_after:
            return
        try:
            if self._part is None:
                self._part = await self._parts.begin(self._offset)
            await self._part.append(data)
        except OSError as error:
            self._keep_no_more(error)

    def _keep_no_more(self, error: OSError) -> None:
        log.warning("a download is no longer kept for a next try, nor spread over connections: %s", error)
        self._may_keep = False
        self._stop_keeping()

    def _stop_keeping(self) -> None:
        if self._part is not None:
            self._part.stop()
            self._part = None

    # --- more connections -------------------------------------------------------------------------------------

    @property
    def _elapsed(self) -> float:
        return self._clock() - self._began

    def _spread(self) -> None:
        """One more connection, now and then, while the network is what we wait for most of the time."""
        effort, count = self._effort, self._started
        left = self._parts.size - max(self._ahead, self._offset + effort.segment)
        waiting = self._waited > self._elapsed / 2
        due = self._elapsed >= effort.spread_after * (count + 1)
        if (
            self._may_keep
            and waiting
            and due
            and left > 0
            and count < CONNECTIONS
            and not effort.more.locked()
        ):
            self._started += 1
            self._helpers.start("one more connection for a download", self._help())

    async def _help(self) -> None:
        """Fetch segments ahead of the others, until none is left or something fails: then what is missing is
        fetched in its turn, and fails there with a reason."""
        async with self._effort.more:
            with suppress(SampanError):
                while self._may_keep and (claimed := self._claim()) is not None:
                    await self._segment(*claimed)

    def _claim(self) -> tuple[int, int] | None:
        """The next segment that nobody has, and not right before our own feet."""
        start = max(self._ahead, self._offset + self._effort.segment)
        while (part := self._parts.at(start)) is not None and not part.growing:
            start = part.end
        stop = min(start + self._effort.segment, self._parts.free(start))
        self._ahead = max(stop, start)
        return (start, stop) if start < stop else None

    async def _segment(self, start: int, stop: int) -> None:
        part: Part | None = None
        try:
            part = await self._parts.begin(start)
            async with aclosing(self._fetch(start, stop, True)) as pieces:
                async for piece in pieces:
                    await part.append(piece)
        except NotImplementedError:
            self._may_keep = False  # without ranges, what is kept is of no use either
        except OSError as error:
            self._keep_no_more(error)
        finally:
            if part is not None:
                part.stop()

    async def _end(self) -> None:
        await self._helpers.stop()
        self._stop_keeping()
