"""Removing the images that nobody needs, by a person's word. The kubelet's garbage collection is its own: it asks for
each removal by RemoveImage.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sampan.model.image import Image
from sampan.runtime.image_ports import Layers
from sampan.runtime.image_records import ImageRecords
from sampan.runtime.state import State


@dataclass(frozen=True, slots=True)
class Pruned:
    """An image that went, and the bytes of the layers that went with it."""

    image: Image
    bytes: int


class Prune:
    """Finds and removes images that no container uses and no configuration pins."""

    def __init__(self, state: State, layers: Layers, records: ImageRecords) -> None:
        self._state = state
        self._layers = layers
        self._records = records

    async def run(self, *, everything: bool, dry: bool) -> Sequence[Pruned]:
        """Remove those without a tag, or with `everything` all; `dry` only says which. The oldest goes first; the
        bytes of a layer that several of them share count for the last."""
        images = [image for image in self._state.images.values() if everything or not image.tags]
        images = sorted(
            filter(self._records.unneeded, images), key=lambda image: (image.created_at, image.id)
        )
        return self._foreseen(images) if dry else await self._remove(images)

    def _foreseen(self, images: Sequence[Image]) -> Sequence[Pruned]:
        users = Counter(id for image in self._state.images.values() for id in set(image.layers))
        found = []
        for image in images:
            users.subtract(set(image.layers))
            gone = [id for id in set(image.layers) if not users[id]]
            found.append(Pruned(image, sum(self._size(id) for id in gone)))
        return found

    async def _remove(self, images: Sequence[Image]) -> Sequence[Pruned]:
        found = []
        for image in images:
            sizes = {id: self._size(id) for id in image.layers}
            if await self._records.forget_unneeded(image.id):
                freed = sum(size for id, size in sizes.items() if not self._layers.has(id))
                found.append(Pruned(image, freed))
        return found

    def _size(self, chain_id: str) -> int:
        return self._layers.size(chain_id) if self._layers.has(chain_id) else 0
