"""A layer store in memory: the port `Layers`, hashing and decompressing for real but keeping only what it
counted."""

import hashlib
import io
import tarfile
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import zstandard

from sampan.model.errors import Exhausted, Invalid
from sampan.runtime.image_ports import Staged, Usage


class FakeLayers:
    """What was published, staged and discarded. `failing` is called with a step's name before the step."""

    def __init__(self) -> None:
        self.published: dict[str, Staged] = {}
        self.lowers: dict[str, tuple[str, ...]] = {}
        self.roots: dict[
            str, dict[str, bool]
        ] = {}  # what is in a layer's root, and whether it is a directory
        self.durable: set[str] = set()
        self.staged: set[str] = set()
        self.plain: dict[str, bytes] = {}  # the tars
        self.unpacked = 0
        self.lost: set[str] = set()  # published and damaged, which nobody has noticed yet
        self.room = 1 << 60
        self.failing: Callable[[str], None] = lambda step: None

    def has(self, chain_id: str) -> bool:
        return chain_id in self.published

    async def unpack(self, chunks: AsyncIterator[bytes], compression: str, *, base: bool = False) -> Staged:
        self.failing("unpack")
        data = b"".join([chunk async for chunk in chunks])
        plain = decompress(data, compression)
        try:
            with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
                members = tar.getmembers()
        except tarfile.TarError as error:
            raise Invalid(f"layer is no tar: {error}") from None
        self.unpacked += 1
        key = f"staged-{self.unpacked}"
        self.staged.add(key)
        self.roots[key] = {member.name.strip("./"): member.isdir() for member in members}
        size = sum(member.size for member in members)
        self.plain[key] = plain
        return Staged(key, sha256(data), len(data), sha256(plain), size, len(members))

    async def publish(self, staged: Staged, chain_id: str, lowers: Sequence[str]) -> None:
        self.failing("publish")
        assert all(lower in self.published for lower in lowers), "published over a layer that is not there"
        assert staged.key in self.staged
        self.staged.discard(staged.key)
        self.published[chain_id] = staged
        self.lowers[chain_id] = tuple(lowers)
        self.roots[chain_id] = self.roots[staged.key]
        self.plain[chain_id] = self.plain[staged.key]

    async def commit(self, chain: Sequence[str]) -> None:
        self.failing("commit")
        assert all(chain_id in self.published for chain_id in chain), "committed before it is published"
        self.durable |= set(chain)

    async def discard(self, staged: Staged) -> None:
        self.staged.discard(staged.key)

    async def remove(self, chain_id: str) -> None:
        above = [id for id, lowers in self.lowers.items() if chain_id in lowers and id in self.published]
        assert not above, "removed from under another layer"
        self.published.pop(chain_id, None)
        self.durable.discard(chain_id)

    def crash(self) -> None:
        """What the next start finds is what was durable."""
        self.published = {
            chain_id: staged for chain_id, staged in self.published.items() if chain_id in self.durable
        }
        self.staged.clear()

    async def sweep(self, keep: Collection[str]) -> None:
        for chain_id in set(self.published) - set(keep):
            del self.published[chain_id]
        self.staged.clear()

    async def damaged(self, chain: Sequence[str]) -> Sequence[str]:
        found = [chain_id for chain_id in chain if chain_id in self.lost and chain_id in self.published]
        for chain_id in found:
            self.lost.discard(chain_id)
            del self.published[chain_id]
        return found

    async def require_room(self, size: int, what: str) -> None:
        if size > self.room:
            raise Exhausted(f"{what} needs {size} bytes; {self.room} are free")

    async def check_root(self, chain: Sequence[str]) -> None:
        """A directory is what tarfile says of the highest layer that has the name; no whiteouts here."""
        for name in ("dev", "proc", "sys"):
            said = [self.roots[chain_id][name] for chain_id in chain if name in self.roots[chain_id]]
            if said and not said[-1]:
                raise Invalid(f"the image's /{name} is not a directory, so no container can be made from it")

    def size(self, chain_id: str) -> int:
        return self.published[chain_id].size

    async def fs_usage(self) -> Usage:
        layers = self.published.values()
        return Usage(sum(layer.size for layer in layers), sum(layer.inodes for layer in layers))


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def decompress(data: bytes, stated: str) -> bytes:
    """As the real one does: what it is counts, not what it is called, and damage is Invalid."""
    if stated != "none" and not data:
        raise Invalid("layer is empty")
    try:
        if data.startswith(b"\x1f\x8b"):
            inflate = zlib.decompressobj(31)
            plain = inflate.decompress(data)
            if not inflate.eof or inflate.unused_data:
                raise Invalid("layer's gzip frame is cut short or followed by something else")
            return plain
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            return zstandard.ZstdDecompressor().decompress(data)
    except (zlib.error, zstandard.ZstdError) as error:
        raise Invalid(f"layer's compression is damaged: {error}") from None
    return data
