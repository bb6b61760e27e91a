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
CONNECTIONS = 4  # for one blob
SPREAD_AFTER = 1.0  # seconds of a download after which it is judged
KEEP_AFTER = 3.0  # seconds of a pull after which what comes is kept
PATIENCE = 10.0  # seconds that another connection may bring nothing while it is waited for
log = logging.getLogger("sampan")

Fetch = Callable[[int, int, bool], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a download may do beside one connection. `more` are the connections left, over all pulls."""

    more: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONNECTIONS - 1))
    spread_after: float = SPREAD_AFTER
    keep_after: float = KEEP_AFTER
    patience: float = PATIENCE
    segment: int = SEGMENT


class Download:
    """One blob of `parts.size` bytes. `fetch(start, stop, exact)` brings these bytes of it from a registry, taking up
    what breaks; with `exact` it raises NotImplementedError rather than reading past what was not asked for. `since` is
    when the pull began, by the loop's clock."""

    def __init__(self, fetch: Fetch, parts: Parts, effort: Effort, since: float | None = None) -> None:
        self._fetch = fetch
        self._parts = parts
        self._effort = effort
        self._may_keep = parts.writable
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._kept_from = (self._began if since is None else since) + effort.keep_after
        self._offset = 0  # before it, all is read
        self._waited = 0.0  # seconds in which nothing came, since we began
        self._fetching = False  # by a connection of our own
        self._part: Part | None = None  # where we keep what that brings
        self._helpers = Tasks()
        self._started = 0  # so many of them

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The blob from its first byte to its last."""
        try:
            while self._offset < self._parts.size:
                part = self._parts.at(self._offset)
                source = self._own() if part is None else self._others(part)
                async with aclosing(source) as pieces:
                    async for data in pieces:
                        yield data
        finally:
            await finish(self._end())

    async def _others(self, part: Part) -> AsyncGenerator[bytes, None]:
        """What somebody else has fetched, or is about to; nothing where it was given up."""
        asked = self._clock()
        data = await part.read(self._offset, self._effort.patience)
        self._waited += self._clock() - asked
        self._offset += len(data)
        if data:
            yield data
        self._spread()

    async def _own(self) -> AsyncGenerator[bytes, None]:
        """What we fetch ourselves, up to where somebody else has it."""
        self._fetching = True
        try:
            async with aclosing(self._fetch(self._offset, self._parts.free(self._offset), False)) as pieces:
                asked = self._clock()
                async for piece in pieces:
                    self._waited += self._clock() - asked
                    offset, stop = self._offset, self._parts.free(self._offset)  # nearer than it was, perhaps
                    data = piece[: stop - offset]
                    self._offset += len(data)
                    await self._keep(offset, data)
                    yield data
                    if self._offset == stop < self._parts.size:
                        return
                    self._spread()
                    asked = self._clock()
        finally:
            self._fetching = False
            self._stop_keeping()

    # --- on disk ----------------------------------------------------------------------------------------------

    async def _keep(self, offset: int, data: bytes) -> None:
        """Keep what comes, once the pull takes long."""
        if not self._may_keep or self._clock() < self._kept_from:
            return
        try:
            if self._part is None:
                self._part = self._parts.begin(offset)
            await self._part.append(data)
        except OSError as error:
            self._keep_no_more(error)

    def _keep_no_more(self, error: OSError) -> None:
        if self._may_keep:
            log.warning("a download is neither kept for a next try nor spread over connections: %s", error)
        self._may_keep = False
        self._stop_keeping()

    def _stop_keeping(self) -> None:
        if self._part is not None:
            self._parts.end(self._part)
            self._part = None

    # --- more connections -------------------------------------------------------------------------------------

    def _spread(self) -> None:
        """One more connection, now and then, while the network is what we wait for most of the time."""
        elapsed = self._clock() - self._began
        if (
            self._may_keep
            and self._started + self._fetching < CONNECTIONS
            and elapsed >= self._effort.spread_after * (self._started + 1)
            and self._waited > elapsed / 2
            and not self._effort.more.locked()
            and self._segment() is not None
        ):
            self._started += 1
            self._helpers.start("one more connection for a download", self._help())

    def _segment(self) -> tuple[int, int] | None:
        """The next bytes that nobody has or fetches, and not right before our own feet."""
        start, stop = self._parts.gap(self._offset + self._effort.segment)
        return (start, min(stop, start + self._effort.segment)) if start < stop else None

    async def _help(self) -> None:
        """Fetch segments ahead of the others, until none is left or something fails: then what is missing is
        fetched in its turn, and fails there with a reason."""
        async with self._effort.more:
            with suppress(SampanError):
                while self._may_keep and (segment := self._segment()) is not None:
                    await self._fetch_ahead(*segment)

    async def _fetch_ahead(self, start: int, stop: int) -> None:
        part = self._parts.begin(start, stop)
        try:
            async with aclosing(self._fetch(start, stop, True)) as pieces:
                async for piece in pieces:
                    if not await part.append(piece):
                        return  # it came too late
        except NotImplementedError:
            self._may_keep = False  # without ranges, what is kept is of no use either
        except OSError as error:
            self._keep_no_more(error)
        finally:
            self._parts.end(part)

    async def _end(self) -> None:
        await self._helpers.stop()
        self._stop_keeping()
