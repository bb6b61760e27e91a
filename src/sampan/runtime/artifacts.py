"""OCI artifacts: files from a registry that containers mount, held as images of one layer that has nothing else.

The layer is written by the same child as any other, under the same limits, from an archive that is made while the blobs
arrive. Each blob is held against its digest before the archive goes on, so one that is not what was promised never
becomes a layer.
"""

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from sampan.model.errors import Invalid
from sampan.model.image import Image, ImageConfig
from sampan.runtime.image_ports import LayerSource
from sampan.runtime.pull import Wanted
from sampan.runtime.state import now
from sampan.wire import artifact
from sampan.wire.artifact import File
from sampan.wire.manifest import Descriptor, Manifest
from sampan.wire.reference import digest_of

Open = Callable[[Descriptor], AsyncGenerator[bytes, None]]
Settle = Callable[[Descriptor], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact that is to be brought in: the image it will be, but for its size, and its layer."""

    image: Image
    layer: Wanted


def found(manifest: Manifest, raw: bytes, what: str, open: Open, settle: Settle | None = None) -> Artifact:
    """The artifact of a manifest, whose bytes are `raw`; `open` gives the content of a blob, `settle` lets go of what
    was kept of one. Raises Invalid."""
    files = artifact.files(manifest, what)
    chain_id = artifact.chain_id(files)
    # What an archive will be like is known to the byte, but not its hash: nothing is promised of that.
    source = LayerSource(
        "",
        artifact.archive_size(files),
        "none",
        partial(archive, files, open),
        settle and partial(_settle, manifest.layers, settle),
    )
    image = Image(
        id=digest_of(raw),
        config=ImageConfig(),
        layers=(chain_id,),
        created_at=now(),
        artifact=manifest.artifact,
        manifest=raw,
    )
    return Artifact(image, Wanted(chain_id, "", source))


def check_runnable(image: Image, name: str) -> None:
    """Raise Invalid if no container can be made of what is called `name`."""
    if image.artifact:
        raise Invalid(
            f"image {name!r} is an OCI artifact ({image.artifact!r}): files without a program to run; mount it in a "
            "container of another image, as a volume of type image"
        )


async def archive(files: Sequence[File], open: Open) -> AsyncGenerator[bytes, None]:
    """The archive of these files. Raises Invalid before its end if a blob is not what its descriptor says."""
    for before, blob, after in artifact.members(files):
        yield before
        if blob is not None:
            async with aclosing(_checked(blob, open)) as pieces:
                async for piece in pieces:
                    yield piece
        if after:
            yield after


async def _settle(blobs: Sequence[Descriptor], settle: Settle) -> None:
    for blob in blobs:
        await settle(blob)


async def _checked(blob: Descriptor, open: Open) -> AsyncGenerator[bytes, None]:
    size, content = 0, hashlib.sha256()
    if blob.size:  # there is nothing to ask for otherwise
        async with aclosing(open(blob)) as pieces:
            async for piece in pieces:
                size += len(piece)
                if size > blob.size:
                    raise Invalid(
                        f"blob {blob.digest} has more than the {blob.size} bytes that its manifest says"
                    )
                content.update(piece)
                yield piece
    if size != blob.size:
        raise Invalid(f"blob {blob.digest} has {size} bytes; its manifest says {blob.size}")
    if "sha256:" + content.hexdigest() != blob.digest:
        raise Invalid(
            f"blob {blob.digest} arrived as other content: its digest is sha256:{content.hexdigest()}"
        )
