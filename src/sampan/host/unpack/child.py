"""The child process that unpacks one image layer: `stage` writes it on its own, `merge` its rest onto the
layers below.

Started by `host.storage.layers`, with descriptor 3 the staging directory (to merge: the store's; `fs` the layer,
`rest` what waits for the layers below, `whiteouts`), and the blob on stdin. It answers with one JSON line,
{"ok": {...}} or {"error": [class, message]}. Not a library: it drops the process's privileges and ends it.
"""

import gc
import os
import sys
from collections.abc import Iterator
from errno import EDQUOT, ENOMEM, ENOSPC
from fcntl import F_SETPIPE_SZ, fcntl

from sampan.host.syscalls import mount
from sampan.host.unpack import confine
from sampan.host.unpack.cursor import Budget, NeedsLowers
from sampan.host.unpack.inflate import MAGIC, inflater, sniff
from sampan.host.unpack.layout import BLOB, MERGED, OVERLAY_OPTIONS, RECIPE, REST, ROOT, WHITEOUTS, WORK
from sampan.host.unpack.layout import STAGING as PLACE
from sampan.host.unpack.recorder import Recipe, RecordedMergedWriter, RecordedWriter
from sampan.host.unpack.stream import READ, Pipeline, read
from sampan.host.unpack.write import Writer, write_all
from sampan.model.errors import Exhausted, Invalid
from sampan.wire.tar import Reader

STAGING = LAYERS = 3  # the descriptor we are started with
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
Report = dict[str, str | int | bool]


def main() -> None:
    """Do what argv says: `stage COMPRESSION BASE KEEP RESERVE_BYTES RESERVE_INODES` or `merge KEY
    RESERVE_BYTES RESERVE_INODES LOWERS`.
    """
    gc.disable()
    verb, *arguments = sys.argv[1:]
    try:
        report = stage(*arguments) if verb == "stage" else merge(*arguments)
        answer = (
            '{"ok": {' + ", ".join(f"{_quoted(key)}: {_json(value)}" for key, value in report.items()) + "}}"
        )
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the answer
        answer = f'{{"error": [{", ".join(map(_quoted, _explained(error)))}]}}'
    os.write(1, answer.encode() + b"\n")
    os._exit(0)  # the threads may wait for ever, and nothing is to be flushed


def stage(compression: str, base: str, keep: str, reserve_bytes: str, reserve_inodes: str) -> Report:
    """Unpack the blob on stdin into `fs`, as far as that goes without the layers below."""
    _widen_pipe()
    first = b""
    while len(first) < MAGIC and (more := os.read(0, READ)):
        first += more
    inflate = inflater(sniff(first, compression))
    os.fchdir(STAGING)
    rest, whiteouts = os.open(REST, _NEW, 0o600), os.open(WHITEOUTS, _NEW, 0o600)
    kept = os.open(RECIPE, _NEW, 0o600)
    copy = os.open(BLOB, _NEW, 0o600) if keep == "keep" else -1
    confine.private_mounts()
    os.close(STAGING)
    confine.enter(ROOT)
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    budget = Budget(root, int(reserve_bytes), int(reserve_inodes))
    writer = RecordedWriter(root, budget, base=base == "base")
    recipe = Recipe(kept, budget)
    writer.record(recipe)
    pipeline = Pipeline(read(0, first, copy), inflate)
    written = unpack(pipeline.plain, writer, budget, rest)
    recipe.end(pipeline.content.size)
    write_all(whiteouts, memoryview(b"".join(name + b"\0" for name in writer.whiteouts)))
    return {
        "blob_digest": pipeline.blob.digest,
        "blob_size": pipeline.blob.size,
        "diff_id": pipeline.content.digest,
        "rest": not written,
        "whiteouts": bool(writer.whiteouts),
        "opaque": writer.opaque,
        "has_root": writer.has_root,
        "size": budget.size,
        "inodes": budget.inodes,
        "recipe": True,
        "spent": pipeline.spent(),
    }


def unpack(chunks: Iterator[bytes], writer: Writer, budget: Budget, rest: int = -1) -> bool:
    """Write an archive's entries to its end. False if those from some entry on went to `rest` instead."""
    source = writer.source(chunks)
    reader = Reader(source)
    try:
        for entry in reader:
            writer.write(entry, reader)
    except NeedsLowers:
        writer.unread(entry)
        write_all(rest, memoryview(entry.raw))
        for piece in source.rest():
            budget.room(len(piece))
            write_all(rest, piece)
        return False
    finally:
        writer.leave()
    for piece in source.rest():  # padding; it counts for the hashes
        writer.tail(piece)
    return True


def merge(key: str, reserve_bytes: str, reserve_inodes: str, lowers: str) -> Report:
    """Unpack `rest` onto the overlay of `fs` over the layers `lowers`: names below descriptor 4, highest
    first.
    """
    os.fchdir(LAYERS)  # all relative to the store: five hundred lower layers must fit in a page
    here = f"{PLACE}/{key}"
    rest = os.open(f"{here}/{REST}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    kept = os.open(f"{here}/{RECIPE}", os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.close(LAYERS)
    confine.private_mounts()
    # volatile: to unmount would write all of the disk out, once for every layer; `host.storage.layers` does it once
    options = f"lowerdir={lowers},upperdir={here}/{ROOT},workdir={here}/{WORK},{OVERLAY_OPTIONS},volatile"
    mount("overlay", f"{here}/{MERGED}", "overlay", 0, options)
    upper = confine.detached(f"{here}/{ROOT}")
    confine.enter(f"{here}/{MERGED}")
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    budget = Budget(root, int(reserve_bytes), int(reserve_inodes))
    writer = RecordedMergedWriter(root, upper, budget)
    recipe = Recipe(kept, budget, more=True)
    writer.record(recipe)
    unpack(read(rest), writer, budget)
    writer.snapshot()
    recipe.end()
    return {"has_root": writer.has_root, "size": budget.size, "inodes": budget.inodes}


def _widen_pipe() -> None:
    """Let a chunk of the blob pass in one go. stdin may be a file."""
    try:
        fcntl(0, F_SETPIPE_SZ, 1 << 20)
    except OSError:
        return


def _explained(error: BaseException) -> tuple[str, str]:
    """The class of `model.errors` that a failure is, and what to say."""
    if isinstance(error, Invalid):
        return "Invalid", str(error)
    if isinstance(error, Exhausted):
        return "Exhausted", str(error)
    if isinstance(error, MemoryError):
        return "Exhausted", f"unpacking the layer takes more than {confine.MEMORY >> 20} MiB of memory"
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT, ENOMEM):
        return "Exhausted", f"the disk is full: {error}"
    if isinstance(error, RecursionError):
        return "Invalid", "a whiteout reaches through too many directories"
    return "Lost", f"{type(error).__name__}: {error}"


def _json(value: str | int | bool) -> str:
    return _quoted(value) if isinstance(value, str) else str(value).lower()


def _quoted(text: str) -> str:
    """A JSON string. The json module would cost more to load than most layers to unpack."""
    plain = text.encode("ascii", "backslashreplace").decode("ascii")
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\u{ord(c):04x}" for c in plain) + '"'
