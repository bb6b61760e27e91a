"""Tokens of sessions: who has the URL that an RPC returned may have the session, once, within a minute.

A token names one operation and opens nothing else. It is kept as its digest alone: what a comparison of digests tells
by its duration helps nobody to guess, and no memory of ours holds a token that works.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from sampan.model.errors import Exhausted
from sampan.runtime.streaming import Operation

SECONDS = 60.0
IN_FLIGHT = 1000
BYTES = 32  # of randomness


@dataclass(frozen=True, slots=True)
class _Entry:
    operation: Operation
    until: float


class Tokens:
    """Operations that a client has been promised and has not come for yet."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._entries: dict[bytes, _Entry] = {}  # the oldest first: all live equally long

    def issue(self, operation: Operation) -> str:
        """A token for one use of `operation` within a minute. Exhausted while too many wait for theirs."""
        self._sweep()
        if len(self._entries) >= IN_FLIGHT:
            raise Exhausted(
                f"{IN_FLIGHT} sessions were asked for within {SECONDS:g} s and nobody has come for them;"
                " try again in a minute"
            )
        token = secrets.token_urlsafe(BYTES)
        self._entries[_digest(token)] = _Entry(operation, self._now() + SECONDS)
        return token

    def take(self, token: str, kind: str) -> Operation | None:
        """The operation, the first time its token is shown where operations of this kind are served. None otherwise,
        for whatever reason; a token that is shown at the wrong place keeps its worth."""
        self._sweep()
        digest = _digest(token)
        entry = self._entries.get(digest)
        if entry is None or entry.operation.kind != kind:
            return None
        del self._entries[digest]
        return entry.operation

    def __len__(self) -> int:
        self._sweep()
        return len(self._entries)

    def _sweep(self) -> None:
        now = self._now()
        while self._entries:
            oldest = next(iter(self._entries))
            if self._entries[oldest].until > now:
                return
            del self._entries[oldest]


def _digest(token: str) -> bytes:
    return hashlib.blake2b(token.encode(errors="replace"), digest_size=32).digest()
