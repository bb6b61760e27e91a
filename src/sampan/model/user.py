"""Who a process runs as: the answer of the user database, a value that `wire` finds and `spec` writes down."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """Who a process runs as. `groups` are the supplementary groups and hold the primary gid too (CVE-2022-2989)."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"
