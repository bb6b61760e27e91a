"""The user database of an image: user strings, /etc/passwd and /etc/group as bytes (passwd(5), group(5)).

Never NSS: nothing of the image is run, and nothing of the host is asked. The files are untrusted, so they are
searched as bytes, lines end at LF alone, numbers are ASCII digits in range or an error, and no search is
worse than linear.
"""

import re
from dataclasses import dataclass

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.model.user import MAX_ID, User, check, identity, in_range, number_or_name

LIMIT = 10 << 20  # bytes of passwd or group that are read; the reader of the file refuses more
MAX_GROUPS = 65536  # NGROUPS_MAX, setgroups(2)

_HOME = re.compile(rb"/[^\x00-\x1f\x7f:]{0,4095}")


@dataclass(frozen=True, slots=True)
class _Account:
    name: bytes
    uid: int
    gid: int
    home: str


def resolve(
    image_user: str, context: cri.LinuxContainerSecurityContext, passwd: bytes | None, group: bytes | None
) -> User:
    """Who a container runs as: the request's id, else its user name, else the image's `User`, else root.

    `passwd` and `group` are the files of the container's root, None if absent. Raises Invalid for a user that
    is malformed, out of range (0 to 2^31-1) or not in the files, and for a group without a user (CRI proto).
    """
    check(context)
    for name, data in (("passwd", passwd), ("group", group)):
        if data is not None and len(data) > LIMIT:
            raise Invalid(f"/etc/{name} of the image has {len(data)} bytes; the limit is {LIMIT}")
    user, wanted_group = _asked(image_user, context)
    account, uid = _account(user, passwd or b"")
    gid = account.gid if account else 0
    if wanted_group != "":
        gid = _gid(wanted_group, group or b"")
    groups = set(context.supplemental_groups)
    if context.supplemental_groups_policy == cri.Merge and account:
        groups.update(_memberships(account.name, group or b""))
    others = sorted(groups - {gid})
    if len(others) >= MAX_GROUPS:
        raise Invalid(f"user {user!r} is in {len(others)} groups; the kernel takes {MAX_GROUPS}")
    return User(uid, gid, (gid, *others), account.home if account else "/")


def image_identity(user: str) -> tuple[int | None, str]:
    """What ImageStatus says of an image's `User`; see `model.user.identity`."""
    return identity(user)


def _asked(image_user: str, context: cri.LinuxContainerSecurityContext) -> tuple[int | str, int | str]:
    """(user, group), each a number or a name; "" for a group that is not said."""
    group: int | str = context.run_as_group.value if context.HasField("run_as_group") else ""
    if context.HasField("run_as_user"):
        return context.run_as_user.value, group
    if context.run_as_username:
        return number_or_name(context.run_as_username, "run_as_username"), group
    if not image_user:
        return 0, ""
    user, colon, image_group = image_user.partition(":")
    what = f"the image's user {image_user[:64]!r}"
    return number_or_name(user, what), number_or_name(image_group, what) if colon and image_group else ""


def _account(user: int | str, passwd: bytes) -> tuple[_Account | None, int]:
    """The line of a user, if any, and the uid. A number needs no line, a name does."""
    name = rb"[^:\n+-][^:\n]*" if isinstance(user, int) else re.escape(user.encode())
    uid = b"0*%d" % user if isinstance(user, int) else rb"[0-9]+"
    line = rb"^(%b):[^:\n]*:(%b):([0-9]+)(?::[^:\n]*(?::([^:\n]*))?)?(?=[:\n]|\Z)" % (name, uid)
    found = re.search(line, passwd, re.MULTILINE)
    if found is None:
        if isinstance(user, str):
            raise Invalid(f"user {user!r} is not in the image's /etc/passwd")
        return None, user
    home = found[4] or b"/"
    account = _Account(found[1], _field(found[2], user), _field(found[3], user), _home(home))
    return account, account.uid


def _gid(group: int | str, database: bytes) -> int:
    if isinstance(group, int):
        return group
    line = rb"^%b:[^:\n]*:([0-9]+)(?=[:\n]|\Z)" % re.escape(group.encode())
    found = re.search(line, database, re.MULTILINE)
    if found is None:
        raise Invalid(f"group {group!r} is not in the image's /etc/group")
    return _field(found[1], group)


def _memberships(name: bytes, database: bytes) -> set[int]:
    """The gids of the groups whose member list names the user."""
    line = rb"^[^:\n]*:[^:\n]*:([0-9]+):(?:[^\n]*,)?%b(?:,[^\n]*)?$" % re.escape(name)
    gids = {found[1] for found in re.finditer(line, database, re.MULTILINE)}
    return {_field(gid, name.decode(errors="replace")) for gid in gids}


def _field(digits: bytes, who: int | str) -> int:
    """An id as the files spell it; too large is an error, not another user."""
    what = f"an id of {who!r} in the image's user database"
    return in_range(int(digits) if len(digits) <= 10 else MAX_ID + 1, what)


def _home(path: bytes) -> str:
    """The home directory, or "/" where it could not stand in an environment (CVE-2022-4318,
    CVE-2026-15809)."""
    try:
        return path.decode() if _HOME.fullmatch(path) else "/"
    except UnicodeDecodeError:
        return "/"
