"""The registry client: the port `Registry`. Which hosts are asked, in which order, and what is made of their
answers.

One pull opens one repository and closes it; connections, tokens and the configuration of hosts live as long
as that. The HTTP underneath (`host.registry.endpoint`) is imported at the first pull, so that a daemon that
pulls nothing does not pay for it.
"""

import asyncio
import hashlib
import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sampan.host.registry.download import Download, Effort
from sampan.host.registry.hosts import hosts_of
from sampan.host.registry.node_credentials import NodeCredentials
from sampan.host.storage.spool import Parts, Spool
from sampan.host.threads import in_thread
from sampan.model.errors import Invalid, NotFound, RegistryUnavailable, SampanError
from sampan.wire import distribution
from sampan.wire.credentials import Credentials
from sampan.wire.manifest import ACCEPT, Descriptor
from sampan.wire.reference import Reference, is_digest
from sampan.wire.strict_json import MANIFEST_LIMIT

if TYPE_CHECKING:
    from sampan.host.registry.endpoint import Endpoint, Patience

T = TypeVar("T")
_ACCEPT = {"Accept": ACCEPT}


class RegistryClient:
    """Opens repositories. `progress_timeout` in seconds (0: none) is how long no byte may move; `auth_files` hold the
    node's credentials, for pulls that bring none."""

    def __init__(
        self,
        config_paths: Sequence[Path],
        patience: "Callable[[], Patience] | None" = None,
        *,
        progress_timeout: float = 300.0,
        auth_files: Sequence[Path] = (),
        spool: Spool | None = None,
        effort: Effort | None = None,
    ) -> None:
        """`spool`: where long downloads are kept for the try after them (None: nowhere)."""
        self._config_paths = tuple(config_paths)
        self._progress_timeout = progress_timeout
        self._patience = patience
        self._node = NodeCredentials(auth_files)
        self._spool = spool
        self._effort = effort or Effort()

    @asynccontextmanager
    async def open(
        self, reference: Reference, credentials: Credentials | None
    ) -> "AsyncIterator[_Repository]":
        """The repository of `reference`, by the hosts that its hosts.toml names now."""
        await in_thread(importlib.import_module, "sampan.host.registry.endpoint")  # 0.2 s the first time
        from sampan.host.registry.endpoint import Endpoint, Patience

        hosts = await hosts_of(reference.domain, self._config_paths)
        patience = self._patience() if self._patience else Patience(self._progress_timeout)
        mirrors = replace(patience, mirror=True)
        patiences = [*([mirrors] * (len(hosts) - 1)), patience]
        endpoints = [
            Endpoint(host, reference, credentials, patience, self._node)
            for host, patience in zip(hosts, patiences, strict=True)
        ]
        try:
            yield _Repository(reference, endpoints, self._spool, self._effort)
        finally:
            for endpoint in endpoints:
                await endpoint.close()

    async def tidy(self, age: float) -> bool:
        return self._spool is not None and await self._spool.tidy(age)


class _Repository:
    """A repository by all hosts that serve it; each is asked in turn until one answers."""

    def __init__(
        self, reference: Reference, endpoints: "Sequence[Endpoint]", spool: Spool | None, effort: Effort
    ) -> None:
        self._reference = reference
        self._endpoints = endpoints
        self._spool = spool
        self._effort = effort
        self._began = asyncio.get_running_loop().time()

    async def resolve(self, target: str) -> str | None:
        async def ask(endpoint: "Endpoint") -> str | None:
            url = distribution.manifest_url(endpoint.host, self._reference, target)
            response = await endpoint.request("HEAD", url, _ACCEPT)
            claimed: str = response.headers.get("Docker-Content-Digest", "")
            response.release()
            return claimed if is_digest(claimed) else None

        return await self._first(_capability(target), ask)

    async def manifest(self, target: str) -> bytes:
        async def ask(endpoint: "Endpoint") -> bytes:
            url = distribution.manifest_url(endpoint.host, self._reference, target)
            data = await endpoint.fetch(url, _ACCEPT, MANIFEST_LIMIT)
            if is_digest(target):
                _verify(data, target, url)
            return data

        return await self._first(_capability(target), ask)

    async def read(self, blob: Descriptor, limit: int) -> bytes:
        if blob.size > limit:
            raise Invalid(
                f"blob {blob.digest} of {self._reference.name} has {blob.size} bytes; the limit is {limit}"
            )

        async def ask(endpoint: "Endpoint") -> bytes:
            url = distribution.blob_url(endpoint.host, self._reference, blob.digest)
            data = await endpoint.fetch(url, {}, blob.size)
            _verify(data, blob.digest, url)
            return data

        return await self._first("pull", ask)

    async def stream(self, blob: Descriptor) -> AsyncGenerator[bytes, None]:
        spool = self._spool
        name = self._kept_as(blob)
        parts = await spool.open(name, blob.size) if spool else Parts(Path(), blob.size)
        download = Download(lambda *span: self._span(blob, *span), parts, self._effort, self._began)
        try:
            async with aclosing(download.pieces()) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            parts.close()
            if spool:
                spool.close(name)

    async def _span(
        self, blob: Descriptor, start: int, stop: int, exact: bool
    ) -> AsyncGenerator[bytes, None]:
        """These bytes of a blob, from whichever host has them: another one carries on where one gave up."""
        from sampan.host.registry.endpoint import Span

        failures: list[SampanError] = []
        for endpoint in self._able("pull"):
            url = distribution.blob_url(endpoint.host, self._reference, blob.digest)
            try:
                async with aclosing(endpoint.stream(url, Span(start, stop, blob.size, exact))) as pieces:
                    async for piece in pieces:
                        start += len(piece)
                        yield piece
                return
            except SampanError as error:
                failures.append(error)
        raise self._all_failed(failures)

    async def settle(self, blob: Descriptor) -> None:
        if self._spool:
            await self._spool.drop(self._kept_as(blob))

    def _kept_as(self, blob: Descriptor) -> str:
        """The name under which parts are kept: of this repository alone. They are unchecked, so that another one could
        spoil its pulls, or read without credentials what was fetched with them."""
        return f"{blob.digest}-{hashlib.sha256(self._reference.name.encode()).hexdigest()[:32]}"

    async def referrers(self, digest: str, kind: str) -> bytes:
        async def ask(endpoint: "Endpoint") -> bytes:
            url = distribution.referrers_url(endpoint.host, self._reference, digest, kind)
            return await endpoint.fetch(url, _ACCEPT, MANIFEST_LIMIT)

        try:
            return await self._first("pull", ask)
        except (NotFound, Invalid, RegistryUnavailable) as error:  # older registries answer this and that
            try:
                return await self.manifest(distribution.referrers_tag(digest))
            except NotFound:
                raise error from None

    async def _first(self, capability: str, ask: "Callable[[Endpoint], Awaitable[T]]") -> T:
        failures: list[SampanError] = []
        for endpoint in self._able(capability):
            try:
                return await ask(endpoint)
            except SampanError as error:
                failures.append(error)
        raise self._all_failed(failures)

    def _able(self, capability: str) -> "list[Endpoint]":
        """Those that may do it; what a tag means is nothing to those that cannot give what is under it."""
        needed = {capability, "pull"}
        return [endpoint for endpoint in self._endpoints if needed <= endpoint.host.capabilities]

    def _all_failed(self, failures: Sequence[SampanError]) -> SampanError:
        """One error for all: of the last one's kind, because the registry itself comes after its mirrors."""
        what = f"cannot pull {self._reference}"
        if not failures:
            return Invalid(
                f"{what}: no host of {self._reference.domain} may be asked for this: see its hosts.toml"
            )
        return type(failures[-1])(f"{what}: {'; '.join(str(failure.args[0]) for failure in failures)}")


def _capability(target: str) -> str:
    """What a tag means is for hosts that may "resolve"; content by digest may come from any that may
    "pull"."""
    return "pull" if is_digest(target) else "resolve"


def _verify(data: bytes, digest: str, url: str) -> None:
    algorithm, _, wanted = digest.partition(":")
    found = hashlib.new(algorithm, data).hexdigest()
    if found != wanted:
        raise Invalid(f"{distribution.redact(url)} sent other content: its digest is {algorithm}:{found}")
