"""`sampan images verify`: does the disk still hold what was pulled? And the repair of what does not."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

from sampan.model.errors import Lost, SampanError, Typed, WrongState
from sampan.model.image import Image
from sampan.runtime.image_export import chosen, held
from sampan.runtime.image_ports import LayerTars, Verdict
from sampan.runtime.images import Images
from sampan.tasks import step
from sampan.wire import image_config
from sampan.wire.reference import digest_of

_TOLD = 5  # images that could not be repaired, in the words of the failure


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


@dataclass(frozen=True, slots=True)
class _Unrepaired:
    image: Image
    layers: tuple[str, ...]
    why: str


class Verify:
    """Compares images with what was pulled. A layer that several have is looked at once."""

    def __init__(self, images: Images, tars: LayerTars) -> None:
        self._images = images
        self._tars = tars

    async def run(self, words: Sequence[str], *, repair: bool) -> AsyncGenerator[Checked, None]:
        """The findings on the images that `words` name (none: all), as they come. With `repair` what is damaged is
        pulled anew, by digest. Raises NotFound, Invalid before the first; Lost after the last, if some images could not
        be repaired."""
        which = chosen(self._images, words) if words else list(self._images.list())
        with held(self._images, which):
            seen: dict[str, Verdict] = {}
            failed: list[_Unrepaired] | None = [] if repair else None
            for image in which:
                async for checked in self._image(image, seen, failed):
                    yield checked
            # the pull of a later image may have brought a layer that they share
            left = [each for each in failed or () if not self._mended(each, seen)]
            if left:
                raise Lost("\n".join(self._told(left)))

    async def _image(
        self, image: Image, seen: dict[str, Verdict], failed: list[_Unrepaired] | None
    ) -> AsyncGenerator[Checked, None]:
        """The findings on one image. It is repaired if there is a list for the failures of that."""
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
            if failed is None or not verdict.differences:
                yield found[-1]
        broken = [each for each in found if each.differences]
        if failed is not None and broken:
            layers = tuple(each.layer for each in broken)
            try:
                await self._repair(image, layers)
            except (SampanError, OSError) as error:
                failed.append(_Unrepaired(image, layers, _why(error)))
                for each in broken:
                    yield each
                return
            for each in broken:
                yield await self._again(each, seen)

    async def _again(self, broken: Checked, seen: dict[str, Verdict]) -> Checked:
        """A layer that was damaged, looked at after the pull."""
        again = await self._tars.verify(broken.image.layers[: broken.number])
        seen[broken.layer] = again
        left = again.differences
        return replace(
            broken, differences=left or broken.differences, unknown=again.unknown, repaired=not left
        )

    async def _repair(self, image: Image, broken: Sequence[str]) -> None:
        """Pull the layers anew. Containers keep what they have: the damaged files, until they are made anew."""
        if not image.digests:
            raise WrongState("it came from no registry")
        name = image.digests[0]
        await self._images.require_offer(name)  # nothing is given up before there is something better
        await step("image.repair", image.id)
        for chain_id in broken:
            await self._tars.condemn(chain_id)
        await self._images.pull(name)

    def _mended(self, failed: _Unrepaired, seen: dict[str, Verdict]) -> bool:
        whole = not any(seen[chain_id].differences for chain_id in failed.layers)
        return whole and self._images.find(failed.image.id) is not None

    def _told(self, failed: Sequence[_Unrepaired]) -> list[str]:
        """A line for each image, and what to do: a pull that failed midway has left no image to remove."""
        lines = []
        for each in failed[:_TOLD]:
            image = each.image
            remove = "remove it (sampan rmi) and " if self._images.find(image.id) else ""
            lines.append(
                f"{image.name} cannot be repaired from a registry: {each.why}; {remove}import or pull it again"
            )
        more = len(failed) - len(lines)
        return [*lines, f"and {more} more like that"] if more else lines


def _why(error: Exception) -> str:
    """The words for a person: without the first one, which is the kubelet's."""
    return str(error).removeprefix(f"{error.token}: ") if isinstance(error, Typed) else str(error)


def _record_damage(image: Image) -> tuple[str, ...]:
    """What is wrong with the record itself: its id is a hash of the config (or an artifact's manifest), which names
    the layers."""
    data = image.manifest if image.artifact else image.raw_config
    if digest_of(data) != image.id:
        return ("the stored config is not the one that the image's id names",)
    if not image.artifact:
        chain = image_config.chain_ids(image_config.parse(data, "the stored config").diff_ids)
        if chain != image.layers:
            return ("the record names other layers than the image's config",)
    return ()
