"""The CDI directories of this node: every *.json and *.yaml in them, read again when it has changed.

What is in a file becomes root's doing (hooks, mounts, devices), so only what root alone can have written counts.
A file that cannot be used is no reason to refuse the devices of others: it is told of where a device is missing.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sampan.host import owned
from sampan.host.threads import in_own_thread
from sampan.model.cdi import Given, Index, Source, Spec
from sampan.model.errors import Invalid, NotFound
from sampan.wire import cdi as files


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A file as it was read: what identifies its content, and what it holds or why it is no use."""

    identity: tuple[int, ...]
    spec: Spec | None
    problem: str = ""


class CdiDirectories:
    """The `CdiRegistry` port on the real machine. A later directory goes before an earlier one."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = tuple(directories)
        self._seen = _Seen()

    async def edits(self, names: Sequence[str]) -> tuple[Given, ...]:
        """What it takes to have these devices. Raises NotFound, Invalid. May block on a dead file system."""
        shown = [str(directory) for directory in self._directories]
        try:
            return (await self._look(self._seen)).resolve(names, shown)
        except NotFound:  # a file may have changed within the resolution of its times
            return (await self._look(_Seen())).resolve(names, shown)

    async def _look(self, before: "_Seen") -> Index:
        self._seen = await in_own_thread(lambda: _seen(self._directories, before))
        return self._seen.index


@dataclass(frozen=True, slots=True)
class _Seen:
    """The files and problems of one look, and the index of them."""

    files: tuple[tuple[int, str, _Read], ...] = ()
    problems: tuple[str, ...] = ()
    index: Index = field(default_factory=lambda: Index(()))


def _seen(directories: Sequence[Path], before: _Seen) -> _Seen:
    read, problems = _scan(directories, {path: file for _, path, file in before.files})
    if (tuple(read), tuple(problems)) == (before.files, before.problems):
        return before
    sources = [Source(path, priority, file.spec) for priority, path, file in read if file.spec]
    said = [*problems, *(file.problem for _, _, file in read if file.problem)]
    return _Seen(tuple(read), tuple(problems), Index(sources, said))


def _scan(
    directories: Sequence[Path], known: dict[str, _Read]
) -> tuple[list[tuple[int, str, _Read]], list[str]]:
    """([(priority, path, file)], problems with directories)."""
    read: list[tuple[int, str, _Read]] = []
    problems: list[str] = []
    for priority, directory in enumerate(directories):
        try:
            # By descriptor, so that it is this directory's files that are read, whatever its path leads to next.
            folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{directory} cannot be read: {error.strerror}")
            continue
        try:
            owned.check(os.fstat(folder), str(directory))
            read += [(priority, path, file) for path, file in _files(folder, directory, known)]
        except (Invalid, OSError) as error:
            problems.append(str(error))
        finally:
            os.close(folder)
    return read, problems


def _files(folder: int, directory: Path, known: dict[str, _Read]) -> Iterator[tuple[str, _Read]]:
    for name in sorted(os.listdir(folder)):
        if name.endswith(files.SUFFIXES) and not name.startswith("."):
            path = str(directory / name)
            yield path, _file(folder, name, path, known.get(path))


def _file(folder: int, name: str, path: str, known: _Read | None) -> _Read:
    identity: tuple[int, ...] = ()
    try:
        # No FIFO may hold us up; links are followed, for package managers make them.
        file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            found = os.fstat(file)
            owner = (found.st_mode, found.st_uid, found.st_gid)
            identity = (
                found.st_dev,
                found.st_ino,
                found.st_size,
                found.st_mtime_ns,
                found.st_ctime_ns,
                *owner,
            )
            if known is not None and known.identity == identity:
                return known
            if not stat.S_ISREG(found.st_mode):
                raise Invalid(f"{path} is not a regular file")
            owned.check(found, path)
            return _Read(identity, files.parse(_content(file), path))
        finally:
            os.close(file)
    except Invalid as error:
        return _Read(identity, None, str(error))
    except OSError as error:
        return _Read((), None, f"{path} cannot be read: {error.strerror}")


def _content(file: int) -> bytes:
    with os.fdopen(os.dup(file), "rb") as opened:
        return opened.read(files.LIMIT + 1)
