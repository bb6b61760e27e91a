"""Images: pull, import, find, list, remove, and how much disk they take.

A pull belongs to nobody's request: everybody who asks for the same reference with the same credentials waits
for one pull, and a client that gives up leaves it running for the retry that will come.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from sampan.model.errors import Invalid, Lost
from sampan.model.image import Image
from sampan.runtime import artifacts, image_fetch
from sampan.runtime.image_fetch import Content
from sampan.runtime.image_ports import ArchivedImage, Archives, Layers, Registry, Repository, Usage
from sampan.runtime.image_records import ImageRecords, used_layers
from sampan.runtime.laps import Laps
from sampan.runtime.prune import Prune
from sampan.runtime.pull import RETRY_SECONDS, Intake, Progress, Report, Wanted
from sampan.runtime.state import State, now
from sampan.runtime.trust import Trust
from sampan.tasks import Joined, Tasks, finish
from sampan.wire import image_config, manifest, reference
from sampan.wire.credentials import Credentials
from sampan.wire.reference import Reference

log = logging.getLogger("sampan.images")


@dataclass(frozen=True, slots=True)
class Supply:
    """Where images come from, and for which machine (`uname -m`) they must be. `pinned` are patterns of
    references."""

    registry: Registry
    archives: Archives
    machine: str
    parallel: int = 6
    pinned: tuple[str, ...] = ()
    trust: Trust = field(default_factory=Trust)


class Images:
    """The images of this node."""

    def __init__(self, state: State, layers: Layers, supply: Supply, tasks: Tasks) -> None:
        self._state = state
        self._layers = layers
        self._supply = supply
        self._tasks = tasks
        self._intake = Intake(layers, supply.parallel, lambda: used_layers(state), tasks)
        self._records = ImageRecords(state, self._intake, tasks, supply.pinned)
        self._joined = Joined()
        self._listeners: dict[Hashable, list[Report]] = {}
        self._tidying = False
        self.prune = Prune(state, layers, self._records)
        self.trust = supply.trust
        self.hold = self._records.hold
        self.release = self._records.release
        self.collect = self._records.collect

    async def start(self) -> None:
        """At boot: forget images whose layers are damaged or gone, apply the configuration, free what nobody
        uses."""
        await self._records.forget_lost(self._layers.has)
        await self._records.pin_anew()
        await self.collect()
        await self._layers.sweep(used_layers(self._state))
        self._tidy_later()

    def _tidy_later(self) -> None:
        """What downloads leave waits so long for another try."""
        if not self._tidying:
            self._tidying = True
            self._tasks.start("tidy downloads", self._tidy())

    async def _tidy(self) -> None:
        try:
            left = True
            while left:
                await asyncio.sleep(RETRY_SECONDS)
                left = await self._supply.registry.tidy(RETRY_SECONDS)
        finally:
            self._tidying = False

    # --- reading ------------------------------------------------------------------------------------------

    def find(self, text: str) -> Image | None:
        """The image with this id, prefix of an id, tag or digest. Raises Invalid if a prefix is ambiguous."""
        return self._records.index.find(text)

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

    async def remove(self, text: str) -> None:
        """Remove the image with all its names; one that is not there is fine. Raises Invalid if `text` is
        ambiguous.

        Layers go with the last image that has them, and not before the last container that uses them.
        """
        image = self.find(text)
        if image is not None:
            await self._records.forget(image)

    async def require(self, *ids: str) -> None:
        """See to it that containers can be made of these images: Lost if one has lost a layer. Such an image is
        forgotten, and the pull that follows mends it."""
        for id in ids:
            image = self._state.images.get(id)
            if image is not None and await self._layers.damaged(image.layers):
                await finish(self._records.forget_lost(self._layers.has))
                raise Lost(f"image {image.name} is damaged: a layer of it is missing on disk; pull it again")

    async def require_offer(self, text: str) -> None:
        """Raise what a pull would, NotFound or RegistryUnavailable, if the reference cannot be had now."""
        wanted = reference.parse(text)
        async with self._supply.registry.open(wanted, None) as repository:
            await repository.manifest(wanted.target)

    # --- pulling ------------------------------------------------------------------------------------------

    async def pull(
        self, text: str, credentials: Credentials | None = None, progress: Report | None = None
    ) -> Image:
        """Fetch what the reference means now. Raises Invalid, NotFound, Denied, RegistryUnavailable,
        SignatureValidationFailed, Exhausted."""
        wanted = reference.parse(text)
        key = (str(wanted), credentials)
        with self._listening(key, progress):
            return await self._joined.run(key, self._pull(wanted, credentials, key))

    async def _pull(self, wanted: Reference, credentials: Credentials | None, key: Hashable) -> Image:
        try:
            return await self._fetch(wanted, credentials, key)
        except Exception:
            self._tidy_later()
            await finish(self._records.forget_lost(self._layers.has))  # damage that it could not mend
            raise

    async def _fetch(self, wanted: Reference, credentials: Credentials | None, key: Hashable) -> Image:
        await self.trust.may_pull(wanted)
        laps = Laps()
        async with self._supply.registry.open(wanted, credentials) as repository:
            unchanged = await self._unchanged(wanted, repository)
            if unchanged is not None:
                return unchanged
            what = await image_fetch.named(wanted, repository)
            known = await self._known(wanted, what.digest, repository)
            if known is not None:
                return known
            proof = await self.trust.prove(wanted, what.digest, repository)
            content = await image_fetch.content(what, self._supply.machine, repository)
            content = replace(content, signatures=proof)
            laps.lap("manifest and config")
            image = await self._install(str(wanted), content, lambda each: self._report(key, each), laps)
            log.info("pulled %s, %d MiB, in %s", wanted, image.size >> 20, laps)
            return image

    async def _unchanged(self, wanted: Reference, repository: Repository) -> Image | None:
        """The image we have, if the registry says that it still is what the reference means: one request.

        Its word is enough: the digest it names is one that we verified when we pulled it from the same
        repository.
        """
        if self._records.index.named(wanted) is None:
            return None
        digest = await repository.resolve(wanted.target)
        return None if digest is None else await self._known(wanted, digest, repository)

    async def _known(self, wanted: Reference, digest: str, repository: Repository) -> Image | None:
        image = self._records.index.named(Reference(wanted.domain, wanted.path, digest=digest))
        if image is None:
            return None
        proof = await self.trust.prove(wanted, digest, repository, image.signatures)
        # its names are the record's to say: they may be another image's by now
        image = msgspec.structs.replace(image, tags=(), digests=(), signatures=proof)
        async with self._intake.hold(image.layers):
            await self._layers.damaged(image.layers)
            if not await self._intake.present(image.layers):
                return None
            await self._intake.commit(image.layers)
            return await self._records.record(image, image_fetch.tags_of(wanted), (wanted.at(digest),))

    # --- importing ----------------------------------------------------------------------------------------

    async def import_archive(self, source: Path | AsyncIterator[bytes]) -> Sequence[Image]:
        """Take in every image of an archive for this machine, with the tags it has there. Raises Invalid,
        Exhausted."""
        async with self._supply.archives.open(source, self._supply.machine) as found:
            return [await self._import(image) for image in found]

    async def _import(self, image: ArchivedImage) -> Image:
        what = image.tags[0] if image.tags else "the archive's image"
        there = image.artifact
        artifact = artifacts.found(there.manifest, there.raw, what, there.open) if there else None
        content = Content(image.config, image.layers, image.tags, image.digests, artifact)
        return await self._install(what, content, lambda _: None, Laps())

    # --- common to both -----------------------------------------------------------------------------------

    async def _install(self, what: str, content: Content, report: Report, laps: Laps) -> Image:
        """Bring in the layers that are missing, then record the image: nobody sees half of one."""
        image, wanted = self._planned(what, content)
        async with self._intake.hold(image.layers), self._intake.settling(wanted):
            await self._layers.damaged(image.layers)
            missing = [one.source.size for one in wanted if not self._layers.has(one.chain_id)]
            await self._layers.require_room(sum(size for size in missing if size > 0), what)
            await self._intake.take(wanted, report)
            if content.artifact is None:
                await self._layers.check_root(image.layers)
            laps.lap("layers")
            await self._intake.commit(image.layers)
            laps.lap("sync")
            size = sum(self._layers.size(chain_id) for chain_id in image.layers)
            whole = msgspec.structs.replace(image, size=size, signatures=content.signatures)
            recorded = await self._records.record(whole, content.tags, content.digests)
            laps.lap("record")
            return recorded

    def _planned(self, what: str, content: Content) -> tuple[Image, Sequence[Wanted]]:
        """What the image will be, but for its size, and the layers it needs. Raises Invalid."""
        if content.artifact is not None:
            return content.artifact.image, (content.artifact.layer,)
        parsed = image_config.parse(content.config, f"the config of {what}")
        if len(parsed.diff_ids) != len(content.layers):
            raise Invalid(f"{what} has {len(content.layers)} layers; its config names {len(parsed.diff_ids)}")
        if not manifest.runs_here(parsed.platform, self._supply.machine):
            raise Invalid(f"{what} is an image for {parsed.platform}; this machine is {self._supply.machine}")
        chain = image_config.chain_ids(parsed.diff_ids)
        image = Image(
            id=reference.digest_of(content.config),
            config=parsed.config,
            layers=chain,
            architecture=parsed.platform.architecture,
            created_at=now(),
            raw_config=content.config,
        )
        return image, [Wanted(*each) for each in zip(chain, parsed.diff_ids, content.layers, strict=True)]

    # --- progress ---------------------------------------------------------------------------------------

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
