"""Which images there are, what they are called, and who uses them: the image records and every change of
one. Not where an image comes from (`runtime.image_fetch`), nor its layers' bytes (`runtime.pull`).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import msgspec

from sampan.model.errors import Invalid
from sampan.model.image import Image
from sampan.runtime.image_index import ImageIndex
from sampan.runtime.pull import Intake
from sampan.runtime.state import Gone, State
from sampan.runtime.trust import merged_signatures
from sampan.tasks import Tasks, finish, step
from sampan.wire import reference

RETRY_SECONDS = 10
log = logging.getLogger("sampan.images")


def used_layers(state: State) -> set[str]:
    """The chain ids that images have, removed ones in use included."""
    return {chain_id for image in state.images.values() for chain_id in image.layers}


class ImageRecords:
    """The records of images. `pinned` are patterns of references."""

    def __init__(self, state: State, intake: Intake, tasks: Tasks, pinned: Sequence[str]) -> None:
        self._state = state
        self._intake = intake
        self._tasks = tasks
        self._pinned = tuple(pinned)
        self._held: Counter[str] = Counter()
        self._unclaimed: dict[str, None] = {}  # layers of removed images, until they were let go
        self._retrying = False
        self._writing = asyncio.Lock()  # one change of names at a time: a tag belongs to one image
        self.index = ImageIndex()
        self.index.rebuild(state.images.values())
        state.watch(self._changed)

    # --- names ----------------------------------------------------------------------------------------------

    async def record(self, image: Image, tags: Sequence[str], digests: Sequence[str]) -> Image:
        """Commit the image with these names beside those it has; whichever image had one of the tags loses
        it."""
        async with self._writing:
            old = self._state.images.get(image.id, image)
            merged = msgspec.structs.replace(
                image,
                tags=tuple(sorted({*old.tags, *tags})),
                digests=tuple(sorted({*old.digests, *digests})),
                created_at=old.created_at,
                signatures=merged_signatures(image.signatures, old.signatures),
                removed=False,
            )
            merged = msgspec.structs.replace(merged, pinned=self.pins(merged.tags))
            if merged != self._state.images.get(image.id):
                await step("image.record", image.id)
                await self._state.commit(*self._losers(merged, tags), merged)
            return merged

    def _losers(self, winner: Image, tags: Sequence[str]) -> Sequence[Image]:
        """The images that had one of `tags`, without it. They stay, by digest or by id, until they are
        removed."""
        others = [image for image in self._state.images.values() if image.id != winner.id]
        losers = [image for image in others if not set(tags).isdisjoint(image.tags)]
        kept = [tuple(tag for tag in image.tags if tag not in tags) for image in losers]
        return [
            msgspec.structs.replace(image, tags=left, pinned=self.pins(left))
            for image, left in zip(losers, kept, strict=True)
        ]

    def pins(self, tags: Sequence[str]) -> bool:
        """Whether an image with these tags is pinned: the kubelet then never removes it."""
        return any(_matches(pattern, tag) for pattern in self._pinned for tag in tags)

    # --- removing, and who uses what ------------------------------------------------------------------

    async def collect(self) -> None:
        """Let go of removed images that no container uses any more."""
        for image in list(self._state.images.values()):
            if image.removed:
                await self.forget(image)

    async def forget(self, image: Image) -> None:
        """Remove the image with all its names; while containers use it, only its names. Not cut short by
        cancellation: its layers would stay."""
        await finish(self._forget(image))

    async def _forget(self, image: Image) -> None:
        async with self._writing:
            current = self._state.images.get(image.id)
            if current is None or (current.removed and self._in_use(current)):
                return
            await step("image.remove", image.id)
            if self._in_use(current):
                hidden = msgspec.structs.replace(current, tags=(), digests=(), pinned=False, removed=True)
                await self._state.commit(hidden)
                return
            await self._state.commit(Gone("image", image.id))
        await self._reclaim(current.layers)

    async def forget_lost(self, has: Callable[[str], bool]) -> None:
        """Forget the images that lack a layer, as `has` says: a pull brings in what is missing."""
        for image in list(self._state.images.values()):
            lost = [chain_id for chain_id in image.layers if not has(chain_id)]
            if lost and not image.removed:
                names = ", ".join((*image.tags, *image.digests))
                log.warning("image %s (%s) has lost layer %s: pull it again", image.id, names, lost[0])
                await self.forget(image)

    async def pin_anew(self) -> None:
        """At boot: which images are pinned is the configuration's to say."""
        for image in list(self._state.images.values()):
            pinned = self.pins(image.tags) and not image.removed
            if pinned != image.pinned:
                await self._state.commit(msgspec.structs.replace(image, pinned=pinned))

    async def forget_unneeded(self, id: str) -> bool:
        """Remove the image unless somebody needs it by now. Whether it went. Not cut short, either."""
        return await finish(self._forget_unneeded(id))

    async def _forget_unneeded(self, id: str) -> bool:
        async with self._writing:
            current = self._state.images.get(id)
            if current is None or not self.unneeded(current):
                return False
            await step("image.remove", id)
            if not self.unneeded(current):  # a container was begun meanwhile
                return False
            await self._state.commit(Gone("image", id))
        await self._reclaim(current.layers)
        return True

    async def _reclaim(self, layers: Sequence[str]) -> None:
        """Free these layers if nobody needs them. The image is gone already, whatever comes of this: what fails is
        tried again, here or at the next start."""
        self._unclaimed.update(dict.fromkeys(layers))  # keeps the order: the lower before what is on it
        waiting = tuple(self._unclaimed)
        try:
            await self._intake.release(waiting)
        except Exception:
            log.exception("cannot free the layers of a removed image; trying again in %d s", RETRY_SECONDS)
            if not self._retrying:
                self._retrying = True
                self._tasks.start("free layers", self._reclaim_later())
        else:
            for chain_id in waiting:
                self._unclaimed.pop(chain_id, None)

    async def _reclaim_later(self) -> None:
        await asyncio.sleep(RETRY_SECONDS)
        self._retrying = False
        await self._reclaim(())

    def unneeded(self, image: Image) -> bool:
        """Whether it is neither pinned nor used by a container. (One that was removed already goes with its last.)"""
        return not (image.pinned or image.removed or self._in_use(image))

    def _in_use(self, image: Image) -> bool:
        containers = self._state.containers.values()
        used = (id for one in containers for id in (one.image_id, *one.volume_images))
        return bool(self._held[image.id]) or image.id in used

    def hold(self, id: str) -> None:
        """A container is being made of this image: until `release` it counts as used."""
        self._held[id] += 1

    def release(self, id: str) -> None:
        """Undo one `hold`."""
        self._held[id] -= 1
        if not self._held[id]:
            del self._held[id]
            if self._any_removed():
                self._tasks.start("collect images", self.collect())

    def _changed(self, change: object) -> None:
        """Called after every commit."""
        if isinstance(change, Image) or (isinstance(change, Gone) and change.kind == "image"):
            self.index.rebuild(self._state.images.values())
        if isinstance(change, Gone) and change.kind == "container" and self._any_removed():
            self._tasks.start("collect images", self.collect())

    def _any_removed(self) -> bool:
        return any(image.removed for image in self._state.images.values())


def _matches(pattern: str, tag: str) -> bool:
    """A pinned pattern is a reference, in short or in full, in which * stands for anything."""
    if "*" in pattern:
        return fnmatchcase(tag, pattern)
    try:
        return reference.parse(pattern).tagged == tag
    except Invalid:
        return False
