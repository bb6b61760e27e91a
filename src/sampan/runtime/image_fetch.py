"""What a reference means at a registry: the manifest for this machine, the config, the layers to fetch. Not
their bytes: `runtime.pull` brings those in.
"""

from dataclasses import dataclass

from sampan.model.errors import Invalid
from sampan.model.image import Signature
from sampan.runtime import artifacts
from sampan.runtime.artifacts import Artifact
from sampan.runtime.image_ports import LayerSource, Repository
from sampan.wire import image_config, manifest
from sampan.wire.manifest import INDEX_DEPTH, Descriptor, Manifest
from sampan.wire.reference import Reference, digest_of


@dataclass(frozen=True, slots=True)
class Content:
    """What an image consists of, and the names it is to have. An artifact has no config, and its layer is in it."""

    config: bytes
    layers: tuple[LayerSource, ...]
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    artifact: Artifact | None = None
    signatures: tuple[Signature, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """The document under a reference: its bytes and their digest. An index has the digest, not the manifest in it."""

    wanted: Reference
    data: bytes
    digest: str


async def named(wanted: Reference, repository: Repository) -> Named:
    """Ask the registry what `wanted` means now."""
    data = await repository.manifest(wanted.target)
    return Named(wanted, data, wanted.digest or digest_of(data))


async def content(what: Named, machine: str, repository: Repository) -> Content:
    """The image, or else the artifact, for `machine` (`uname -m`) under that document. Raises Invalid, NotFound."""
    wanted = what.wanted
    found, raw = await _choose(what, machine, repository)
    if found.artifact:
        artifact = artifacts.found(found, raw, str(wanted), repository.stream, repository.settle)
        return Content(b"", (), tags_of(wanted), (wanted.at(what.digest),), artifact)
    if not found.config.digest.startswith("sha256:"):
        raise Invalid(f"{wanted} names its config by {found.config.digest[:80]!r}, not by a sha256 digest")
    config = await repository.read(found.config, image_config.CONFIG_LIMIT)
    layers = tuple(_remote(repository, layer) for layer in found.layers)
    return Content(config, layers, tags_of(wanted), (wanted.at(what.digest),))


def tags_of(wanted: Reference) -> tuple[str, ...]:
    """A pull by digest neither makes nor moves a tag."""
    return (wanted.tagged,) if wanted.tagged else ()


async def _choose(named: Named, machine: str, repository: Repository) -> tuple[Manifest, bytes]:
    """The manifest for this machine and its bytes, through as many indexes as there may be."""
    what, data = str(named.wanted), named.data
    for _ in range(INDEX_DEPTH):
        found = manifest.parse(data, what)
        if isinstance(found, Manifest):
            return found, data
        chosen = manifest.choose(found, machine, what)
        data = await repository.manifest(chosen.digest)
        if len(data) != chosen.size:
            raise Invalid(
                f"{what}: manifest {chosen.digest} has {len(data)} bytes, its index says {chosen.size}"
            )
    raise Invalid(f"{what} nests indexes deeper than {INDEX_DEPTH}")


def _remote(repository: Repository, layer: Descriptor) -> LayerSource:
    return LayerSource(
        layer.digest,
        layer.size,
        manifest.compression(layer.media_type),
        lambda: repository.stream(layer),
        lambda: repository.settle(layer),
    )
