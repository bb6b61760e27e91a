"""Manifests and indexes (OCI image-spec, Docker image manifest v2 schema 2): reading them and choosing a
platform.

Not the image's config, which `wire.image_config` reads. The kind of a document is told by its own body, never
by a header, and a body that could be read two ways is refused (GHSA-5j5w-g665-5m35).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from sampan.model.errors import Invalid, NotFound
from sampan.wire import strict_json
from sampan.wire.reference import is_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))

LAYERS_LIMIT = 500
INDEX_LIMIT = 1000  # entries of an index
INDEX_DEPTH = 3  # indexes within indexes
KIND_LIMIT = 255  # characters of a media type (RFC 6838, section 4.2, allows 127 on each side of the slash)
ATTESTED = "vnd.docker.reference.type"  # BuildKit's annotation of entries that only tell about another

_MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST, ""})
_INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST, ""})
_CONFIG_TYPES = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json", ""}
)
_LAYER_TYPES = frozenset(
    {
        *(f"application/vnd.oci.image.layer.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd")),
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class Platform(msgspec.Struct, frozen=True):
    """What an image runs on, in Go's names: linux, amd64, v8."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


_ARM = tuple(Platform("linux", "arm", variant) for variant in ("v8", "v7", "v6", "v5"))
_386 = (Platform("linux", "386"),)
_PLATFORMS = {  # those that Go names otherwise than uname, and those that run others' programs too
    "x86_64": (Platform("linux", "amd64"), *_386),
    "aarch64": (Platform("linux", "arm64"), *_ARM),
    "armv8l": _ARM,
    "armv7l": _ARM[1:],
    "armv6l": _ARM[2:],
    "i386": _386,
    "i686": _386,
    "loongarch64": (Platform("linux", "loong64"),),
}


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A typed pointer to content: its digest and its exact size in bytes."""

    digest: str
    size: Size
    media_type: str = ""
    urls: tuple[str, ...] | None = None
    platform: Platform | None = None
    annotations: dict[str, str] | None = None
    artifact_type: str | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One image for one platform, or one artifact."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str = ""
    artifact_type: str | None = None

    @property
    def artifact(self) -> str:
        """What kind of artifact it is (image-spec manifest.md, "Guidelines for Artifact Usage"); "" for an image.

        One that has an image's config and an image's layers is an image, whatever else it says of itself: other
        runtimes run it.
        """
        layers = not self.artifact_type or all(layer.media_type in _LAYER_TYPES for layer in self.layers)
        if layers and self.config.media_type in _CONFIG_TYPES:
            return ""
        return (self.artifact_type or self.config.media_type)[:KIND_LIMIT]


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The same image for several platforms."""

    manifests: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str = ""


def parse(data: bytes, what: str) -> Manifest | Index:
    """The manifest or index that `data` holds, checked to the last descriptor. Raises Invalid."""
    body = strict_json.loads(data, what)
    if not isinstance(body, dict):
        raise Invalid(f"{what} is not a JSON object")
    _refuse_ambiguous(body, what)
    if "manifests" in body:
        return _index(body, what)
    return _manifest(body, what)


def choose(index: Index, machine: str, what: str) -> Descriptor:
    """The entry of `index` that suits this machine (`uname -m`) best: never an attestation, an artifact only where
    there is no image. Raises NotFound naming what there is."""
    wanted = platforms(machine)
    best: tuple[tuple[bool, int], Descriptor] | None = None
    for entry in index.manifests:
        rank = _rank(entry, wanted)
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, entry)
    if best is None:
        have = sorted({str(entry.platform) for entry in index.manifests if entry.platform is not None})
        raise NotFound(
            f"{what} has no image for {wanted[0]}; it has {', '.join(have[:20]) or 'no platforms'}"
        )
    return best[1]


def platforms(machine: str) -> tuple[Platform, ...]:
    """What a machine (`uname -m`) can run, the best first, as containerd's default platform order has it."""
    return _PLATFORMS.get(machine) or (Platform("linux", machine),)


def runs_here(platform: Platform, machine: str) -> bool:
    """Whether an image that says it is for `platform` suits the machine. What it does not say is not held
    against it."""
    if platform.os not in ("", "linux"):
        return False
    return not platform.architecture or any(_suits(platform, wanted) for wanted in platforms(machine))


def _refuse_ambiguous(body: Mapping[str, Any], what: str) -> None:
    if len({key.lower() for key in body}) != len(body):
        raise Invalid(f"{what} has keys that differ only in case")
    if body.get("schemaVersion") == 1 or "fsLayers" in body:
        raise Invalid(
            f"{what} is a Docker schema 1 manifest, a format retired in 2017: "
            "push the image again with a current tool"
        )
    if "manifests" in body and ("layers" in body or "config" in body):
        raise Invalid(f"{what} could be read as a manifest and as an index")


def _manifest(body: Mapping[str, Any], what: str) -> Manifest:
    manifest = strict_json.convert(body, Manifest, what)
    if manifest.schema_version != 2 or manifest.media_type not in _MANIFEST_TYPES:
        raise Invalid(f"{what} is no image manifest but {manifest.media_type[:120]!r}")
    if len(manifest.layers) > LAYERS_LIMIT:
        raise Invalid(f"{what} has {len(manifest.layers)} layers; the limit is {LAYERS_LIMIT}")
    _check(manifest.config, what)
    for layer in manifest.layers:
        check_blob(layer, what)
        if not manifest.artifact and layer.media_type not in _LAYER_TYPES:
            kind = layer.media_type[:120]
            raise Invalid(f"{what}: layer {layer.digest} is of type {kind!r}, which is no file system layer")
    return manifest


def _index(body: Mapping[str, Any], what: str) -> Index:
    index = strict_json.convert(body, Index, what)
    if index.schema_version != 2 or index.media_type not in _INDEX_TYPES:
        raise Invalid(f"{what} is no image index but {index.media_type[:120]!r}")
    if len(index.manifests) > INDEX_LIMIT:
        raise Invalid(f"{what} has {len(index.manifests)} entries; the limit is {INDEX_LIMIT}")
    for entry in index.manifests:
        _check(entry, what)
    return index


def _check(descriptor: Descriptor, what: str) -> None:
    if not is_digest(descriptor.digest):
        raise Invalid(f"{what} names a malformed digest {descriptor.digest[:80]!r}")


def check_blob(layer: Descriptor, what: str) -> None:
    """Refuse a blob of an image or artifact that we cannot or must not fetch."""
    _check(layer, what)
    kind = layer.media_type.lower()
    if layer.urls or "foreign" in kind or "nondistributable" in kind:
        raise Invalid(
            f"{what}: layer {layer.digest} is foreign: it is kept outside the registry, by an address that anybody may "
            "have written there, and is not fetched; push the image again with all its layers"
        )
    if kind.endswith("+encrypted"):
        raise Invalid(
            f"{what}: layer {layer.digest} is encrypted, which is not supported: there are no keys on this node; pull "
            "an image that is not, such as `skopeo copy --decryption-key KEY` makes of it"
        )
    if not layer.digest.startswith("sha256:"):
        raise Invalid(f"{what}: layer {layer.digest} is not named by a sha256 digest")


def _rank(entry: Descriptor, wanted: Sequence[Platform]) -> tuple[bool, int] | None:
    """How well it suits, the least the best. What does not say for which machine it is comes last."""
    if ATTESTED in (entry.annotations or {}) or entry.media_type not in (
        OCI_MANIFEST,
        DOCKER_MANIFEST,
        OCI_INDEX,
        DOCKER_LIST,
        "",
    ):
        return None
    artifact = bool(entry.artifact_type)
    if entry.platform is None:
        return artifact, len(wanted)
    for rank, platform in enumerate(wanted):
        if _suits(entry.platform, platform):
            return artifact, rank
    return None


def _suits(have: Platform, want: Platform) -> bool:
    return (have.os or "linux", have.architecture, _variant(have)) == (
        want.os,
        want.architecture,
        _variant(want),
    )


def _variant(platform: Platform) -> str:
    """The variant, where one is the same as saying nothing: amd64/v1, arm64/v8; plain arm is v7."""
    match platform.architecture, platform.variant:
        case ("amd64", "v1") | ("arm64", "v8" | "8"):
            return ""
        case "arm", "" | "7":
            return "v7"
        case _:
            return platform.variant


def compression(media_type: str) -> str:
    """How a layer should be compressed: gzip, zstd or none. Who reads it looks for itself: media types
    lie."""
    return next((name for name in ("gzip", "zstd") if media_type.endswith(name)), "none")
