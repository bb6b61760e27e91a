"""What images an archive holds: OCI layouts (image-spec image-layout.md) and what `docker save` writes.

Reads by a function that knows names, and touches nothing else; the files are `host.storage.archive`'s business.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from sampan.model.errors import Invalid, NotFound
from sampan.wire import manifest, reference, strict_json
from sampan.wire.image_config import CONFIG_LIMIT
from sampan.wire.manifest import INDEX_DEPTH, INDEX_LIMIT, LAYERS_LIMIT, Descriptor, Index, Manifest
from sampan.wire.strict_json import MANIFEST_LIMIT

# containerd and docker write the whole reference; others, by the spec, what they like: often only the tag.
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")

Read = Callable[
    [str, int], bytes | None
]  # (name, limit in bytes) -> content; None if absent; Invalid if larger


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: the name of its file, and what the archive promises of it: digest ("": nothing), size (-1:
    nothing), compression."""

    file: str
    digest: str = ""
    size: int = -1
    compression: str = "none"


@dataclass(frozen=True, slots=True)
class Found:
    """An image or an artifact in an archive: references in full, and the bytes of its config."""

    tags: tuple[str, ...]
    digests: tuple[str, ...]
    config: bytes
    layers: tuple[Layer, ...]
    artifact: tuple[Manifest, bytes] | None = (
        None  # of one that is no image; then it has no config and no layers
    )


class _Saved(msgspec.Struct, kw_only=True, rename="pascal"):
    """An entry of docker's manifest.json."""

    config: str
    repo_tags: tuple[str, ...] | None = None
    layers: Annotated[tuple[str, ...], msgspec.Meta(max_length=LAYERS_LIMIT)] | None = None


def images(read: Read, machine: str) -> list[Found]:
    """The images for `machine` (`uname -m`). Raises Invalid for what is neither kind of archive, or is
    damaged."""
    index = read("index.json", MANIFEST_LIMIT)
    if index is not None and read("oci-layout", MANIFEST_LIMIT) is not None:
        return _layout(read, index, machine)
    saved = read("manifest.json", MANIFEST_LIMIT)
    if saved is None:
        raise Invalid("this is no image archive: it has neither oci-layout and index.json nor manifest.json")
    entries = strict_json.decode(saved, list[_Saved], "manifest.json of the archive")
    if len(entries) > INDEX_LIMIT:
        raise Invalid(f"the archive has {len(entries)} images; the limit is {INDEX_LIMIT}")
    return [_saved(read, entry) for entry in entries]


def _saved(read: Read, entry: _Saved) -> Found:
    config = _required(read, entry.config, CONFIG_LIMIT)
    tags = tuple(reference.parse(tag).tagged for tag in entry.repo_tags or ())
    return Found(
        tuple(tag for tag in tags if tag), (), config, tuple(Layer(name) for name in entry.layers or ())
    )


def _layout(read: Read, data: bytes, machine: str) -> list[Found]:
    index = manifest.parse(data, "index.json of the archive")
    if not isinstance(index, Index):
        raise Invalid("index.json of the archive is no index")
    found = [_image(read, entry, machine) for entry in _for(index.manifests, machine)]
    if not found:
        raise NotFound(f"the archive has no image for {manifest.platforms(machine)[0]}")
    return found


def _for(entries: Sequence[Descriptor], machine: str) -> list[Descriptor]:
    """Those for this machine, and those that do not say what they are for; attestations are for no machine."""
    fitting = (
        each for each in entries if each.platform is None or manifest.runs_here(each.platform, machine)
    )
    return [entry for entry in fitting if manifest.ATTESTED not in (entry.annotations or {})]


def _image(read: Read, entry: Descriptor, machine: str) -> Found:
    chosen, raw = _choose(read, entry, machine)
    named = _named(entry.annotations or {})
    tags = (named.tagged,) if named and named.tagged else ()
    digests = (named.at(entry.digest),) if named else ()
    if chosen.artifact:
        return Found(tags, digests, b"", (), (chosen, raw))
    config = _blob(read, chosen.config, CONFIG_LIMIT)
    return Found(tags, digests, config, tuple(_layer(layer) for layer in chosen.layers))


def _layer(layer: Descriptor) -> Layer:
    return Layer(file(layer.digest), layer.digest, layer.size, manifest.compression(layer.media_type))


def _choose(read: Read, entry: Descriptor, machine: str) -> tuple[Manifest, bytes]:
    for _ in range(INDEX_DEPTH):
        what = f"manifest {entry.digest} of the archive"
        data = _blob(read, entry, MANIFEST_LIMIT)
        found = manifest.parse(data, what)
        if isinstance(found, Manifest):
            return found, data
        entry = manifest.choose(found, machine, what)
    raise Invalid(f"the archive nests indexes deeper than {INDEX_DEPTH}")


def _named(annotations: Mapping[str, str]) -> reference.Reference | None:
    """The reference an entry is annotated with; a bare tag names nothing."""
    for key in _NAME_ANNOTATIONS:
        text = annotations.get(key, "")
        if "/" in text or ":" in text:
            try:
                return reference.parse(text)
            except Invalid:
                continue
    return None


def _blob(read: Read, descriptor: Descriptor, limit: int) -> bytes:
    data = _required(read, file(descriptor.digest), limit)
    algorithm, _, wanted = descriptor.digest.partition(":")
    if len(data) != descriptor.size or hashlib.new(algorithm, data).hexdigest() != wanted:
        raise Invalid(f"blob {descriptor.digest} of the archive is damaged: its content is another")
    return data


def file(digest: str) -> str:
    """Where a layout has a blob. The digest's form has been checked: it is safe in a path."""
    return f"blobs/{digest.replace(':', '/')}"


def _required(read: Read, name: str, limit: int) -> bytes:
    data = read(name, limit)
    if data is None:
        raise Invalid(f"{name[:200]!r}, which the archive refers to, is not in it")
    return data
