"""The signatures that a registry has of an image, in both forms of cosign (`wire.sigstore`). Whether they prove
anything is `runtime.trust`'s to judge.

One that cannot be read does not hide the others: what is wrong with it is noted.
"""

from collections.abc import AsyncGenerator, Callable

from sampan.model.errors import Invalid, NotFound
from sampan.model.image import Signature
from sampan.runtime.image_ports import Repository
from sampan.wire import sigstore
from sampan.wire.manifest import Descriptor

Note = Callable[[str], None]


async def attached(repository: Repository, digest: str, note: Note) -> AsyncGenerator[Signature, None]:
    """Those under the tag beside the image. Raises what repositories do but NotFound."""
    tag = sigstore.tag(digest)
    try:
        entries = sigstore.attached(await repository.manifest(tag), tag)
    except NotFound:
        return
    except Invalid as error:
        note(str(error))
        return
    payloads: dict[str, bytes] = {}  # several keys sign one payload
    for blob, signature in entries:
        payload = payloads.get(blob.digest)
        if payload is None:
            payload = await _read(repository, blob, sigstore.PAYLOAD_LIMIT, note)
            if payload is None:
                continue
            payloads[blob.digest] = payload
        yield Signature(digest=digest, form=sigstore.SIMPLE, payload=payload, signature=signature)


async def bundled(repository: Repository, digest: str, note: Note) -> AsyncGenerator[Signature, None]:
    """Those in bundles that refer to the image. Raises what repositories do but NotFound."""
    try:
        index = await repository.referrers(digest, sigstore.BUNDLE_TYPE)
        entries = sigstore.bundles(index, f"the referrers of {digest}")
    except NotFound:
        return
    except Invalid as error:
        note(str(error))
        return
    for entry in entries:
        what = f"the bundle {entry}"
        try:
            blob = sigstore.bundle_blob(await repository.manifest(entry), what)
        except (Invalid, NotFound) as error:
            note(str(error))
            continue
        data = await _read(repository, blob, sigstore.BUNDLE_LIMIT, note)
        if data is not None:
            try:
                yield sigstore.from_bundle(data, digest, what)
            except Invalid as error:
                note(str(error))


async def _read(repository: Repository, blob: Descriptor, limit: int, note: Note) -> bytes | None:
    try:
        return await repository.read(blob, limit)
    except (Invalid, NotFound) as error:
        note(str(error))
        return None
