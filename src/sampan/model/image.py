"""The Image record, and what an image's config promises a container."""

import msgspec


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


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose layers are all unpacked.

    `id` is the digest of its config ("sha256:<64 hex>"), `layers` the chain ids from the lowest to the
    highest, `size` the unpacked size in bytes, `created_at` when it was pulled in ns since the epoch. `tags`
    and `digests` are references in full, sorted. `removed` is set where it was removed while containers still
    use its layers: it is then no longer listed or found, and goes with the last of them.
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
