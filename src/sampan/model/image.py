"""The Image record, and what an image's config promises a container."""

import msgspec

# The annotation of an artifact in the answers of ListImages and ImageStatus.
ARTIFACT_TYPE = "sampan/artifact-type"


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an OCI image config that shapes a container (image-spec config.md). All of it is
    untrusted."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: dict[str, str] = {}
    exposed_ports: tuple[str, ...] = ()


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody signed about the manifest or index `digest`, as it was fetched: whose key it is, and whether that
    key counts, is judged at each use (`runtime.trust`). `form` is "simple" (cosign's payload) or "dsse" (an in-toto
    statement)."""

    digest: str
    form: str
    payload: bytes
    signature: bytes


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose layers are all unpacked.

    `id` is the digest of its config ("sha256:<64 hex>"), `layers` the chain ids from the lowest to the
    highest, `size` the unpacked size in bytes, `created_at` when it was pulled in ns since the epoch. `tags`
    and `digests` are references in full, sorted. `removed` is set where it was removed while containers still
    use its layers: it is then no longer listed or found, and goes with the last of them.

    `artifact` is the media type of an OCI artifact, "" for an image that containers can run. An artifact has no
    config: its `id` is the digest of its `manifest`, whose bytes only an artifact's record has.
    """

    id: str
    config: ImageConfig
    layers: tuple[str, ...]
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size: int = 0
    architecture: str = ""
    created_at: int = 0
    pinned: bool = False
    removed: bool = False
    raw_config: bytes = b""
    artifact: str = ""
    manifest: bytes = b""
    signatures: tuple[Signature, ...] = ()

    @property
    def name(self) -> str:
        """What people know it by: a tag, else a digest, else its id."""
        return next(iter((*self.tags, *self.digests)), self.id)
