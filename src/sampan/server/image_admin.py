"""Sampan's own image service (api/sampan.proto): pulls that show their progress, imports and exports, pruning,
verification.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from sampan.api import sampan_pb2 as api
from sampan.api import sampan_pb2_grpc as rpc
from sampan.model.image import Image
from sampan.runtime.image_check import Checked, Verify
from sampan.runtime.image_export import Export
from sampan.runtime.image_ports import LayerTars
from sampan.runtime.images import Images
from sampan.runtime.prune import Pruned
from sampan.runtime.pull import Progress
from sampan.wire import credentials

PACE_SECONDS = 0.05  # between two looks at how a pull goes: more often than that nobody reads


class ImageAdmin(rpc.ImagesServicer):
    """The interceptor turns what these raise into codes."""

    def __init__(self, images: Images, tars: LayerTars) -> None:
        self._images = images
        self._export = Export(images, tars)
        self._verify = Verify(images, tars)

    async def Pull(self, request: api.PullRequest, _: object) -> AsyncIterator[api.PullProgress]:
        watch = _Watch()
        pulling = asyncio.create_task(self._pull(request, watch))
        try:  # no TaskGroup: that takes a reader who leaves for a failure
            async for progress in watch:
                yield _message(progress)
        finally:
            pulling.cancel()
            await asyncio.wait({pulling})
        yield api.PullProgress(image_id=watch.image().id)

    async def _pull(self, request: api.PullRequest, watch: "_Watch") -> None:
        try:
            auth = credentials.from_cri(request.auth)
            watch.end(await self._images.pull(request.image, auth, watch.note))
        except Exception as error:  # noqa: BLE001 - raised where the answers are made
            watch.end(error)

    async def Import(
        self, chunks: AsyncIterator[api.ImportChunk], _: object
    ) -> AsyncIterator[api.ImportResult]:
        for image in await self._images.import_archive(_data(chunks)):
            yield api.ImportResult(image_id=image.id, tags=image.tags)

    async def Prune(self, request: api.PruneRequest, _: object) -> api.PruneResponse:
        pruned = await self._images.prune.run(everything=request.all, dry=request.dry_run)
        return api.PruneResponse(images=map(_pruned, pruned))

    async def Export(self, request: api.ExportRequest, _: object) -> AsyncIterator[api.ExportChunk]:
        async with aclosing(self._export.stream(request.images)) as pieces:
            async for piece in pieces:
                yield api.ExportChunk(data=piece)

    async def Verify(self, request: api.VerifyRequest, _: object) -> AsyncIterator[api.VerifyResult]:
        async with aclosing(self._verify.run(request.images, repair=request.repair)) as found:
            async for checked in found:
                yield _checked(checked)


class _Watch:
    """The news of one pull since the last look, one piece for each layer; then how it ended."""

    def __init__(self) -> None:
        self._news: dict[str, Progress] = {}
        self._changed = asyncio.Event()
        self._end: Image | Exception | None = None

    def note(self, progress: Progress) -> None:
        self._news[progress.layer] = progress
        self._changed.set()

    def end(self, end: Image | Exception) -> None:
        self._end = end
        self._changed.set()

    def image(self) -> Image:
        """The image that was pulled, or raise why it was not. Only at the end."""
        if not isinstance(self._end, Image):
            raise self._end or asyncio.CancelledError
        return self._end

    async def __aiter__(self) -> AsyncIterator[Progress]:
        while self._end is None:
            await self._changed.wait()
            self._changed.clear()
            news, self._news = self._news, {}
            for progress in news.values():
                yield progress
            if self._end is None:
                await asyncio.sleep(PACE_SECONDS)
        for progress in self._news.values():
            yield progress


def _message(progress: Progress) -> api.PullProgress:
    return api.PullProgress(
        layer=progress.layer, done=progress.done, total=progress.total, ready=progress.ready
    )


def _pruned(gone: Pruned) -> api.PrunedImage:
    image = gone.image
    return api.PrunedImage(image_id=image.id, names=[*image.tags, *image.digests], bytes=gone.bytes)


def _checked(checked: Checked) -> api.VerifyResult:
    image = checked.image
    return api.VerifyResult(
        image_id=image.id,
        names=(*image.tags, *image.digests),
        number=checked.number,
        count=checked.count,
        layer=checked.layer,
        differences=checked.differences,
        unknown=checked.unknown,
        repaired=checked.repaired,
    )


async def _data(chunks: AsyncIterator[api.ImportChunk]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk.data
