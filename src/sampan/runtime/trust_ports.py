"""What the judgement of signatures asks of the machine: the operator's files, and the cryptography."""

from collections.abc import Mapping
from typing import Protocol

from sampan.wire.trust_policy import Policy


class Policies(Protocol):
    """The policy file and the keys that it names, read anew at each call."""

    async def read(self) -> Policy:
        """The policy. Raises Invalid if the file cannot be read, is not root's alone to write, or is not understood."""

    async def key(self, path: str) -> bytes:
        """The content of a file with a public key. Raises Invalid as `read` does."""


class Verifier(Protocol):
    """Public keys and what they have signed."""

    async def check(self, keys: Mapping[str, bytes]) -> None:
        """Raise Invalid naming a key (PEM, by name) of which no signature could count."""

    async def signer(self, keys: Mapping[str, bytes], message: bytes, signature: bytes) -> str | None:
        """The name of the key (PEM, by name) that has signed the message; None if none of them has. Raises Invalid
        naming a key of which no signature could count: every one must be good, also where another one fits."""
