"""The counters of pods' network interfaces, read from inside their pinned namespaces: one thread goes through all.

A pod needs no process for this. Measured: 40 µs a pod. A pod in the host's
network has none: the host's interfaces are not its own.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sampan.host import syscalls
from sampan.host.processes import read_small
from sampan.host.sandbox import netns
from sampan.host.threads import in_own_thread
from sampan.wire import net_dev
from sampan.wire.net_dev import Interface


async def interfaces(pins: Sequence[Path]) -> list[tuple[Interface, ...] | None]:
    """The interfaces of each of these network namespaces, the loopback left out; None for one that is gone."""
    return await in_own_thread(partial(_all, pins)) if pins else []


def _all(pins: Sequence[Path]) -> list[tuple[Interface, ...] | None]:
    return [_read(pin) for pin in pins]


def _read(pin: Path) -> tuple[Interface, ...] | None:
    """Leaves the thread in the namespace: the next one takes it elsewhere, and it ends after the last."""
    try:
        fd = os.open(pin, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        syscalls.setns(fd, netns.KINDS["net"])
    except OSError:  # an empty file: what was mounted on it is gone
        return None
    finally:
        os.close(fd)
    return net_dev.parse(read_small("/proc/thread-self/net/dev", 1 << 20))
