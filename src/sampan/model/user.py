"""Who a process runs as, and which ids and names can say so.

Both the user database (`wire.passwd`) and the checks of a request (`spec.validate`) go by these rules.
"""

import re
from dataclasses import dataclass

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid

MAX_ID = 2**31 - 1  # beyond it crun wraps, and (uid_t)-1 means "leave unchanged" to the kernel, which is root

_DIGITS = re.compile(r"[0-9]+")
_LIKE_A_NUMBER = re.compile(r"[+-]?\d[\d_]*")  # what int() would take, in any script
_NAME = re.compile(r"[^\x00-\x20\x7f:,/+-][^\x00-\x20\x7f:,/]{0,255}")


@dataclass(frozen=True, slots=True)
class User:
    """Who a process runs as. `groups` are the supplementary groups and hold the primary gid too
    (CVE-2022-2989)."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def number_or_name(text: str, what: str) -> int | str:
    """The id that a text spells, or the name it is. Only ASCII digits are a number, and a number is never a
    name."""
    if _DIGITS.fullmatch(text):
        return in_range(int(text) if len(text) <= 10 else MAX_ID + 1, what)
    if _LIKE_A_NUMBER.fullmatch(text) or not _NAME.fullmatch(text):
        raise Invalid(f"{what}: {text[:64]!r} is neither a number nor a name")
    return text


def in_range(value: int, what: str) -> int:
    """`value`, if it is an id."""
    if not 0 <= value <= MAX_ID:
        raise Invalid(f"{what} is out of range: ids go from 0 to {MAX_ID}")
    return value


def check(context: cri.LinuxContainerSecurityContext | cri.LinuxSandboxSecurityContext) -> None:
    """Raise Invalid if the user of a request is wrong whatever the image holds. A group needs a user (CRI
    proto)."""
    field = "linux.security_context"
    name = context.run_as_username if isinstance(context, cri.LinuxContainerSecurityContext) else ""
    numbered = context.HasField("run_as_user")
    if name and numbered:
        raise Invalid(f"{field}: run_as_user and run_as_username exclude each other")
    if context.HasField("run_as_group") and not name and not numbered:
        raise Invalid(f"{field}.run_as_group is given without run_as_user or run_as_username")
    if name:
        number_or_name(name, f"{field}.run_as_username")
    if numbered:
        in_range(context.run_as_user.value, f"{field}.run_as_user")
    if context.HasField("run_as_group"):
        in_range(context.run_as_group.value, f"{field}.run_as_group")
    for gid in context.supplemental_groups:
        in_range(gid, f"{field}.supplemental_groups")
    if context.supplemental_groups_policy not in (cri.Merge, cri.Strict):
        raise Invalid(f"{field}.supplemental_groups_policy {context.supplemental_groups_policy} is unknown")


def identity(user: str) -> tuple[int | None, str]:
    """What ImageStatus says of an image's `User`: (uid, "") of a number, (None, name) of anything else, and
    (0, "") where the image names none. Never raises; what a create would refuse is shown as a name, which no
    runAsNonRoot check passes."""
    name, _, _ = user.partition(":")
    if not user:
        return 0, ""
    if _DIGITS.fullmatch(name) and len(name) <= 10 and int(name) <= MAX_ID:
        return int(name), ""
    return None, name or user
