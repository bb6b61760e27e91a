"""Writes a layer's tar again, byte for byte, from its recipe and its files. Whoever reads it compares the hash."""

import os
import stat
from collections.abc import Callable, Iterator

from sampan.host.rebuild.recipe import Recipe
from sampan.host.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from sampan.host.unpack.cursor import resolve
from sampan.model.errors import Invalid, Lost
from sampan.wire import tar
from sampan.wire.layer_state import State
from sampan.wire.tar_recipe import extents, has_content

REAL = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
READ = 1 << 18  # bytes at once: they stay in a core's cache while they are hashed
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
Damaged = Callable[[bytes, str], None]  # told a path and what is wrong there


def shown(path: bytes) -> str:
    """A path for people."""
    return "/" + path.decode("utf-8", "backslashreplace")


def fail(path: bytes, what: str) -> None:
    """The tar cannot be made."""
    raise Lost(f"{shown(path)[:500]} of the layer {what}")


def pieces(recipe: Recipe, fs: int, state: State | None, damaged: Damaged = fail) -> Iterator[bytes]:
    """The tar of the layer whose files are below `fs`. `state` is needed where entries were replaced.
    Raises Invalid if it cannot be rebuilt."""
    if recipe.notes.irregular:
        raise Invalid(f"the layer's tar cannot be rebuilt: {recipe.notes.irregular}")
    passed: list[bytes] = []
    for number, entry in recipe.entries(passed):
        if len(passed) > 256 or (has_content(entry) and entry.stored):
            yield b"".join(passed)
            passed.clear()
        if has_content(entry) and entry.stored:
            yield from _content(recipe, fs, state, (number, entry), damaged)
    yield b"".join(passed)


def _content(
    recipe: Recipe, fs: int, state: State | None, what: tuple[int, tar.Entry], damaged: Damaged
) -> Iterator[bytes]:
    """What is stored of a file."""
    number, entry = what
    if state is not None and number in state.gone:
        yield from _read(recipe.fd, state.gone[number], entry, b"", damaged)
        return
    path = recipe.notes.place(number, entry)
    if state is not None:
        path = state.moved.get(number, path)
    try:
        fd = resolve(fs, path, _FILE, REAL)
    except OSError as error:
        damaged(path, f"cannot be read: {error.strerror}")
        return
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            damaged(path, "is no regular file")
        elif found.st_size != entry.size:
            damaged(path, f"has {found.st_size} bytes instead of {entry.size}")
        else:
            yield from _read(fd, 0, entry, path, damaged)
    finally:
        os.close(fd)


def _read(fd: int, start: int, entry: tar.Entry, path: bytes, damaged: Damaged) -> Iterator[bytes]:
    for offset, size in extents(entry):
        at, end = start + offset, start + offset + size
        while at < end:
            try:
                piece = os.pread(fd, min(READ, end - at), at)
            except OSError as error:
                damaged(path, f"cannot be read: {error.strerror}")
                return
            if not piece:
                damaged(path, "is cut short")
                return
            at += len(piece)
            yield piece
