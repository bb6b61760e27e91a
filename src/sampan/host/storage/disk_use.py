"""How much disk the image store takes, all of it: published layers, what is being unpacked or fetched, what is being
deleted. Answered from memory; whoever asks sets off a look at what has changed, for the next who asks.

A published layer never changes, so it is walked once; until then the figure of its record counts, which knows nothing
of directories and of the file system's own blocks. What the walk found lies beside the layer (`usage`), so that a
restart need not walk again. Not durable: without it the layer is walked anew.
"""

import logging
import os
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from sampan.host.storage import trees
from sampan.host.storage.trash import opened
from sampan.host.threads import in_slow_thread
from sampan.runtime.image_ports import Usage
from sampan.tasks import Tasks

FILE = "usage"
STAGING_SECONDS = 10.0  # between two walks over what is being unpacked
_NOTHING = Usage(0, 0)
log = logging.getLogger("sampan")


class _Walked(msgspec.Struct, frozen=True):
    """What `usage` says; the chain id shows whose it is."""

    chain_id: str
    bytes: int
    inodes: int


class DiskUse:
    """The usage of one store: `root` has the layers, `blobs` is where downloads lie."""

    def __init__(self, root: Path, staging: str, fixed: Iterable[str], blobs: Path) -> None:
        """`staging` is the name of the directory of what is being unpacked; `fixed` are those of the other directories
        that are not layers: they count without what is in them."""
        self._root = root
        self._staging = staging
        self._fixed = (".", staging, *fixed)
        self._blobs = blobs
        self._layers: dict[str, Usage] = {}  # by chain id
        self._staged: dict[str, Usage] = {}  # by key
        self._others = _NOTHING
        self._staging_seen = -STAGING_SECONDS
        self._tasks = Tasks()
        self._looking = False

    def load(self, names: Mapping[str, str]) -> None:
        """At start: what earlier walks found of these layers (chain id → name). Blocking."""
        for chain_id, name in names.items():
            with suppress(OSError, msgspec.DecodeError):
                found = msgspec.json.decode((self._root / name / FILE).read_bytes(), type=_Walked)
                if found.chain_id == chain_id:
                    self._layers[chain_id] = Usage(found.bytes, found.inodes)

    def of(self, chain_id: str, estimate: Usage) -> Usage:
        """What is known of a layer; the estimate if it was not walked yet."""
        return self._layers.get(chain_id, estimate)

    def forget(self, chain_id: str) -> None:
        """The layer is gone from its place."""
        self._layers.pop(chain_id, None)

    def total(self, estimates: Mapping[str, Usage], keys: Collection[str], trash: Usage) -> Usage:
        """All of it: layers (by chain id, with what to take for those not walked yet), staging, trash, the rest."""
        parts = [self._layers.get(chain_id, estimate) for chain_id, estimate in estimates.items()]
        parts += [self._staged.get(key, _NOTHING) for key in keys]
        parts += [trash, self._others]
        return Usage(sum(part.bytes for part in parts), sum(part.inodes for part in parts))

    # --- looking --------------------------------------------------------------------------------------------

    def look(self, names: Mapping[str, str], keys: Collection[str]) -> None:
        """Walk in the background what is new: durable layers (chain id → name), staging, downloads."""
        if not self._looking:
            self._looking = True
            self._tasks.start("measure the image store", self._look(dict(names), tuple(keys)))

    async def close(self) -> None:
        """Stop looking."""
        await self._tasks.stop()

    async def _look(self, names: dict[str, str], keys: Collection[str]) -> None:
        try:
            self._others = await in_slow_thread(self._measure_others)
            now = time.monotonic()
            if keys and now - self._staging_seen >= STAGING_SECONDS:
                self._staging_seen = now
                self._staged = await in_slow_thread(self._measure_staging, keys)
            for chain_id, name in names.items():
                if chain_id not in self._layers:
                    usage = await in_slow_thread(self._measure_layer, chain_id, name)
                    if usage.inodes:
                        self._layers[chain_id] = usage
        finally:
            self._looking = False

    def _measure_others(self) -> Usage:
        size, inodes = 0, 0
        for name in self._fixed:
            with suppress(FileNotFoundError):
                found = (self._root / name).stat()
                size, inodes = size + found.st_blocks * 512, inodes + 1
        with suppress(FileNotFoundError), opened(self._blobs.resolve()) as fd:
            more = trees.measure(fd, ".")
            size, inodes = size + more[0], inodes + more[1]
        return Usage(size, inodes)

    def _measure_staging(self, keys: Collection[str]) -> dict[str, Usage]:
        with opened(self._root / self._staging) as fd:
            return {key: Usage(*trees.measure(fd, key)) for key in keys}

    def _measure_layer(self, chain_id: str, name: str) -> Usage:
        """Nothing if it was removed meanwhile."""
        file = self._root / name / FILE
        try:
            with opened(file.parent) as fd:
                file.write_bytes(b"{}")  # it counts itself
                size, inodes = trees.measure(fd, ".")
                if os.fstat(fd).st_ino != file.parent.stat().st_ino:
                    return _NOTHING
            file.write_bytes(msgspec.json.encode(_Walked(chain_id, size, inodes)))
        except FileNotFoundError:
            return _NOTHING
        except OSError as error:  # a full disk, say: then each start walks it again
            log.debug("what was found of %s cannot be noted: %s", file.parent, error)
            return _NOTHING
        return Usage(size, inodes)
