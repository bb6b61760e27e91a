"""A policy in memory, and keys that are known by their names: the ports of `runtime.trust_ports`."""

import hashlib
from collections.abc import Mapping

from sampan.model.errors import Invalid
from sampan.wire import trust_policy
from sampan.wire.trust_policy import Policy

_BEGIN = b"fake key "


class FakePolicies:
    """`text` is the file, None where there is none; `keys` are files by path."""

    def __init__(self, text: str | None = 'default = "accept"') -> None:
        self.text = text
        self.keys: dict[str, bytes] = {}
        self.reads = 0

    async def read(self) -> Policy:
        self.reads += 1
        if self.text is None:
            raise Invalid("/policy cannot be read: no such file")
        return trust_policy.parse(self.text.encode(), "/policy")

    async def key(self, path: str) -> bytes:
        if path not in self.keys:
            raise Invalid(f"{path} cannot be read: no such file")
        return self.keys[path]


class FakeKey:
    """Signs with its name."""

    def __init__(self, name: str) -> None:
        self.pem = _BEGIN + name.encode()

    def sign(self, message: bytes) -> bytes:
        return hashlib.sha256(self.pem + message).digest()


class FakeVerifier:
    async def check(self, keys: Mapping[str, bytes]) -> None:
        for name, pem in keys.items():
            if not pem.startswith(_BEGIN):
                raise Invalid(f"{name} holds no key")

    async def signer(self, keys: Mapping[str, bytes], message: bytes, signature: bytes) -> str | None:
        await self.check(keys)
        made = {name: hashlib.sha256(pem + message).digest() for name, pem in keys.items()}
        return next((name for name, one in made.items() if one == signature), None)
