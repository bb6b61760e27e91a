"""What is removed goes out of sight at once, by a rename, and is deleted in the background; a restart
goes on with it.
"""

import asyncio
import itertools
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sampan.host.storage import trees
from sampan.host.threads import in_slow_thread
from sampan.runtime.image_ports import Usage
from sampan.tasks import Tasks

AGAIN_SECONDS = 2.0
log = logging.getLogger("sampan")


class Trash:
    """A directory of things to delete, on the file system they come from."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tickets = itertools.count(1)
        self._tasks = Tasks()
        self._wanted = asyncio.Event()
        self._running = False
        self._sizes: dict[str, Usage] = {}

    @property
    def usage(self) -> Usage:
        """What the things here take of the disk, as far as those who threw them away said it."""
        sizes = list(self._sizes.values())
        return Usage(sum(size.bytes for size in sizes), sum(size.inodes for size in sizes))

    def take(self, path: Path, usage: Usage | None = None) -> None:
        """Move `path`, which takes so much of the disk, here; nothing there is fine. Blocking."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{next(self._tickets)}-{secrets.token_hex(4)}"
        if usage is not None:
            self._sizes[name] = usage
        try:
            path.rename(self._directory / name)
        except OSError as error:
            self._sizes.pop(name, None)
            if not isinstance(error, FileNotFoundError):
                raise

    def empty(self) -> None:
        """See to it that all that is here now gets deleted. What cannot be (a process of a container that is just
        ending may still write there) is logged and tried again after a while.
        """
        self._wanted.set()
        if not self._running:
            self._running = True
            self._tasks.start(f"empty {self._directory}", self._empty())

    async def _empty(self) -> None:
        try:
            while self._wanted.is_set():
                self._wanted.clear()
                try:
                    await in_slow_thread(self._delete)
                except OSError as error:
                    log.warning("%s cannot be emptied now: %s", self._directory, error)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wanted.wait(), AGAIN_SECONDS)
                    self._wanted.set()
        finally:
            self._running = False

    def _delete(self) -> None:
        failed: list[OSError] = []
        with suppress(FileNotFoundError), opened(self._directory) as fd:
            for name in os.listdir(fd):  # noqa: PTH208 - pathlib knows no descriptors
                try:
                    trees.remove(fd, name)
                    self._sizes.pop(name, None)
                except OSError as error:
                    failed.append(error)
        if failed:
            raise failed[0]

    async def close(self) -> None:
        """Stop at what is being deleted."""
        await self._tasks.stop()


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A directory by descriptor, for the length of a `with`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)
