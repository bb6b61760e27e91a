"""Images: pull, import, find, list, remove, and how much disk they take.

A pull belongs to nobody's request: everybody who asks for the same reference with the same credentials waits
for one pull, and a client that gives up leaves it running for the retry that will come.
"""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from sampan.model.errors import Invalid
from sampan.model.image import Image
from sampan.runtime.image_index import ImageIndex
from sampan.runtime.image_ports import (
    ArchivedImage,
    Archives,
    Layers,
    LayerSource,
    Registry,
    Repository,
    Usage,
)
from sampan.runtime.pull import Intake, Progress, Report, Wanted
from sampan.runtime.state import Gone, State, now
from sampan.tasks import Joined, Tasks, step
from sampan.wire import image_config, manifest, reference
from sampan.wire.credentials import Credentials
from sampan.wire.manifest import INDEX_DEPTH, Descriptor, Manifest
from sampan.wire.reference import Reference

log = logging.getLogger("sampan.images")

_CONFIG_TYPES = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json", ""}
)


@dataclass(frozen=True, slots=True)
class Supply:
    """Where images come from, and for which machine (`uname -m`) they must be. `pinned` are patterns of
    references."""

    registry: Registry
    archives: Archives
    machine: str
    parallel: int = 6
    pinned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Content:
    """What an image consists of, and the names it is to have."""

    config: bytes
    layers: tuple[LayerSource, ...]
    tags: tuple[str, ...]
    digests: tuple[str, ...]


class Images:
    """The images of this node."""

    def __init__(self, state: State, layers: Layers, supply: Supply, tasks: Tasks) -> None:
        self._state = state
        self._layers = layers
        self._supply = supply
        self._tasks = tasks
        self._intake = Intake(layers, supply.parallel, self._used, tasks)
        self._joined = Joined()
        self._held: Counter[str] = Counter()
        self._listeners: dict[Hashable, list[Report]] = {}
        self._writing = asyncio.Lock()  # one change of names at a time: a tag belongs to one image
        self._index = ImageIndex()
        self._index.rebuild(state.images.values())
        state.watch(self._changed)

    async def start(self) -> None:
        """At boot: forget images whose layers are damaged or gone, apply the configuration, free what nobody
        uses."""
        for image in list(self._state.images.values()):
            broken = [chain_id for chain_id in image.layers if not self._layers.has(chain_id)]
            if broken:
                log.warning("image %s has lost layer %s; it must be pulled again", image.id, broken[0])
                await self._forget(image)
            elif self._pins(image.tags) != image.pinned:
                await self._state.commit(msgspec.structs.replace(image, pinned=self._pins(image.tags)))
        await self.collect()
        await self._layers.sweep(self._used())

    # --- reading ------------------------------------------------------------------------------------------

    def find(self, text: str) -> Image | None:
        """The image with this id, prefix of an id, tag or digest. Raises Invalid if a prefix is ambiguous."""
        return self._index.find(text)

    def list(self, text: str = "") -> Sequence[Image]:
        """All images, or the one that `text` names, the newest first. Never fails."""
        if text:
            try:
                found = self.find(text)
            except Invalid:
                return ()
            return (found,) if found else ()
        images = [image for image in self._state.images.values() if not image.removed]
        return sorted(images, key=lambda image: (-image.created_at, image.id))

    async def fs_info(self) -> Usage:
        """Disk use of all layers."""
        return await self._layers.fs_usage()

    # --- pulling ------------------------------------------------------------------------------------------

    async def pull(
        self, text: str, credentials: Credentials | None = None, progress: Report | None = None
    ) -> Image:
        """Fetch what the reference means now. Raises Invalid, NotFound, Denied, RegistryUnavailable,
        Exhausted."""
        wanted = reference.parse(text)
        key = (str(wanted), credentials)
        with self._listening(key, progress):
            return await self._joined.run(key, self._pull(wanted, credentials, key))

    async def _pull(self, wanted: Reference, credentials: Credentials | None, key: Hashable) -> Image:
        async with self._supply.registry.open(wanted, credentials) as repository:
            unchanged = await self._unchanged(wanted, repository)
            if unchanged is not None:
                return unchanged
            return await self._fetch(wanted, repository, key)

    async def _unchanged(self, wanted: Reference, repository: Repository) -> Image | None:
        """The image we have, if the registry says that it still is what the reference means: one request.

        Its word is enough: the digest it names is one that we verified when we pulled it from the same
        repository.
        """
        if self._index.named(wanted) is None:
            return None
        digest = await repository.resolve(wanted.target)
        return None if digest is None else await self._known(wanted, digest)

    async def _known(self, wanted: Reference, digest: str) -> Image | None:
        image = self._index.named(Reference(wanted.domain, wanted.path, digest=digest))
        if image is None:
            return None
        async with self._intake.hold(image.layers):
            if not await self._intake.present(image.layers):
                return None
            return await self._record(image, _tags(wanted), (wanted.at(digest),))

    async def _fetch(self, wanted: Reference, repository: Repository, key: Hashable) -> Image:
        data = await repository.manifest(wanted.target)
        digest = wanted.digest or "sha256:" + hashlib.sha256(data).hexdigest()
        known = await self._known(wanted, digest)
        if known is not None:
            return known
        found = await self._choose(wanted, data, repository)
        if found.config.media_type not in _CONFIG_TYPES:
            raise Invalid(
                f"{wanted} is no container image but an artifact: {found.config.media_type[:120]!r}"
            )
        if not found.config.digest.startswith("sha256:"):
            raise Invalid(
                f"{wanted} names its config by {found.config.digest[:80]!r}, not by a sha256 digest"
            )
        config = await repository.read(found.config, image_config.CONFIG_LIMIT)
        layers = tuple(_remote(repository, layer) for layer in found.layers)
        content = _Content(config, layers, _tags(wanted), (wanted.at(digest),))
        return await self._install(str(wanted), content, lambda each: self._report(key, each))

    async def _choose(self, wanted: Reference, data: bytes, repository: Repository) -> Manifest:
        """The manifest for this machine, through as many indexes as there may be."""
        what = str(wanted)
        for _ in range(INDEX_DEPTH):
            found = manifest.parse(data, what)
            if isinstance(found, Manifest):
                return found
            chosen = manifest.choose(found, self._supply.machine, what)
            data = await repository.manifest(chosen.digest)
            if len(data) != chosen.size:
                raise Invalid(
                    f"{what}: manifest {chosen.digest} has {len(data)} bytes, its index says {chosen.size}"
                )
        raise Invalid(f"{what} nests indexes deeper than {INDEX_DEPTH}")

    # --- importing ----------------------------------------------------------------------------------------

    async def import_archive(self, source: Path | AsyncIterator[bytes]) -> Sequence[Image]:
        """Take in every image of an archive for this machine, with the tags it has there. Raises Invalid,
        Exhausted."""
        async with self._supply.archives.open(source, self._supply.machine) as found:
            return [await self._import(image) for image in found]

    async def _import(self, image: ArchivedImage) -> Image:
        what = image.tags[0] if image.tags else "the archive's image"
        content = _Content(image.config, image.layers, image.tags, image.digests)
        return await self._install(what, content, lambda _: None)

    # --- common to both -----------------------------------------------------------------------------------

    async def _install(self, what: str, content: _Content, report: Report) -> Image:
        """Bring in the layers that are missing, then record the image: nobody sees half of one."""
        parsed = image_config.parse(content.config, f"the config of {what}")
        if len(parsed.diff_ids) != len(content.layers):
            raise Invalid(f"{what} has {len(content.layers)} layers; its config names {len(parsed.diff_ids)}")
        if not manifest.runs_here(parsed.platform, self._supply.machine):
            raise Invalid(f"{what} is an image for {parsed.platform}; this machine is {self._supply.machine}")
        chain = image_config.chain_ids(parsed.diff_ids)
        wanted = [Wanted(*each) for each in zip(chain, parsed.diff_ids, content.layers, strict=True)]
        async with self._intake.hold(chain):
            await self._intake.take(wanted, report)
            image = Image(
                id="sha256:" + hashlib.sha256(content.config).hexdigest(),
                config=parsed.config,
                layers=chain,
                size=sum(self._layers.size(chain_id) for chain_id in chain),
                architecture=parsed.platform.architecture,
                created_at=now(),
                raw_config=content.config,
            )
            return await self._record(image, content.tags, content.digests)

    async def _record(self, image: Image, tags: Sequence[str], digests: Sequence[str]) -> Image:
        """Commit the image with these names beside those it has; whichever image had one of the tags loses
        it."""
        async with self._writing:
            old = self._state.images.get(image.id, image)
            merged = msgspec.structs.replace(
                image,
                tags=tuple(sorted({*old.tags, *tags})),
                digests=tuple(sorted({*old.digests, *digests})),
                created_at=old.created_at,
                removed=False,
            )
            merged = msgspec.structs.replace(merged, pinned=self._pins(merged.tags))
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
            msgspec.structs.replace(image, tags=left, pinned=self._pins(left))
            for image, left in zip(losers, kept, strict=True)
        ]

    def _pins(self, tags: Sequence[str]) -> bool:
        return any(_matches(pattern, tag) for pattern in self._supply.pinned for tag in tags)

    # --- removing -----------------------------------------------------------------------------------------

    async def remove(self, text: str) -> None:
        """Remove the image with all its names; one that is not there is fine. Raises Invalid if `text` is
        ambiguous.

        Layers go with the last image that has them, and not before the last container that uses them.
        """
        image = self.find(text)
        if image is not None:
            await self._forget(image)

    async def collect(self) -> None:
        """Let go of removed images that no container uses any more."""
        for image in list(self._state.images.values()):
            if image.removed:
                await self._forget(image)

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
        await self._intake.release(current.layers)

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

    def _used(self) -> set[str]:
        return {chain_id for image in self._state.images.values() for chain_id in image.layers}

    # --- bookkeeping --------------------------------------------------------------------------------------

    def _changed(self, change: object) -> None:
        """Called after every commit."""
        if isinstance(change, Image) or (isinstance(change, Gone) and change.kind == "image"):
            self._index.rebuild(self._state.images.values())
        if isinstance(change, Gone) and change.kind == "container" and self._any_removed():
            self._tasks.start("collect images", self.collect())

    def _any_removed(self) -> bool:
        return any(image.removed for image in self._state.images.values())

    @contextmanager
    def _listening(self, key: Hashable, progress: Report | None) -> Iterator[None]:
        """Tell `progress` how the pull under `key` goes, whoever started it."""
        if progress is None:
            yield
            return
        self._listeners.setdefault(key, []).append(progress)
        try:
            yield
        finally:
            self._listeners[key].remove(progress)
            if not self._listeners[key]:
                del self._listeners[key]

    def _report(self, key: Hashable, progress: Progress) -> None:
        for listener in self._listeners.get(key, ()):
            listener(progress)


def _remote(repository: Repository, layer: Descriptor) -> LayerSource:
    return LayerSource(
        layer.digest, layer.size, manifest.compression(layer.media_type), lambda: repository.stream(layer)
    )


def _tags(wanted: Reference) -> tuple[str, ...]:
    """A pull by digest neither makes nor moves a tag."""
    return (wanted.tagged,) if wanted.tagged else ()


def _matches(pattern: str, tag: str) -> bool:
    """A pinned pattern is a reference, in short or in full, in which * stands for anything."""
    if "*" in pattern:
        return fnmatchcase(tag, pattern)
    try:
        return reference.parse(pattern).tagged == tag
    except Invalid:
        return False
