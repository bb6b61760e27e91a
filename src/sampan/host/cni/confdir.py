"""The directory of CNI configurations, read anew when it has changed. Blocking; for threads.

It is looked at on every call, not watched: a dozen stats cost less than a missed notification (a rename, a
directory made later) costs the operator.
"""

import errno
import os
import stat
from pathlib import Path

from sampan.wire.cni import SIZE_LIMIT, SUFFIXES, Choice, choose, wants_directory

_Mark = tuple[str, int, int, int]


class ConfDir:
    """What the configuration directory says at the moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[_Mark, ...] | None = None
        self._choice = Choice(None, "", ())

    def read(self) -> Choice:
        """The configuration to use. Without one, its `problems` say why."""
        try:
            marks = tuple(sorted(_marks(self.path)))
        except OSError as error:
            self._seen = None
            return Choice(None, "", (f"{error.strerror}",))
        if marks != self._seen:
            self._choice = self._load()
            self._seen = marks
        return self._choice

    def complaint(self, choice: Choice) -> str:
        """Why there is no network, for people: the directory, and what is wrong with which file."""
        problems = "; ".join(choice.problems) or f"it holds no file named *{', *'.join(SUFFIXES)}"
        return f"no usable CNI configuration in {self.path}: {problems}"

    def _load(self) -> Choice:
        files: dict[str, bytes] = {}
        problems: list[str] = []
        more: dict[str, list[tuple[str, bytes]]] = {}
        for name in sorted(os.listdir(self.path)):  # noqa: PTH208
            if not name.endswith(SUFFIXES):
                continue
            try:
                files[name] = _read(self.path / name)
            except OSError as error:
                problems.append(f"{name}: {error.strerror}")
                continue
            if network := wants_directory(files[name]):
                more[network] = _siblings(self.path / network)
        choice = choose(files, more)
        return Choice(choice.conflist, choice.file, (*problems, *choice.problems))


def _marks(path: Path, below: int = 1) -> list[_Mark]:
    """What changes when a file that counts does; those in the networks' own directories count too."""
    marks: list[_Mark] = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                marks += _marks(Path(entry.path), below - 1) if below else []
            elif entry.name.endswith(SUFFIXES):
                found = entry.stat(follow_symlinks=entry.is_file())  # a dangling link has no target to ask
                marks.append((entry.path, found.st_mtime_ns, found.st_ctime_ns, found.st_size))
    return marks


def _siblings(directory: Path) -> list[tuple[str, bytes]]:
    """The `*.conf` files of a network's own directory, which add plugins to it."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".conf"))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [(f"{directory.name}/{name}", _read(directory / name)) for name in names]


def _read(path: Path) -> bytes:
    """A configuration file that nobody but root can write."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        if found.st_mode & stat.S_IWOTH:
            raise OSError(errno.EPERM, "everybody may write to it; it decides what runs as root")
        return os.read(fd, SIZE_LIMIT + 1)
    finally:
        os.close(fd)
