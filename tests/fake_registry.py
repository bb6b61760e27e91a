"""A registry in memory: the port `Registry`, honest unless a test replaces what it holds."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from sampan.model.errors import NotFound
from sampan.wire.credentials import Credentials
from sampan.wire.manifest import Descriptor
from sampan.wire.reference import Reference
from tests import images
from tests.signing import Signatures

PIECE = 4096


class FakeRegistry:
    """`asked` are the requests so far; `failing` maps a digest or tag to what a request for it raises."""

    def __init__(self) -> None:
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.credentials: list[Credentials | None] = []
        self.failing: dict[str, Exception] = {}
        self.gates: dict[str, asyncio.Event] = {}  # a blob that has one is not sent until it is set
        self.arrived: dict[str, asyncio.Event] = {}  # set when a gated blob is asked for
        self.claims = True  # whether it tells the digest of a tag
        self.left: set[str] = (
            set()
        )  # digests of blobs of which something was kept, as if all downloads were slow
        self.in_use: Counter[str] = Counter()
        self.streaming = 0
        self.most_streaming = 0

    def push(self, one: images.Image, *names: str) -> None:
        """Hold an image under names such as "docker.io/library/app:v1"."""
        self.blobs |= one.blobs
        self.push_manifest(one.manifest, *names)

    def push_manifest(self, data: bytes, *names: str) -> None:
        for name in names:
            repository = name.rpartition(":")[0]
            self.manifests[f"{repository}@{images.sha256(data)}"] = data
            self.manifests[name] = data

    def attach(self, repository: str, signatures: Signatures) -> None:
        """Hold what was signed, beside the images of a repository such as "docker.io/library/app"."""
        self.blobs |= signatures.blobs
        for tag, data in signatures.manifests:
            self.manifests[f"{repository}@{images.sha256(data)}"] = data
            if tag:
                self.manifests[f"{repository}:{tag}"] = data

    def gate(self, digest: str) -> asyncio.Event:
        self.arrived[digest] = asyncio.Event()
        return self.gates.setdefault(digest, asyncio.Event())

    def count(self, kind: str) -> int:
        return sum(asked.startswith(kind) for asked in self.asked)

    @asynccontextmanager
    async def open(
        self, reference: Reference, credentials: Credentials | None
    ) -> "AsyncIterator[FakeRepository]":
        self.credentials.append(credentials)
        yield FakeRepository(self, reference)

    async def tidy(self, age: float) -> bool:
        self.asked.append(f"tidy {age:g}")
        if age < 0:
            self.left &= self.in_use.keys()
        return bool(self.left)


class FakeRepository:
    def __init__(self, registry: FakeRegistry, reference: Reference) -> None:
        self._registry = registry
        self._name = reference.name

    async def resolve(self, target: str) -> str | None:
        data = await self._manifest("resolve", target)
        return images.sha256(data) if self._registry.claims else None

    async def manifest(self, target: str) -> bytes:
        return await self._manifest("manifest", target)

    async def _manifest(self, verb: str, target: str) -> bytes:
        self._ask(verb, target)
        await asyncio.sleep(0)
        joint = "@" if target.startswith("sha256:") else ":"
        try:
            return self._registry.manifests[f"{self._name}{joint}{target}"]
        except KeyError:
            raise NotFound(f"{self._name}: no manifest {target}") from None

    async def read(self, blob: Descriptor, limit: int) -> bytes:
        self._ask("read", blob.digest)
        await asyncio.sleep(0)
        return self._blob(blob.digest)

    async def referrers(self, digest: str, kind: str) -> bytes:
        self._ask("referrers", digest)
        await asyncio.sleep(0)
        own = [data for name, data in self._registry.manifests.items() if name.startswith(f"{self._name}@")]
        referring = [data for data in own if b'"subject"' in data]
        found = [data for data in referring if json.loads(data)["subject"]["digest"] == digest]
        if not found:
            raise NotFound(f"{self._name}: nothing refers to {digest}")
        return images.referrers(found)

    async def stream(self, blob: Descriptor) -> AsyncGenerator[bytes, None]:
        self._ask("stream", blob.digest)
        registry = self._registry
        registry.streaming += 1
        registry.left.add(blob.digest)
        registry.in_use[blob.digest] += 1
        registry.most_streaming = max(registry.most_streaming, registry.streaming)
        try:
            if blob.digest in registry.gates:
                registry.arrived[blob.digest].set()
                await registry.gates[blob.digest].wait()
            data = self._blob(blob.digest)
            for offset in range(0, len(data), PIECE):
                await asyncio.sleep(0)
                yield data[offset : offset + PIECE]
        finally:
            registry.streaming -= 1
            registry.in_use[blob.digest] -= 1
            registry.in_use += Counter()  # none of zero

    async def settle(self, blob: Descriptor) -> None:
        self._ask("settle", blob.digest)
        if blob.digest not in self._registry.in_use:
            self._registry.left.discard(blob.digest)

    def _blob(self, digest: str) -> bytes:
        try:
            return self._registry.blobs[digest]
        except KeyError:
            raise NotFound(f"{self._name}: no blob {digest}") from None

    def _ask(self, verb: str, what: str) -> None:
        self._registry.asked.append(f"{verb} {what}")
        if what in self._registry.failing:
            raise self._registry.failing[what]


def layer_digests(one: images.Image) -> list[str]:
    return [layer["digest"] for layer in json.loads(one.manifest)["layers"]]
