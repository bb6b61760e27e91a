"""Bringing the layers of an image into the store: side by side, each once, verified before it is visible,
held while in use.

Where the bytes come from, a registry or an archive, is the caller's business; so is what an image is.
"""

import asyncio
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sampan.model.errors import Exhausted, Invalid, RegistryUnavailable
from sampan.runtime.image_ports import Layers, LayerSource, Staged
from sampan.tasks import KeyedLock, Tasks, finish, step

# The kubelet waits at most five minutes between attempts to pull an image (MaxContainerBackOff).
RETRY_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one layer is, in bytes of its compressed form (`total` -1: unknown). `ready`: unpacked and in
    place."""

    layer: str
    done: int
    total: int
    ready: bool = False


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One layer of an image: its name in the store, what it must turn out to be ("": whatever its source gives), and
    where it comes from."""

    chain_id: str
    diff_id: str
    source: LayerSource

    @property
    def name(self) -> str:
        """What people know the layer by."""
        return self.source.digest or self.diff_id or self.chain_id


class Intake:
    """Takes layers into the store, and lets go of those that nobody uses."""

    def __init__(
        self, layers: Layers, parallel: int, used: Callable[[], Collection[str]], tasks: Tasks
    ) -> None:
        """`parallel` downloads at once, over all pulls; `used` says which layers images need now."""
        self._layers = layers
        self._tasks = tasks
        self._slots = asyncio.Semaphore(parallel)
        self._used = used
        self._held: Counter[str] = Counter()
        self._unavailable: dict[
            tuple[str, ...], asyncio.Event
        ] = {}  # what is held for a retry, until it succeeds
        self._locks = KeyedLock()

    @asynccontextmanager
    async def hold(self, chain: Sequence[str]) -> AsyncIterator[None]:
        """Keep these layers, those that are there and those that come, until their image is recorded or given
        up.

        After a failure of the network they are kept a while longer, for the retry that is sure to come, but no longer
        than until that succeeds.
        """
        self._held.update(chain)
        try:
            yield
        except RegistryUnavailable:
            retried = self._unavailable.setdefault(tuple(chain), asyncio.Event())
            self._tasks.start("let go of layers", self._let_go_later(chain, retried))
            raise
        except BaseException:
            await finish(self._let_go(chain))
            raise
        waiting = self._unavailable.pop(tuple(chain), None)
        if waiting is not None:
            waiting.set()
        await finish(self._let_go(chain))

    async def present(self, chain: Sequence[str]) -> bool:
        """Whether all of these layers are there, none of them about to be removed. The caller holds them."""
        for chain_id in chain:
            async with self._locks(chain_id):
                if not self._layers.has(chain_id):
                    return False
        return True

    async def _let_go(self, chain: Sequence[str]) -> None:
        self._held.subtract(chain)
        await self.release(chain)

    async def _let_go_later(self, chain: Sequence[str], retried: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                await retried.wait()
        if self._unavailable.get(tuple(chain)) is retried:
            del self._unavailable[tuple(chain)]
        await self._let_go(chain)

    async def release(self, chain: Sequence[str]) -> None:
        """Remove those of these layers that no image and no pull needs, from the highest down."""
        for chain_id in reversed(chain):
            if self._held[chain_id]:
                continue  # another pull has it, maybe locked for a long download, and lets go of it in its turn
            async with self._locks(chain_id):
                if self._layers.has(chain_id) and not self._held[chain_id] and chain_id not in self._used():
                    await step("image.layer.remove", chain_id)
                    await self._layers.remove(chain_id)
            if not self._held[chain_id]:
                del self._held[chain_id]

    @asynccontextmanager
    async def settling(self, wanted: Sequence[Wanted]) -> AsyncIterator[None]:
        """Let go of what was kept of downloads when their image is recorded (before, a crash would take its layers), or
        proved to be of no use. After another failure, or the end of the daemon, it waits for the next try."""
        try:
            yield
        except (Invalid, Exhausted):
            await finish(_settle(wanted))
            raise
        await finish(_settle(wanted))

    async def take(self, wanted: Sequence[Wanted], report: Report) -> None:
        """Bring all of them in, the lowest first in the list; `commit` makes them durable. The caller holds them. The
        first failure ends it."""
        published = [asyncio.Event() for _ in wanted]
        await _all([self._one(wanted, place, published, report) for place in range(len(wanted))])

    async def commit(self, chain: Sequence[str]) -> None:
        """Make these layers durable, once for all of them. The caller holds them."""
        await step("image.layers.commit")
        await self._layers.commit(chain)

    async def _one(
        self, wanted: Sequence[Wanted], place: int, published: Sequence[asyncio.Event], report: Report
    ) -> None:
        """One layer. Whoever has its lock brings it in; another pull that wants the same one finds it there.

        This cannot deadlock: with the lock held we wait only for layers below, and what is below a layer is
        the same in every image that has it.
        """
        layer = wanted[place]
        async with self._locks(layer.chain_id):
            if not self._layers.has(layer.chain_id):
                staged = await self._stage(layer, place == 0, report)
                try:
                    if place:
                        await published[place - 1].wait()
                    await step("image.layer.publish", layer.chain_id)
                    lowers = [each.chain_id for each in wanted[:place]]
                    await self._layers.publish(staged, layer.chain_id, lowers)
                except BaseException:
                    await finish(self._layers.discard(staged))
                    raise
        published[place].set()
        size = layer.source.size
        report(Progress(layer.name, max(size, 0), size, ready=True))

    async def _stage(self, layer: Wanted, base: bool, report: Report) -> Staged:
        """Fetch and unpack one layer, and hold it against what was promised."""
        staged: Staged | None = None
        try:
            async with self._slots, aclosing(_counted(layer, report)) as chunks:
                await step("image.layer.unpack", layer.chain_id)
                staged = await self._layers.unpack(chunks, layer.source.compression, base=base)
            _verify(staged, layer)
        except BaseException:
            if staged is not None:
                await finish(self._layers.discard(staged))
            raise
        return staged


async def _settle(wanted: Sequence[Wanted]) -> None:
    for layer in wanted:
        if layer.source.settle is not None:
            await layer.source.settle()


def _verify(staged: Staged, layer: Wanted) -> None:
    source = layer.source
    if source.size >= 0 and staged.blob_size != source.size:
        raise Invalid(f"layer {layer.name} has {staged.blob_size} bytes; its descriptor says {source.size}")
    if source.digest and staged.blob_digest != source.digest:
        raise Invalid(f"layer {layer.name} arrived as other content: its digest is {staged.blob_digest}")
    if layer.diff_id and staged.diff_id != layer.diff_id:
        raise Invalid(
            f"layer {layer.name} unpacks to other content than the image's config says: "
            f"{staged.diff_id}, not {layer.diff_id}"
        )


async def _counted(layer: Wanted, report: Report) -> AsyncGenerator[bytes, None]:
    done = 0
    async with aclosing(layer.source.open()) as chunks:
        async for chunk in chunks:
            done += len(chunk)
            report(Progress(layer.name, done, layer.source.size))
            yield chunk


async def _all(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run them side by side. The first failure cancels the others, waits for their end and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
