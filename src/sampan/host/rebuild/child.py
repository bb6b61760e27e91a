"""The child process that reads a layer again: `tar` writes the tar that it came as to descriptor 4, `verify` compares
it with what it was.

Started by `host.storage.layer_tar` with descriptor 3 the store's directory. It answers with one JSON line,
{"ok": {...}} or {"error": [class, message]}. The layer is the image's, so the child sees nothing but the store,
read-only, and yields the processor to whoever wants it. Not a library: it drops the process's privileges and ends it.
"""

import json
import os
import resource
import sys
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from sampan.host.rebuild.check import Check
from sampan.host.rebuild.recipe import Recipe
from sampan.host.rebuild.tar import REAL, pieces
from sampan.host.syscalls import (
    CAP_DAC_OVERRIDE,
    CAP_SYS_ADMIN,
    MNT_DETACH,
    MS_BIND,
    MS_NOATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    PR_SET_DUMPABLE,
    keep_capabilities,
    mount,
    no_new_privileges,
    pivot_root,
    prctl,
    umount,
)
from sampan.host.unpack import confine
from sampan.host.unpack.cursor import resolve
from sampan.host.unpack.layout import RECIPE, ROOT
from sampan.host.unpack.write import write_all
from sampan.model.errors import Invalid, Lost
from sampan.wire.layer_state import State

STORE, OUT = 3, 4  # the descriptors we are started with
_MEMORY = 1 << 30  # bytes of address space; a comparison keeps each path of the layer
_READ_ONLY = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME
_FILES = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def main() -> None:
    """Do what argv says: `tar NAME BASE` or `verify NAME BASE DIFF_ID LOWERS`, names below the store."""
    try:
        verb, name, base, *arguments = sys.argv[1:]
        _enter()
        fs = _open(f"{name}/{ROOT}")
        recipe = Recipe(resolve(_open("."), f"{name}/{RECIPE}", os.O_RDONLY | os.O_NOFOLLOW, REAL))
        report = (
            _verify(recipe, fs, base == "base", arguments)
            if verb == "verify"
            else _tar(recipe, fs, base == "base")
        )
        answer: dict[str, Any] = {"ok": report}
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the answer
        answer = {"error": _explained(error)}
    os.write(1, json.dumps(answer).encode() + b"\n")
    os._exit(0)


def _tar(recipe: Recipe, fs: int, base: bool) -> dict[str, Any]:
    state = State(recipe.notes, base=base).run(recipe.entries()) if recipe.notes.cleared else None
    for piece in pieces(recipe, fs, state):
        write_all(OUT, memoryview(piece))
    return {}


def _verify(recipe: Recipe, fs: int, base: bool, arguments: Sequence[str]) -> dict[str, Any]:
    diff_id, lowers = arguments
    check = Check(recipe, fs, [_open(lower) for lower in lowers.split(":") if lower], base=base)
    partly = check.run(diff_id)
    return {"differences": check.differences, "count": check.count, "partly": partly}


def _enter() -> None:
    """Have the store as the root, read-only, and few rights there: to read all, trusted.* attributes too."""
    os.nice(10)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.fchdir(STORE)
    os.close(STORE)
    confine.private_mounts()
    mount(".", ".", "", MS_BIND)
    os.chdir(os.getcwd())  # noqa: PTH109 - into the mount that now covers it
    mount("", ".", "", MS_REMOUNT | MS_BIND | _READ_ONLY)
    pivot_root(".", ".")
    umount(".", MNT_DETACH)
    os.chdir("/")
    sha256()  # libcrypto reads its configuration when first used
    keep_capabilities((CAP_DAC_OVERRIDE, CAP_SYS_ADMIN))
    no_new_privileges()
    prctl(PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for store in (sys.path, sys.meta_path, sys.path_hooks, sys.path_importer_cache):
        store.clear()


def _open(path: str) -> int:
    return resolve(os.open("/", _FILES), path, _FILES, REAL)


def _explained(error: BaseException) -> tuple[str, str]:
    """The class of `model.errors` that a failure is, and what to say."""
    if isinstance(error, Invalid):
        return "Invalid", str(error)
    if isinstance(error, Lost):
        return "Lost", str(error)
    if isinstance(error, MemoryError):
        return "Exhausted", f"reading the layer takes more than {_MEMORY >> 20} MiB of memory"
    return "Lost", f"{type(error).__name__}: {error}"
