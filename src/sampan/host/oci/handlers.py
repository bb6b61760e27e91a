"""The `Handlers` port: are the programs of each runtime handler there, what can they do, can we write where we must.

Looked at when the daemon starts, and again in the background while somebody asks: nothing polls. A handler whose
programs are missing does not keep the others from being used; only the default one must work at the start.
"""

import asyncio
import errno
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sampan.host import features
from sampan.host.features import Tool
from sampan.host.threads import in_own_thread
from sampan.model.errors import Invalid, SampanError, Unavailable
from sampan.model.handler import Handler
from sampan.runtime.handler_ports import HandlerStatus, Trouble
from sampan.spec import base_spec
from sampan.tasks import Joined, Tasks

LOOK_SECONDS = 10.0  # how old what `trouble` says may get, while it is asked
STUCK_SECONDS = 60.0  # a look that takes longer is trouble itself
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR)

log = logging.getLogger("sampan.handlers")

_Mark = tuple[str, int, int, int]  # a file: its path, device, inode and time of change
_Answers = Mapping[str, Tool | SampanError]


class HostHandlers:
    """The handlers of this machine. `places` are the directories without which nothing runs."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        default: str,
        places: Sequence[Path],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handlers = dict(handlers)
        self._default = default
        self._places = tuple(places)
        self._clock = clock
        self._tasks = Tasks()
        self._known: dict[str, HandlerStatus] = {}
        self._seen: dict[str, tuple[_Mark | None, ...]] = {}
        self._place_trouble: Trouble | None = None
        self._looked = clock()
        self._looking = False  # in the background
        self._one = asyncio.Lock()  # looks take turns: a stuck file system must not hold a thread for each
        self._began: float | None = None  # the look whose turn it is
        self._joined = Joined()

    async def open(self) -> None:
        """The first look. Raises Unavailable if the default handler cannot be used."""
        await self._look()
        if problem := self.of(self._default).problem:
            raise Unavailable(problem)

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._tasks.stop()

    def of(self, name: str) -> HandlerStatus:
        """What is known of this handler; one that is not configured has a `problem`."""
        found = self._known.get(name)
        return found or HandlerStatus(name, problem=f"no runtime handler {name!r} is configured")

    async def require(self, name: str) -> HandlerStatus:
        """The same for one that is about to be used. One that had a problem is looked at again; Unavailable if it has
        it still."""
        if self.of(name).problem and name in self._handlers:
            await self._joined.run(name, self._look_at_one(name))  # which nobody's leaving cuts short
        found = self.of(name)
        if found.problem:
            raise Unavailable(f"runtime handler {name} cannot be used: {found.problem}")
        return found

    def trouble(self) -> Trouble | None:
        """What keeps this node from running pods, by the last look; starts another if that is LOOK_SECONDS ago."""
        now = self._clock()
        if not self._looking and now - self._looked >= LOOK_SECONDS:
            self._looking = True
            self._tasks.start("a look at the runtime handlers", self._look_again())
        if self._began is not None and now - self._began > STUCK_SECONDS:
            return Trouble(
                "CheckStuck",
                f"a look at the runtimes and at {', '.join(map(str, self._places))} has not ended for "
                f"{now - self._began:.0f} s: is a file system stuck?",
            )
        if problem := self.of(self._default).problem:
            return Trouble("RuntimeHandlerUnusable", f"default handler {self._default}: {problem}")
        return self._place_trouble

    # --- looking --------------------------------------------------------------------------------------------

    async def _look_again(self) -> None:
        try:
            async with self._turn():
                await self._look()
        finally:
            self._looked, self._looking = self._clock(), False

    async def _look_at_one(self, name: str) -> None:
        async with self._turn():
            await self._look_at([self._handlers[name]])

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """The time in a look, from when nothing of ours holds it up."""
        async with self._one:
            self._began = self._clock()
            try:
                yield
            finally:
                self._began = None

    async def _look(self) -> None:
        # in threads of its own: long work must not be taken for a stuck file system, nor a node be lost for it
        self._place_trouble = await in_own_thread(partial(_first_trouble, self._places))
        await self._look_at(self._handlers.values())

    async def _look_at(self, handlers: Iterable[Handler]) -> None:
        """Programs are only asked for their version when they are others than before, each once."""
        marks = {each.name: await in_own_thread(partial(_marks, each)) for each in handlers}
        fresh = [self._handlers[name] for name, mark in marks.items() if self._is_news(name, mark)]
        runtimes = await _answers(features.runtime, {each.path for each in fresh})
        monitors = await _answers(features.tool, {each.monitor for each in fresh})
        for each in fresh:
            found = await in_own_thread(partial(_status, each, runtimes, monitors))
            self._tell(self._known.get(each.name), found)
            self._known[each.name], self._seen[each.name] = found, marks[each.name]

    def _is_news(self, name: str, marks: tuple[_Mark | None, ...]) -> bool:
        known = self._known.get(name)
        return known is None or bool(known.problem) or self._seen.get(name) != marks

    def _tell(self, before: HandlerStatus | None, found: HandlerStatus) -> None:
        if found.problem and (before is None or before.problem != found.problem):
            log.warning("runtime handler %s cannot be used: %s", found.name, found.problem)
        if not found.problem:
            source = "by its word" if found.features.told else "as far as its version tells"
            version = ".".join(map(str, found.features.version)) or "of unknown version"
            log.info(
                "runtime handler %s: %s %s at %s (features %s)",
                found.name, found.features.name, version, found.path, source,
            )  # fmt: skip


async def _answers(ask: Callable[[str], Awaitable[Tool]], names: Iterable[str]) -> _Answers:
    """What each of these programs says, or what is wrong with it."""
    wanted = sorted(set(names))
    return dict(zip(wanted, await asyncio.gather(*(_answer(ask, name) for name in wanted)), strict=True))


async def _answer(ask: Callable[[str], Awaitable[Tool]], name: str) -> Tool | SampanError:
    try:
        tool = await ask(name)
    except SampanError as error:
        return error
    for warning in tool.warnings:
        log.warning("%s", warning)
    return tool


# --- in a thread --------------------------------------------------------------------------------------------


def _status(handler: Handler, runtimes: _Answers, monitors: _Answers) -> HandlerStatus:
    runtime, monitor = runtimes[handler.path], monitors[handler.monitor]
    for answer in (runtime, monitor):
        if isinstance(answer, SampanError):
            return HandlerStatus(handler.name, problem=str(answer))
    assert isinstance(runtime, Tool)
    try:
        base = _base(handler)
    except (Invalid, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        return HandlerStatus(handler.name, problem=f"its base_runtime_spec {handler.base_spec} {why}")
    return HandlerStatus(handler.name, runtime.path, runtime.features, base, handler.privileged_devices)


def _base(handler: Handler) -> dict[str, Any]:
    if not handler.base_spec:
        return {}
    with Path(handler.base_spec).open("rb") as file:
        base, passed_over = base_spec.parse(file.read(base_spec.LIMIT + 1))
    if passed_over:
        log.info("%s: no effect has what is said of %s", handler.base_spec, ", ".join(passed_over))
    return base


def _marks(handler: Handler) -> tuple[_Mark | None, ...]:
    """The files on which it depends whether and how a handler works; another mark is another file."""
    programs = [shutil.which(name) or "" for name in (handler.path, handler.monitor)]
    return tuple(map(_mark, [*programs, handler.base_spec]))


def _mark(path: str) -> _Mark | None:
    try:
        found = Path(path).stat() if path else None
    except OSError:
        return None
    return (path, found.st_dev, found.st_ino, found.st_ctime_ns) if found else None


def _first_trouble(places: Iterable[Path]) -> Trouble | None:
    """The worst of what is wrong with these directories. A full one is not fatal: the kubelet must go on to remove
    pods, which it does not while the runtime is not ready."""
    found = [trouble for place in places if (trouble := _place_trouble(place))]
    return next((trouble for trouble in found if trouble.fatal), found[0] if found else None)


def _place_trouble(place: Path) -> Trouble | None:
    try:
        _write(place)
    except OSError as error:
        if error.errno in _FULL:
            return Trouble("DirectoryFull", f"{place}: {error.strerror}", fatal=False)
        return Trouble("DirectoryNotWritable", f"{place} cannot be written to: {error.strerror}")
    return None


def _write(place: Path) -> None:
    """Write a page to a file without a name: nothing is left, whatever happens."""
    try:
        fd = os.open(place, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS)) from None
        return
    try:
        os.write(fd, b"\0" * 4096)
    finally:
        os.close(fd)
