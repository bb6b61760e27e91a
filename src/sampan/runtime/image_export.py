"""`sampan export`: images of this node as an archive, streamed. Every layer stands in it as the very bytes that its
image's config promises, so it makes the same image wherever it is imported.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from sampan.model.errors import Invalid, NotFound
from sampan.model.image import Image
from sampan.runtime.image_ports import LayerTar, LayerTars
from sampan.runtime.images import Images
from sampan.tasks import step
from sampan.wire.archive_write import BLOCK, END, LAYER_TYPE, Blob, Exported, files, header, place


def chosen(images: Images, words: Sequence[str]) -> list[Image]:
    """The images that `words` name, each once. Raises NotFound, Invalid."""
    found: dict[str, Image] = {}
    for word in words:
        image = images.find(word)
        if image is None:
            raise NotFound(f"there is no image {word[:200]!r}")
        found[image.id] = image
    return list(found.values())


@contextmanager
def held(images: Images, which: Sequence[Image]) -> Iterator[None]:
    """Keep these images, and so their layers, for the length of a `with`."""
    for image in which:
        images.hold(image.id)
    try:
        yield
    finally:
        for image in which:
            images.release(image.id)


class Export:
    """Images as one archive. A damaged one is never ended well: whoever reads the stream gets an error."""

    def __init__(self, images: Images, tars: LayerTars) -> None:
        self._images = images
        self._tars = tars

    async def stream(self, words: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """The archive in pieces. Raises NotFound, Invalid before the first; Lost in the middle, at a damaged layer."""
        which = chosen(self._images, words)
        with held(self._images, which):
            await step("image.export", ",".join(image.id for image in which))
            layers = await self._layers(which)
            small = files([_exported(image, layers) for image in which])
            for name, data in small.items():
                yield header(name, len(data)) + data + bytes(-len(data) % BLOCK)
            written: set[str] = set()
            for image in which:
                for place_, chain_id in enumerate(image.layers):
                    layer = layers[chain_id]
                    if layer.digest not in written:
                        written.add(layer.digest)
                        async with aclosing(self._layer(layer, image.layers[: place_ + 1])) as pieces:
                            async for piece in pieces:
                                yield piece
            yield END

    async def _layers(self, which: Sequence[Image]) -> dict[str, LayerTar]:
        """What each layer will be in the archive, by chain id."""
        found: dict[str, LayerTar] = {}
        for image in which:
            if image.artifact:
                raise Invalid(
                    f"{image.name} is an artifact ({image.artifact}), no image: it cannot be exported"
                )
            for number, chain_id in enumerate(image.layers, 1):
                if chain_id not in found:
                    try:
                        found[chain_id] = await self._tars.describe(chain_id)
                    except Invalid as error:
                        raise Invalid(
                            f"{image.name} cannot be exported: its layer {number}: {error}"
                        ) from None
        return found

    async def _layer(self, layer: LayerTar, chain: Sequence[str]) -> AsyncGenerator[bytes, None]:
        yield header(place(layer.digest), layer.size)
        async with aclosing(self._tars.tar(chain)) as pieces:
            async for piece in pieces:
                yield piece
        yield bytes(-layer.size % BLOCK)


def _exported(image: Image, layers: dict[str, LayerTar]) -> Exported:
    found = [layers[chain_id] for chain_id in image.layers]
    blobs = [Blob(LAYER_TYPE + layer.compression, layer.digest, layer.size) for layer in found]
    return Exported(image.raw_config, image.tags, blobs)
