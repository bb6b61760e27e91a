"""What a string of a request may hold before it goes anywhere: paths without surprises, words without control
bytes.

Always fullmatch: `$` lets a final newline through (CVE-2026-15809 was that).
"""

import re

from sampan.model.errors import Invalid

PATH_MAX = 4096  # limits.h, the final NUL included

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def shown(value: str) -> str:
    """The value as an error message may carry it."""
    return repr(value if len(value) <= 80 else value[:77] + "...")


def word(value: str, field: str, limit: int = PATH_MAX) -> str:
    """`value`, if it has no control bytes and at most `limit` bytes."""
    if _CONTROL.search(value):
        raise Invalid(f"{field} {shown(value)} holds a control character")
    if len(value.encode()) > limit:
        raise Invalid(f"{field} has more than {limit} bytes")
    return value


def path(value: str, field: str) -> str:
    """An absolute path in canonical form: no `..`, no empty or `.` components, no slash at the end."""
    word(value, field, PATH_MAX - 1)
    if not value.startswith("/"):
        raise Invalid(f"{field} {shown(value)} is not an absolute path")
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Invalid(f"{field} {shown(value)} goes up with '..'")
    return "/" + "/".join(parts)


def beneath(path: str, directory: str) -> bool:
    """Whether canonical `path` lies in canonical `directory`, itself not included."""
    return path.startswith(directory + "/")
