"""The one way JSON from a registry or an archive is read: capped, unambiguous, typed.

`json` alone takes duplicate keys (the last wins), NaN and nesting without end; two programs that read the
same bytes must not see two images (GHSA-5j5w-g665-5m35). Every failure is `Invalid`.
"""

import json
import re
from typing import Any, TypeVar

import msgspec

from sampan.model.errors import Invalid

T = TypeVar("T")
MANIFEST_LIMIT = 4 << 20  # bytes; what distribution-spec asks registries to accept
DEPTH_LIMIT = 32
VALUES_LIMIT = 1 << 17  # about a tenth of a second of reading; many times what an image of 500 layers needs
_INTEGER_DIGITS = 19  # every size and time that we read fits in 64 bits

_MARKS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


def loads(data: bytes, what: str, limit: int = MANIFEST_LIMIT) -> Any:  # noqa: ANN401 - JSON is any value
    """The value that `data` encodes. `what` names it in the error."""
    if len(data) > limit:
        raise Invalid(f"{what} is larger than {limit} bytes")
    if sum(map(data.count, (b"[", b"{", b","))) > VALUES_LIMIT:
        raise Invalid(f"{what} is too large: it has more than {VALUES_LIMIT} values")
    if _too_deep(data):
        raise Invalid(f"{what} is nested deeper than {DEPTH_LIMIT} levels")
    try:
        text = data.decode()
        json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_int=_bounded)
        return msgspec.json.decode(data)  # stricter on lone surrogates and numbers out of range
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise Invalid(f"{what} is not valid JSON: {_reason(error)}") from None


def convert(value: Any, type: type[T], what: str) -> T:  # noqa: ANN401 - JSON is any value
    """The typed form of a loaded value."""
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        raise Invalid(f"{what} is malformed: {_reason(error)}") from None


def decode(data: bytes, type: type[T], what: str, limit: int = MANIFEST_LIMIT) -> T:
    """`loads` and `convert` in one."""
    return convert(loads(data, what, limit), type, what)


def _too_deep(data: bytes) -> bool:
    if data.count(b"[") + data.count(b"{") <= DEPTH_LIMIT:
        return False
    depth = 0
    for match in _MARKS.finditer(data):
        mark = match[0]
        if mark in (b"[", b"{"):
            depth += 1
            if depth > DEPTH_LIMIT:
                return True
        elif mark in (b"]", b"}"):
            depth -= 1
    return False


def _once(pairs: list[tuple[str, Any]]) -> None:
    seen = {key for key, _ in pairs}
    if len(seen) != len(pairs):
        raise ValueError("a key occurs twice")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _bounded(digits: str) -> int:
    if len(digits.lstrip("-")) > _INTEGER_DIGITS:
        raise ValueError("an integer does not fit in 64 bits")
    return 0


def _reason(error: Exception) -> str:
    """A parser's words, short and printable: they may quote the input."""
    return "".join(c if c.isprintable() else "?" for c in str(error)[:200])
