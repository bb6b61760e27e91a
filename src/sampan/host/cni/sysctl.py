"""Network sysctls of the calling thread's namespace. Blocking; for threads."""

import os
from contextlib import suppress

ROOT = "/proc/sys/net"


def put(name: str, value: str) -> None:
    """Set `net/<name>`, given with slashes: an interface's name may hold dots."""
    fd = os.open(f"{ROOT}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def put_if_there(name: str, value: str) -> None:
    """Set it where the kernel has it (IPv6 may be off)."""
    with suppress(FileNotFoundError):
        put(name, value)


def ensure(name: str, value: str) -> None:
    """Set it unless it has the value: what may be read-only can still be right."""
    fd = os.open(f"{ROOT}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        now = os.read(fd, 64).strip().decode()
    finally:
        os.close(fd)
    if now != value:
        put(name, value)
