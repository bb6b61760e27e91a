"""The `Volumes` port in memory. What it shows is kept in a set of the world's, for the census."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from sampan.model.errors import ImageVolumeMountFailed
from sampan.runtime.image_ports import IdMapped, ImageMount


class FakeVolumes:
    """Images have no directories but those in `directories`; `relabelled` are paths and their labels, `labels` those
    that images are shown with, by the container."""

    def __init__(self, shown: set[str], did: Callable[[str], Awaitable[None]]) -> None:
        self.shown = shown
        self._did = did
        self.directories = {""}
        self.relabelled: list[tuple[str, str]] = []
        self.probed: list[str] = []
        self.labels: dict[str, str] = {}
        self.made: dict[str, tuple[int, int]] = {}

    async def show(self, id: str, image: ImageMount, users: IdMapped | None = None, label: str = "") -> str:
        self.shown.add(id)
        self.labels[id] = label
        await self._did("volumes.show")
        if image.sub_path not in self.directories:
            raise ImageVolumeMountFailed(f"mounts[{image.number}].image_sub_path {image.sub_path!r}: no such")
        return str(Path("/shown", id, str(image.number), image.sub_path))

    async def make(
        self, id: str, root: Path, volumes: Sequence[str], users: IdMapped | None = None
    ) -> dict[str, str]:
        await self._did("volumes.make")
        found = {volume: f"/volumes/{id}/{number}" for number, volume in enumerate(volumes)}
        self.made |= {path: users.maps.root if users else (0, 0) for path in found.values()}
        return found

    async def check_idmaps(self, paths: Sequence[str], users: IdMapped) -> None:
        self.probed += paths
        await self._did("volumes.check_idmaps")

    async def relabel(self, paths: Sequence[str], label: str, seconds: float) -> None:
        self.relabelled += [(path, label) for path in paths]
        await self._did("volumes.relabel")

    async def remove(self, id: str) -> None:
        self.shown.discard(id)
        await self._did("volumes.remove")

    async def sweep(self, keep: Collection[str]) -> None:
        self.shown &= set(keep)
        await self._did("volumes.sweep")
