"""The image layers of this node: unpacked by a child process each, published once, shared by all images.

What lies where on disk is `host.storage.layer_store`'s; what an archive may do is the child's (`host.unpack.child`).
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sampan.config import Paths
from sampan.host.storage import kernel_directories, unpacking
from sampan.host.storage.disk_use import DiskUse
from sampan.host.storage.layer_store import EMPTY, TRASH, LayerStore, Record
from sampan.host.storage.unpacking import Unpacked
from sampan.host.threads import in_slow_thread, in_thread
from sampan.host.unpack.cursor import reserve
from sampan.host.unpack.layout import BLOB, ROOT, STAGING
from sampan.model import errors
from sampan.runtime.image_ports import Staged, Usage
from sampan.tasks import KeyedLock, Tasks, finish, step

log = logging.getLogger("sampan")
WRITE_OUT_SECONDS = 0.2
LIMIT = 500  # layers of one image; overlayfs takes no more


@dataclass(frozen=True, slots=True)
class _Published:
    name: str
    record: Record


class Layers:
    """`runtime.ports.Layers` on the real file system."""

    def __init__(self, paths: Paths, *, keep_blobs: bool = False) -> None:
        self._keep = "keep" if keep_blobs else "drop"
        self._store = LayerStore(paths.layers.resolve())
        self._use = DiskUse(self._store.root, STAGING, (TRASH, EMPTY, f"{EMPTY}/{ROOT}"), paths.blobs)
        self._published: dict[str, _Published] = {}
        self._staged: dict[str, Unpacked] = {}  # by key
        self._working: set[str] = set()  # keys of staging directories in use
        self._fresh: set[str] = set()  # published, and not durable so far
        self._committing = asyncio.Lock()
        self._unpacking = 0  # so many children
        self._tasks = Tasks()
        self._writer: asyncio.Task[None] | None = None
        self._names: set[str] = {EMPTY}
        self._locks = KeyedLock()

    async def open(self) -> None:
        """Read what is there. Half-unpacked and damaged layers are thrown away. Call once, before
        anything else.
        """
        found, kept = await in_slow_thread(self._store.open)
        self._published = {chain_id: _Published(*entry) for chain_id, entry in found.items()}
        self._names |= {published.name for published in self._published.values()} | kept
        await in_slow_thread(self._use.load, self._places(self._published))
        self._store.trash.empty()

    async def close(self) -> None:
        """Stop reclaiming; the next start goes on with it."""
        await self._tasks.stop()
        await self._use.close()
        await self._store.trash.close()

    # --- reading: from memory -------------------------------------------------------------------------------

    def has(self, chain_id: str) -> bool:
        """Whether the layer is published and whole."""
        return chain_id in self._published

    def size(self, chain_id: str) -> int:
        """Bytes of a published layer, unpacked."""
        return self._get(chain_id).record.size

    def directory(self, chain_id: str) -> Path:
        """Where a published layer's files are. Never to be changed."""
        return self._store.root / self._get(chain_id).name / ROOT

    def blob(self, chain_id: str) -> Path | None:
        """A published layer as it came, if it was kept."""
        published = self._get(chain_id)
        return self._store.root / published.name / BLOB if published.record.blob else None

    @property
    def root(self) -> Path:
        """What `lowers` is relative to."""
        return self._store.root

    def lowers(self, chain: Sequence[str]) -> list[str]:
        """The directories to mount for these chain ids (lowest first): below `root`, highest first, at
        least one.
        """
        return [f"{name}/{ROOT}" for name in self._below(chain)] or [f"{EMPTY}/{ROOT}"]

    async def check_root(self, chain: Sequence[str]) -> None:
        """Raise Invalid if no container can have these layers (lowest first) as its root."""
        await in_thread(kernel_directories.check, [self.root / lower for lower in self.lowers(chain)])

    async def fs_usage(self) -> Usage:
        """What the store takes of the disk, from memory; see `host.storage.disk_use`."""
        records = {chain_id: _estimate(published) for chain_id, published in self._published.items()}
        self._use.look(self._places(set(records) - self._fresh), self._working)
        return self._use.total(records, self._working, self._store.trash.usage)

    def _places(self, chain: Collection[str]) -> dict[str, str]:
        """The names of published layers by chain id."""
        return {chain_id: self._published[chain_id].name for chain_id in chain}

    async def damaged(self, chain: Sequence[str]) -> Sequence[str]:
        """Those of these layers that are not whole on disk any more. From now on they are not there; what is left
        of them stays, for a container may be using it."""
        return [chain_id for chain_id in await self._broken(chain) if await self._give_up(chain_id)]

    async def _broken(self, chain: Sequence[str]) -> Sequence[str]:
        durable = {id for id in chain if id in self._published} - self._fresh
        return await in_thread(self._store.broken, self._places(durable)) if durable else ()

    async def _give_up(self, chain_id: str) -> bool:
        """Whether it is damaged indeed, and not being removed or placed just now."""
        async with self._locks(chain_id):
            if not await self._broken([chain_id]):
                return False
            log.error("layer %s is damaged: %s", chain_id, self.directory(chain_id).parent)
            del self._published[chain_id]
            self._use.forget(chain_id)
            return True

    async def require_room(self, size: int, what: str) -> None:
        """Raise Exhausted if the disk has no room for `size` more bytes of layers."""
        await in_thread(self._store.require_room, size, what)

    def _get(self, chain_id: str) -> _Published:
        try:
            return self._published[chain_id]
        except KeyError:
            raise errors.NotFound(f"layer {chain_id} is not in the store; pull its image again") from None

    def _below(self, chain: Sequence[str]) -> list[str]:
        """Names of the layers that show, highest first: one that hides all below it is the last."""
        if len(chain) > LIMIT:
            raise errors.Invalid(f"the image has {len(chain)} layers; overlayfs takes {LIMIT}")
        names = []
        for chain_id in reversed(chain):
            published = self._get(chain_id)
            names.append(published.name)
            if published.record.opaque:
                break
        return names

    # --- unpacking ------------------------------------------------------------------------------------------

    async def unpack(self, chunks: AsyncIterator[bytes], compression: str, *, base: bool = False) -> Staged:
        """Unpack one layer from its blob; `compression` is what it should be: gzip, zstd or none.

        `base`: it is the lowest of its image, so nothing has to wait for the layers below. Raises Invalid
        (bad content), Exhausted (no room), Lost (the child died); then nothing is left.
        """
        key = self._store.new_key()
        self._working.add(key)
        try:
            await finish(in_thread(self._store.stage, key))
            await step("layer.unpack", key)
            self._staged[key] = unpacked = await self._stage(key, chunks, compression, base)
        except BaseException:
            await finish(self._drop(key))
            raise
        return Staged(
            key=key,
            blob_digest=unpacked.blob_digest,
            blob_size=unpacked.blob_size,
            diff_id=unpacked.diff_id,
            size=unpacked.size,
            inodes=unpacked.inodes,
        )

    async def _stage(self, key: str, chunks: AsyncIterator[bytes], compression: str, base: bool) -> Unpacked:
        arguments = [compression, "base" if base else "upper", self._keep, *map(str, await self._reserve())]
        with self._writing_out():
            return await unpacking.stage(self._store.staging(key), arguments, chunks)

    @contextmanager
    def _writing_out(self) -> Iterator[None]:
        """Keep the disk busy while layers are unpacked: else `commit` would wait for all of it at the end."""
        self._unpacking += 1
        if self._writer is None or self._writer.done():
            self._writer = self._tasks.start("write out layers", self._write_out())
        try:
            yield
        finally:
            self._unpacking -= 1

    async def _write_out(self) -> None:
        while self._unpacking:
            await asyncio.sleep(WRITE_OUT_SECONDS)
            await in_slow_thread(self._store.flush)

    async def _reserve(self) -> tuple[int, int]:
        """Bytes and inodes that must stay free."""
        return reserve(await in_thread(os.statvfs, self._store.root))

    async def discard(self, staged: Staged) -> None:
        """Drop what was staged. Idempotent."""
        await finish(self._drop(staged.key))

    async def _drop(self, key: str) -> None:
        self._staged.pop(key, None)
        await in_thread(self._store.unstage, key)
        self._working.discard(key)
        self._store.trash.empty()

    # --- publishing -----------------------------------------------------------------------------------------

    async def publish(self, staged: Staged, chain_id: str, lowers: Sequence[str]) -> None:
        """Make a staged layer visible over `lowers` (chain ids, lowest first). Idempotent; `commit` makes it durable.

        If it fails the staged layer is of no more use: discard it.
        """
        async with self._locks(chain_id):
            if chain_id in self._published:
                await self.discard(staged)
                return
            unpacked = self._staged.get(staged.key)
            if unpacked is None:
                raise errors.NotFound(f"layer {chain_id} is not staged any more; unpack it again")
            await finish(self._publish(staged.key, unpacked, chain_id, self._below(lowers)))

    async def _publish(self, key: str, unpacked: Unpacked, chain_id: str, below: Sequence[str]) -> None:
        if not unpacked.has_root:
            await in_thread(self._store.inherit_root, key, below)
        visible = [] if unpacked.opaque else below
        if unpacked.whiteouts:
            await in_slow_thread(self._store.prune_whiteouts, key, visible)
        if unpacked.rest:
            await step("layer.merge", chain_id)
            merged = await self._merge(key, visible)
            unpacked.size += merged.size
            unpacked.inodes += merged.inodes
        record = Record(
            chain_id=chain_id,
            diff_id=unpacked.diff_id,
            blob_digest=unpacked.blob_digest,
            blob_size=unpacked.blob_size,
            size=unpacked.size,
            inodes=unpacked.inodes,
            opaque=unpacked.opaque,
            blob=self._keep == "keep",
            recipe=unpacked.recipe,
        )
        name = self._new_name()
        try:
            await step("layer.publish", chain_id)
            await in_slow_thread(self._store.place, key, name)
        except BaseException:
            self._names.discard(name)
            raise
        self._published[chain_id] = _Published(name, record)
        self._fresh.add(chain_id)
        self._staged.pop(key, None)
        self._working.discard(key)

    async def commit(self, chain: Sequence[str]) -> None:
        """Make these published layers durable, with one sync for all. Idempotent; until then a restart throws them
        away."""
        async with self._committing:
            fresh = {chain_id: self._get(chain_id) for chain_id in chain if chain_id in self._fresh}
            if fresh:
                await finish(self._commit(fresh))

    async def _commit(self, fresh: Mapping[str, _Published]) -> None:
        await step("layer.sync")
        await in_slow_thread(self._store.flush)
        await step("layer.record")
        records = {published.name: published.record for published in fresh.values()}
        await in_slow_thread(self._store.write_records, records)
        self._fresh -= set(fresh)

    def _new_name(self) -> str:
        """The smallest free number: names must be short."""
        number = 1
        while str(number) in self._names:
            number += 1
        self._names.add(str(number))
        return str(number)

    async def _merge(self, key: str, below: Sequence[str]) -> Unpacked:
        """Let a child write the part of the layer that depends on the layers below."""
        lowers = ":".join(f"{name}/{ROOT}" for name in below or (EMPTY,))
        return await unpacking.merge(self._store.root, [key, *map(str, await self._reserve()), lowers])

    # --- removing -------------------------------------------------------------------------------------------

    async def remove(self, chain_id: str) -> None:
        """Remove a published layer; its space comes back soon after. Idempotent."""
        async with self._locks(chain_id):
            published = self._published.get(chain_id)
            if published is not None:
                await step("layer.remove", chain_id)
                await finish(self._remove(chain_id, published.name))

    async def _remove(self, chain_id: str, name: str) -> None:
        usage = self._use.of(chain_id, _estimate(self._published[chain_id]))
        await in_thread(self._store.trash.take, self._store.root / name, usage)
        del self._published[chain_id]
        self._use.forget(chain_id)
        self._fresh.discard(chain_id)
        self._names.discard(name)
        self._store.trash.empty()

    async def sweep(self, keep: Collection[str]) -> None:
        """Remove every published layer that is not in `keep`, and staging that nobody works on."""
        for chain_id in [chain_id for chain_id in self._published if chain_id not in keep]:
            await self.remove(chain_id)
        await in_thread(self._store.discard_staging, tuple(self._working))
        self._store.trash.empty()


def _estimate(layer: _Published) -> Usage:
    return Usage(layer.record.size, layer.record.inodes)
