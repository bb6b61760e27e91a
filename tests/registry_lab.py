"""A node that pulls from hostile registries, with a trap beside them that must never be asked anything.

All servers are on loopback, as no traffic may leave the machine; `Lab` gives their addresses other meanings, so that
what is judged by its address is judged as in the wild.
"""

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sampan.host.registry import address
from sampan.host.registry.address import Reach
from sampan.host.registry.client import RegistryClient
from sampan.host.registry.endpoint import Patience
from sampan.runtime.images import Images, Supply
from sampan.runtime.state import State
from sampan.tasks import Tasks
from sampan.wire.credentials import Credentials
from tests import images
from tests.evil_registry import Behaviour, EvilRegistry, Request, answer, running
from tests.fake_layers import FakeLayers
from tests.fakes import FakeJournal

IMAGE = images.image(
    [images.layer([images.Entry("file", data=b"x" * 300_000)])], compression="none", architecture="amd64"
)
LAYER = json.loads(IMAGE.manifest)["layers"][0]["digest"]
DATA = IMAGE.blobs[LAYER]
TAG, BY_DIGEST = "/v2/app/manifests/latest", f"/v2/app/manifests/{IMAGE.digest}"
BLOB, CONFIG = f"/v2/app/blobs/{LAYER}", f"/v2/app/blobs/{IMAGE.id}"
JOHN = Credentials(username="john", password="s3cret-password")
BASIC = JOHN.basic()
TRAP = "127.0.0.9"
# What the addresses of the lab stand for; whatever else there is keeps its meaning.
MEANINGS = {
    "127.0.0.1": Reach.PUBLIC,
    "127.0.0.2": Reach.PRIVATE,
    "127.0.0.3": Reach.LINK,
    TRAP: Reach.HERE,
    f"::ffff:{TRAP}": Reach.HERE,
}


@dataclass
class Lab:
    """`evil` is the registry of images of evil.test, `other` another machine, `trap` this machine itself."""

    evil: EvilRegistry
    other: EvilRegistry
    trap: EvilRegistry
    certs: Path
    names: dict[str, list[list[str]]]  # what a name means, answer by answer; the last one stays
    tasks: Tasks = field(default_factory=Tasks)
    progress: float = 5.0

    def __post_init__(self) -> None:
        self.journal = FakeJournal()
        self.layers = FakeLayers()
        self.state = State(self.journal)
        client = RegistryClient([self.certs], lambda: Patience(self.progress, self._no_pause))
        self.images = Images(self.state, self.layers, Supply(client, None, "x86_64"), self.tasks)  # type: ignore[arg-type]
        self.evil.hosts_toml(self.certs, "evil.test")

    async def _no_pause(self, _: float) -> None:
        await asyncio.sleep(0)

    async def pull(self, text: str = "evil.test/app", credentials: Credentials | None = JOHN) -> str:
        return (await self.images.pull(text, credentials)).id

    def nothing_came_in(self) -> None:
        assert not self.journal.rows and not self.state.images
        assert not self.layers.published and not self.layers.staged

    def nothing_leaked(self) -> None:
        """No other machine saw who we are, and the trap saw nothing."""
        assert self.trap.requests == []
        for request in self.other.requests:
            assert not any(secret in str(request) for secret in secrets(JOHN))


def secrets(credentials: Credentials) -> tuple[str, ...]:
    """How a password or token may be written in what is sent."""
    password = credentials.password or credentials.identity_token or credentials.registry_token
    return password, credentials.basic().removeprefix("Basic ") or password


def gate(registry: EvilRegistry, *challenges: str) -> None:
    """Let in only who shows John's password; ask others for it, or by these challenges."""
    asked = ", ".join(challenges) or 'Basic realm="here"'

    def judge(request: Request) -> Behaviour | None:
        return None if request.authorization == BASIC else answer(status=401, WWW_Authenticate=asked)

    registry.gate = judge


@contextlib.asynccontextmanager
async def opened(
    directory: Path, patch: pytest.MonkeyPatch, context: ssl.SSLContext | None = None
) -> AsyncIterator[Lab]:
    """A lab, whose registry (and the other one) speaks TLS if a context is given."""
    real_reach, names = address.reach_of, dict[str, list[list[str]]]()
    patch.setattr(address, "reach_of", lambda ip: MEANINGS.get(ip) or real_reach(ip))
    real_names = asyncio.BaseEventLoop.getaddrinfo

    async def getaddrinfo(self: Any, host: str, port: int, **more: Any) -> list[Any]:
        if host not in names:
            return await real_names(self, host, port, **more)
        found = names[host].pop(0) if len(names[host]) > 1 else names[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in found]

    patch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    async with running(context) as evil, running(context) as other, running(address=TRAP) as trap:
        for registry in (evil, other, trap):
            registry.serve(IMAGE)
        lab = Lab(evil, other, trap, directory, names)
        try:
            yield lab
        finally:
            await lab.tasks.stop()


Setting = Callable[[Lab], None]
