"""Child processes that work on layers: how one answers (`host.python_child` says how it is started).

What they do is `host.unpack.child`'s and `host.rebuild.child`'s business.
"""

from typing import Generic, TypeVar

import msgspec

from sampan.host.process import Finished
from sampan.model import errors

T = TypeVar("T")


class Answer(msgspec.Struct, Generic[T]):
    """The line that a child ends with."""

    ok: T | None = None
    error: tuple[str, str] | None = None


def answer(finished: Finished, kind: type[Answer[T]], does: str) -> T:
    """What the child found, or its failure as ours; `does` says what the child is for."""
    try:
        told = msgspec.json.decode(finished.stdout, type=kind)
    except msgspec.DecodeError:
        ending = f"signal {-finished.code}" if finished.code < 0 else f"exit code {finished.code}"
        words = finished.stderr[-500:].decode(errors="replace").strip() or "it said nothing"
        raise errors.Lost(f"the process that {does} died ({ending}): {words}") from None
    if told.ok is not None:
        return told.ok
    name, message = told.error or ("Lost", f"the process that {does} gave no answer")
    raise {"Invalid": errors.Invalid, "Exhausted": errors.Exhausted}.get(name, errors.Lost)(message)
