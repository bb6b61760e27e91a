"""`sampan images verify`: does the disk still hold what was pulled? And the repair of what does not."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from sampan.model.errors import WrongState
from sampan.model.image import Image
from sampan.runtime.image_export import chosen, held
from sampan.runtime.image_ports import LayerTars, Verdict
from sampan.runtime.images import Images
from sampan.tasks import step
from sampan.wire import image_config


@dataclass(frozen=True, slots=True)
class Checked:
    """One layer of an image (`number` of `count`, from 1), or the image's own record (`number` 0)."""

    image: Image
    number: int
    count: int
    layer: str
    differences: tuple[str, ...] = ()
    unknown: str = ""
    repaired: bool = False


class Verify:
    """Compares images with what was pulled. A layer that several have is looked at once."""

    def __init__(self, images: Images, tars: LayerTars) -> None:
        self._images = images
        self._tars = tars

    async def run(self, words: Sequence[str], *, repair: bool) -> AsyncGenerator[Checked, None]:
        """The findings on the images that `words` name (none: all), as they come. With `repair` what is damaged is
        pulled anew, by digest. Raises NotFound, Invalid, and what a pull raises."""
        which = chosen(self._images, words) if words else list(self._images.list())
        with held(self._images, which):
            seen: dict[str, Verdict] = {}
            for image in which:
                async for checked in self._image(image, seen, repair):
                    yield checked

    async def _image(
        self, image: Image, seen: dict[str, Verdict], repair: bool
    ) -> AsyncGenerator[Checked, None]:
        count = len(image.layers)
        damage = _record_damage(image)
        if damage:
            yield Checked(image, 0, count, "", damage)
        found = []
        for number in range(1, count + 1):
            chain_id = image.layers[number - 1]
            if chain_id not in seen:
                seen[chain_id] = await self._tars.verify(image.layers[:number])
            verdict = seen[chain_id]
            found.append(Checked(image, number, count, chain_id, verdict.differences, verdict.unknown))
            if not (repair and verdict.differences):
                yield found[-1]
        broken = [each for each in found if each.differences]
        if repair and broken:
            await self._repair(image, [each.layer for each in broken])
            for each in broken:
                chain = image.layers[: each.number]
                seen[each.layer] = again = await self._tars.verify(chain)
                left = again.differences
                yield Checked(
                    image, each.number, count, each.layer, left or each.differences, again.unknown, not left
                )

    async def _repair(self, image: Image, broken: Sequence[str]) -> None:
        """Pull the layers anew. Containers keep what they have: the damaged files, until they are made anew."""
        if not image.digests:
            raise WrongState(f"image {image.id} came from no registry; import its archive again to repair it")
        name = image.digests[0]
        await self._images.require_offer(name)  # nothing is given up before there is something better
        await step("image.repair", image.id)
        for chain_id in broken:
            await self._tars.condemn(chain_id)
        await self._images.pull(name)


def _record_damage(image: Image) -> tuple[str, ...]:
    """What is wrong with the record itself: its id is a hash of the config (or an artifact's manifest), which names
    the layers."""
    data = image.manifest if image.artifact else image.raw_config
    if "sha256:" + hashlib.sha256(data).hexdigest() != image.id:
        return ("the stored config is not the one that the image's id names",)
    if not image.artifact:
        chain = image_config.chain_ids(image_config.parse(data, "the stored config").diff_ids)
        if chain != image.layers:
            return ("the record names other layers than the image's config",)
    return ()
