"""What the use cases may ask of image stores, registries and root file systems, as protocols; the rest is in `ports`.

Each has one real implementation in `host/` and one fake in the tests. Everything that removes is idempotent.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sampan.spec.userns import Mappings
from sampan.wire.credentials import Credentials
from sampan.wire.manifest import Descriptor, Manifest
from sampan.wire.reference import Reference


@dataclass(frozen=True, slots=True)
class Usage:
    """Disk use."""

    bytes: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Filesystem:
    """What a file system can hold: bytes in all, inodes in all (0 where it makes them as it goes) and inodes free."""

    device: str
    bytes: int
    inodes: int
    inodes_free: int


@dataclass(frozen=True, slots=True)
class Staged:
    """A layer that is unpacked but not yet visible. `key` names its staging directory."""

    key: str
    blob_digest: str  # "sha256:..." of the bytes as fed (compressed)
    blob_size: int
    diff_id: str  # "sha256:..." of the uncompressed bytes
    size: int  # bytes, unpacked
    inodes: int


class Layers(Protocol):
    """Unpacked image layers, each under its chain id."""

    def has(self, chain_id: str) -> bool:
        """Whether the layer is published and whole."""

    async def unpack(self, chunks: AsyncIterator[bytes], compression: str, *, base: bool = False) -> Staged:
        """Unpack one layer; `compression` is what it should be: gzip, zstd or none. `base`: it is the lowest of its
        image. Decompression, both hashes and the unpacking happen in a child process. Raises Invalid (bad content),
        Exhausted (a budget), Lost (the child died)."""

    async def publish(self, staged: Staged, chain_id: str, lowers: Sequence[str]) -> None:
        """Make it visible over `lowers` (chain ids, lowest first, all published). Idempotent."""

    async def commit(self, chain: Sequence[str]) -> None:
        """Make these published layers durable: until then a crash forgets them. Idempotent."""

    async def discard(self, staged: Staged) -> None:
        """Drop what was staged."""

    async def remove(self, chain_id: str) -> None:
        """Remove a published layer; its space comes back soon after. Idempotent."""

    async def sweep(self, keep: Collection[str]) -> None:
        """Remove every published layer that is not in `keep`, and staging that nobody works on (at boot)."""

    async def damaged(self, chain: Sequence[str]) -> Sequence[str]:
        """Look whether these layers are still whole on disk, as far as that is soon seen; those that are found damaged
        now. From now on they are not there; what containers use of them stays."""

    async def require_room(self, size: int, what: str) -> None:
        """Raise Exhausted, naming `what` needs it, if the disk has no room for `size` more bytes of layers."""

    def size(self, chain_id: str) -> int:
        """Bytes of a published layer, unpacked."""

    async def check_root(self, chain: Sequence[str]) -> None:
        """Raise Invalid if these published layers (lowest first) make a root that no container can have: its /dev,
        /proc or /sys is there but not a real directory."""

    async def fs_usage(self) -> Usage:
        """What the store takes of the disk, staging and what is being deleted included; cached, never measured on
        request."""


@dataclass(frozen=True, slots=True)
class LayerTar:
    """What a stored layer can be had as: the uncompressed tar that it came as, or its blob if that was kept.
    `compression` is "", "+gzip" or "+zstd"."""

    digest: str
    size: int
    compression: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a stored layer compares with what was pulled: what differs; and why nothing, or not everything, could be
    compared ("" if all was)."""

    chain_id: str
    differences: tuple[str, ...]
    unknown: str = ""


class LayerTars(Protocol):
    """Stored layers, read again. The caller holds what is read."""

    async def describe(self, chain_id: str) -> LayerTar:
        """Digest and size of what `tar` gives. Raises Invalid if it cannot be rebuilt, NotFound."""

    def tar(self, chain: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """The tar of the last of these layers (lowest first), or its blob, byte for byte as it came. Raises Invalid
        if it cannot be rebuilt, Lost, perhaps at the very end, if the disk holds something else."""

    async def verify(self, chain: Sequence[str]) -> Verdict:
        """Compare the last of these layers (lowest first) with what was pulled. Raises NotFound."""

    async def condemn(self, chain_id: str) -> None:
        """Mark a damaged layer as such (`Layers.damaged`): the next pull brings it in anew, beside what is left of it,
        for a container may be using that. Idempotent."""


@dataclass(frozen=True, slots=True)
class LayerSource:
    """Where one layer's bytes come from. `digest` is "" and `size` -1 where the source does not promise them;
    `compression` is what it says: gzip, zstd or none. `settle`: the bytes are in place for good, or of no use; what was
    kept of them for another try may go."""

    digest: str
    size: int
    compression: str
    open: Callable[[], AsyncGenerator[bytes, None]]
    settle: Callable[[], Awaitable[None]] | None = None


class Repository(Protocol):
    """One repository of a registry, for the length of a pull. Raises NotFound, Denied, RegistryUnavailable, Invalid."""

    async def resolve(self, target: str) -> str | None:
        """The digest that the registry claims for a tag or digest, without fetching it; None if it does not say."""

    async def manifest(self, target: str) -> bytes:
        """The manifest or index under a tag or a digest; one asked for by digest has that digest."""

    async def read(self, blob: Descriptor, limit: int) -> bytes:
        """A small blob, digest and size checked."""

    async def referrers(self, digest: str, kind: str) -> bytes:
        """An index of what refers to a manifest. It may list others than those of artifact type `kind`, and may leave
        out some where there are very many."""

    def stream(self, blob: Descriptor) -> AsyncGenerator[bytes, None]:
        """A blob's bytes, resumed where a connection breaks, and where an earlier try ended that took long: exactly as
        many as its descriptor says, its digest unchecked."""

    async def settle(self, blob: Descriptor) -> None:
        """The blob is in place, or of no use: what was kept of it for another try may go. Idempotent."""


class Registry(Protocol):
    """Image registries."""

    def open(
        self, reference: Reference, credentials: Credentials | None
    ) -> AbstractAsyncContextManager[Repository]:
        """The repository a reference names, through the hosts that are configured for it now."""

    async def tidy(self, age: float) -> bool:
        """Forget what long downloads left for another try, where none has come for `age` seconds. Whether something is
        left."""


@dataclass(frozen=True, slots=True)
class ArchivedArtifact:
    """An artifact in an archive: its manifest, the bytes of that, and how to open one of its blobs."""

    manifest: Manifest
    raw: bytes
    open: Callable[[Descriptor], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """One image in an archive: its references in full, its config as stored, its layers, the lowest first. An artifact
    has neither of these two."""

    tags: tuple[str, ...]
    digests: tuple[str, ...]
    config: bytes
    layers: tuple[LayerSource, ...]
    artifact: ArchivedArtifact | None = None


class Archives(Protocol):
    """Image archives: OCI layouts (a directory or a tar) and what `docker save` writes, gzipped or not."""

    def open(
        self, source: Path | AsyncIterator[bytes], machine: str
    ) -> AbstractAsyncContextManager[Sequence[ArchivedImage]]:
        """The images in an archive that run on `machine` (`uname -m`). Raises Invalid, Exhausted."""


@dataclass(frozen=True, slots=True)
class IdMapped:
    """Whose root file system it is: the pod's pinned user namespace, and its maps."""

    namespace: Path
    maps: Mappings


@dataclass(frozen=True, slots=True)
class ImageMount:
    """An image that a container's mount shows. `number` is the mount's in the request, `layers` are the image's
    chain ids, the lowest first; `sub_path` a directory in it, "" for all of it."""

    number: int
    layers: tuple[str, ...]
    sub_path: str = ""


class Volumes(Protocol):
    """What containers mount beside their root: images, directories of their own for their image's VOLUMEs, and what
    must be so with the host's directories before they are mounted."""

    async def show(self, id: str, image: ImageMount, users: IdMapped | None = None, label: str = "") -> str:
        """Mount an image read-only for container `id`, whose root is prepared; the path to bind into it, sub path
        and links resolved. With `users` it shows the ids of that namespace, with `label` all files have that SELinux
        label. Raises ImageVolumeMountFailed."""

    async def make(
        self, id: str, root: Path, volumes: Sequence[str], users: IdMapped | None = None
    ) -> dict[str, str]:
        """A directory for each of these places of the prepared `root`, with what the image has there, before any
        process runs in it: host directories by the canonical place in the root. Root (of `users`) owns those that
        the image does not have. They count in `Rootfs.usage`, go with `Rootfs.remove`. Raises Invalid, Exhausted."""

    async def check_idmaps(self, paths: Sequence[str], users: IdMapped) -> None:
        """Raise Invalid naming the mount and its file system if one of these host paths cannot be mounted with the ids
        of this namespace."""

    async def relabel(self, paths: Sequence[str], label: str, seconds: float) -> None:
        """Give these trees an SELinux label, but those whose top has it; no path has a link in it. Raises Unavailable
        past `seconds`."""

    async def remove(self, id: str) -> None:
        """Unmount what `show` mounted for the container. Idempotent."""

    async def sweep(self, keep: Collection[str]) -> None:
        """At boot: unmount what was shown to containers that are not in `keep`."""


class Rootfs(Protocol):
    """A container's root: image layers below, its own writable layer on top."""

    async def prepare(
        self, id: str, layers: Sequence[str], users: IdMapped | None = None, label: str = ""
    ) -> Path:
        """Mount the overlay for container `id` over these chain ids (lowest first); returns the merged root. With
        `users` its files belong to the ids of that namespace, with `label` all have that SELinux label. Refuses
        (Invalid) a root whose /dev, /proc or /sys is there but not a real directory."""

    async def remove(self, id: str) -> None:
        """Unmount and delete the container's layer. Idempotent."""

    async def usage(self, id: str) -> Usage:
        """What the container has written."""

    async def filesystem(self) -> Filesystem:
        """Where all containers write."""

    async def read(self, root: Path, path: str, limit: int) -> bytes | None:
        """A regular file of the image, resolved inside `root`; None if absent. Invalid if it is special or larger."""
