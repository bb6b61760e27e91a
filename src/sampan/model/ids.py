"""Ids of pods and containers: made here, resolved here, and never built from anything a client sent."""

import re
import secrets
from collections.abc import Mapping
from typing import TypeVar

from sampan.model.errors import Invalid, NotFound

T = TypeVar("T")
WHOLE = 64  # hex digits
_PREFIX = re.compile(r"[0-9a-f]{1,64}")


def new_id() -> str:
    """64 random hex digits: the only names that pods and containers have on disk."""
    return secrets.token_hex(32)


def resolve(kind: str, table: Mapping[str, T], id: str) -> T:
    """The entry whose id is `id` or begins with it. Raises NotFound, or Invalid where several do."""
    exact = table.get(id)
    if exact is not None:
        return exact
    if not _PREFIX.fullmatch(id):
        raise NotFound(f"no {kind} has the id {id[:128]!r} (an id is up to 64 hex digits)")
    found = [key for key in table if key.startswith(id)]
    if not found and len(id) == WHOLE:
        raise NotFound(f"there is no {kind} {id}")
    if not found:
        raise NotFound(f"no {kind} has an id that begins with {id!r}")
    if len(found) > 1:
        listed = ", ".join(key[:13] for key in sorted(found)[:5])
        raise Invalid(
            f"{kind} id {id!r} is ambiguous: it begins {len(found)} ids ({listed}); give more digits"
        )
    return table[found[0]]


def find(kind: str, table: Mapping[str, T], id: str) -> T | None:
    """Like `resolve`, but None where there is no such entry (Stop and Remove of it are fine)."""
    try:
        return resolve(kind, table, id)
    except NotFound:
        return None
