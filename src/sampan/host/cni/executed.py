"""Running CNI plugins as programs. Knows how to find and call one, not what a chain of them means.

Source: CNI specification 1.1, section 2.
"""

import asyncio
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sampan.host import process
from sampan.host.threads import in_thread
from sampan.model.errors import ToolFailed, Unavailable
from sampan.tasks import step
from sampan.wire import cni_result
from sampan.wire.cni import SIZE_LIMIT
from sampan.wire.cni_request import Target, environment

SECONDS = {"ADD": 60.0, "DEL": 60.0, "CHECK": 30.0, "GC": 30.0, "STATUS": 10.0, "VERSION": 5.0}
AT_ONCE = 16  # plugins that run side by side; more would only fight for the kernel's locks


class Executed:
    """The plugins in `bin_dirs`. `seconds` (by command) is for tests."""

    def __init__(self, bin_dirs: Sequence[Path], seconds: Mapping[str, float] = SECONDS) -> None:
        self._dirs = tuple(map(str, bin_dirs))
        self._seconds = seconds
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def find(self, kind: str) -> str:
        """The path of a plugin's program; "" if none of the directories has one."""
        return await in_thread(self._find, kind)

    def missing(self, kind: str, why: str = "") -> Unavailable:
        """The error for a plugin that is not there; `why` it is needed."""
        needed = f" (it must be executed: {why})" if why else ""
        return Unavailable(f"CNI plugin {kind} was not found in {', '.join(self._dirs)}{needed}")

    async def call(
        self, command: str, kind: str, conf: Mapping[str, Any], target: Target | None = None, why: str = ""
    ) -> bytes:
        """Run one plugin; what it printed. Unavailable if it is missing, slow or says "later", else
        ToolFailed."""
        path = await self.find(kind)
        if not path:
            raise self.missing(kind, why)
        subject = target.container_id if target else kind
        seconds = self._seconds[command]
        async with self._turn:
            await step(f"cni.{command.lower()}.{kind}", subject)
            try:
                async with asyncio.timeout(seconds):
                    finished = await process.run(
                        [path],
                        stdin=msgspec.json.encode(conf),
                        env=environment(command, self._dirs, target),
                        check=False,
                        limit=SIZE_LIMIT + 1,
                    )
            except TimeoutError:
                what = f"CNI {command} of plugin {kind} for {subject}"
                raise Unavailable(f"{what} did not end within {seconds:g} s and was killed") from None
        if finished.code:
            raise _failed(command, path, finished)
        return finished.stdout

    def _find(self, kind: str) -> str:
        for directory in self._dirs:
            path = f"{directory}/{kind}"
            try:
                found = os.stat(path)  # noqa: PTH116
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o111:
                _only_root_writes(path, found)
                _only_root_writes(directory, os.stat(directory))  # noqa: PTH116
                return path
        return ""


def _only_root_writes(path: str, found: os.stat_result) -> None:
    """A plugin runs as root: what others can replace is refused."""
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid != 0):
        mode = stat.S_IMODE(found.st_mode)
        raise Unavailable(
            f"{path} has mode {mode:04o}: others than root can change it, so it is not executed"
        )


def _failed(command: str, path: str, finished: process.Finished) -> Unavailable | ToolFailed:
    said = cni_result.failure(finished.stdout, finished.stderr)
    name = path.rpartition("/")[2]
    if said and said.code in cni_result.TRY_AGAIN:
        return Unavailable(f"CNI {command} of plugin {name}: {said.text}")
    words = said.text if said else (finished.stderr or finished.stdout)[-2000:].decode(errors="replace")
    return ToolFailed([path], finished.code, f"CNI {command}: {words}" if words.strip() else "")
