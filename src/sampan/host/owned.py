"""Files whose content becomes root's doing: only what root alone can have written counts."""

import os
import stat

from sampan.model.errors import Invalid


def check(found: os.stat_result, path: str) -> None:
    """Raise Invalid unless root (or whoever we are) alone can write it."""
    if found.st_uid not in (0, os.geteuid()):
        raise Invalid(f"{path} is not used: it belongs to user {found.st_uid}, not to root")
    by_group = found.st_mode & stat.S_IWGRP and found.st_gid != 0
    if found.st_mode & stat.S_IWOTH or by_group:
        raise Invalid(
            f"{path} is not used: others than root may write it (mode {stat.S_IMODE(found.st_mode):o})"
        )


def read(path: str, limit: int) -> bytes:
    """The content of such a file. Raises Invalid, also for what is larger than `limit` bytes or no regular file."""
    try:
        # No FIFO may hold us up; links are followed, for package managers and secret stores make them.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Invalid(f"{path} is not a regular file")
            check(found, path)
            content = file.read(limit + 1)
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise Invalid(f"{path} is larger than {limit} bytes")
    return content
