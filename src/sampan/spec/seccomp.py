"""Seccomp profiles (seccomp.json, or a file of the node) → the OCI `linux.seccomp` object of one container."""

from collections.abc import Collection
from typing import Any


def default(
    capabilities: Collection[str], architecture: str, kernel: tuple[int, int] = (5, 10)
) -> dict[str, Any]:
    """RuntimeDefault for a process with these capabilities on this architecture (`uname -m`)."""
    raise NotImplementedError


def localhost(
    profile: bytes, capabilities: Collection[str], architecture: str, kernel: tuple[int, int] = (5, 10)
) -> dict[str, Any]:
    """A node's own profile, in the OCI's form or with conditions like the default's. Raises Invalid."""
    raise NotImplementedError
