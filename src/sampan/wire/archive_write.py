"""The small files of an image archive that we write: an OCI layout (image-spec image-layout.md) that also is what
`docker save` writes. The layers stand in it as whatever they are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from sampan.wire.image_config import parse
from sampan.wire.reference import digest_of

BLOCK = 512
END = bytes(2 * BLOCK)
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"  # with "+gzip" and the like behind it
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_OCTAL_LIMIT = 1 << 33  # bytes of a file whose size fits in the header's octal digits


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer as it will stand in the archive."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Exported:
    """An image: its config as stored, its tags in full, its layers, the lowest first."""

    config: bytes
    tags: Sequence[str]
    layers: Sequence[Blob]


def place(digest: str) -> str:
    """Where in the archive a blob is."""
    return f"blobs/{digest.replace(':', '/')}"


def files(images: Iterable[Exported]) -> dict[str, bytes]:
    """All files of the archive but the layers, by name."""
    entries: list[dict[str, object]] = []
    saved: list[dict[str, object]] = []
    blobs: dict[str, bytes] = {}
    for image in images:
        manifest = _manifest(image)
        blobs[place(digest_of(image.config))] = image.config
        blobs[place(digest_of(manifest))] = manifest
        entries += _index_entries(image, manifest)
        saved.append(
            {
                "Config": place(digest_of(image.config)),
                "RepoTags": list(image.tags),
                "Layers": [place(layer.digest) for layer in image.layers],
            }
        )
    index = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": entries}
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": msgspec.json.encode(index),
        "manifest.json": msgspec.json.encode(saved),
        **blobs,
    }


def _manifest(image: Exported) -> bytes:
    layers = [
        {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size} for layer in image.layers
    ]
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": {
                "mediaType": _CONFIG_TYPE,
                "digest": digest_of(image.config),
                "size": len(image.config),
            },
            "layers": layers,
        }
    )


def _index_entries(image: Exported, manifest: bytes) -> list[dict[str, object]]:
    """One for each tag; one without a name where there is none."""
    platform = parse(image.config, "the image's config").platform
    described: dict[str, object] = {
        "mediaType": _MANIFEST_TYPE,
        "digest": digest_of(manifest),
        "size": len(manifest),
    }
    if platform.os and platform.architecture:
        stated = {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}
        described["platform"] = {key: value for key, value in stated.items() if value}
    names = [
        {"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag.rpartition(":")[2]}
        for tag in image.tags
    ]
    return [{**described, "annotations": name} for name in names] or [described]


def header(name: str, size: int) -> bytes:
    """The tar header of a file in the archive (POSIX ustar; the size in base 256 where octal digits do not do)."""
    octal = b"%011o\0" % size if size < _OCTAL_LIMIT else b"\x80" + size.to_bytes(11, "big")
    block = b"".join(
        (
            name.encode().ljust(100, b"\0"),
            b"0000644\0" + b"0000000\0" * 2,
            octal,
            b"00000000000\0",
            b" " * 8,
            b"0".ljust(101, b"\0"),
            b"ustar\x0000",
        )
    ).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
