"""The CRI ImageService: one short method per RPC: unpack, one use case, pack."""

from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from sampan.api import cri_pb2 as cri
from sampan.api import cri_pb2_grpc as rpc
from sampan.model.errors import Invalid
from sampan.runtime.image_ports import Usage
from sampan.runtime.images import Images
from sampan.runtime.state import now
from sampan.server import image_convert
from sampan.server.stream_rpcs import in_parts
from sampan.wire import credentials


@dataclass(frozen=True, slots=True)
class Disk:
    """Where image layers and containers' writable layers lie, and what containers have written there (as last
    measured: the kubelet asks often)."""

    layers: Path
    writable: Path
    written: Callable[[], Usage]


class ImageService(rpc.ImageServiceServicer):
    """The interceptor turns what these raise into codes."""

    def __init__(self, images: Images, handlers: Collection[str], disk: Disk) -> None:
        """`handlers` are the runtime handlers there are."""
        self._images = images
        self._handlers = frozenset(handlers)
        self._disk = disk

    async def ListImages(self, request: cri.ListImagesRequest, _: object) -> cri.ListImagesResponse:
        found = self._images.list(request.filter.image.image)
        return cri.ListImagesResponse(images=[image_convert.image(one) for one in found])

    async def StreamImages(
        self, request: cri.StreamImagesRequest, _: object
    ) -> AsyncIterator[cri.StreamImagesResponse]:
        found = self._images.list(request.filter.image.image)
        async for part in in_parts(image_convert.image(one) for one in found):
            yield cri.StreamImagesResponse(images=part)

    async def ImageStatus(self, request: cri.ImageStatusRequest, _: object) -> cri.ImageStatusResponse:
        """An image that is unknown, or asked for ambiguously, is an empty answer: an error stops the pod for
        good."""
        found = self._images.list(request.image.image) if request.image.image else ()
        if not found:
            return cri.ImageStatusResponse()
        info = image_convert.image_info(found[0]) if request.verbose else {}
        return cri.ImageStatusResponse(image=image_convert.image(found[0]), info=info)

    async def PullImage(self, request: cri.PullImageRequest, _: object) -> cri.PullImageResponse:
        if request.image.runtime_handler and request.image.runtime_handler not in self._handlers:
            known = ", ".join(sorted(self._handlers))
            raise Invalid(
                f"no runtime handler {request.image.runtime_handler!r} is configured; there is {known}"
            )
        pulled = await self._images.pull(request.image.image, credentials.from_cri(request.auth))
        return cri.PullImageResponse(image_ref=pulled.id)

    async def RemoveImage(self, request: cri.RemoveImageRequest, _: object) -> cri.RemoveImageResponse:
        if not request.image.image:
            raise Invalid("RemoveImage names no image")
        await self._images.remove(request.image.image)
        return cri.RemoveImageResponse()

    async def ImageFsInfo(self, request: cri.ImageFsInfoRequest, _: object) -> cri.ImageFsInfoResponse:
        layers = image_convert.filesystem(await self._images.fs_info(), str(self._disk.layers), now())
        written = image_convert.filesystem(self._disk.written(), str(self._disk.writable), now())
        return cri.ImageFsInfoResponse(image_filesystems=[layers], container_filesystems=[written])
