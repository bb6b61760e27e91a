"""`logs`: what a container wrote, from the log file that its status names, across rotations."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import naming
from sampan.cli.invocation import Failed, Invocation
from sampan.cli.tables import timestamp
from sampan.wire.crilog import Joiner, Record

_CHUNK = 1 << 16
_PAUSES = (0.02, 0.05, 0.1, 0.2)  # seconds between two looks at a file in which nothing happens


@click.command("logs")
@click.argument("word", metavar="CONTAINER")
@click.option("-f", "--follow", is_flag=True, help="Go on until the container has ended.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("-t", "--timestamps", is_flag=True, help="Put its time before each line.")
@click.pass_obj
def logs_command(invocation: Invocation, word: str, follow: bool, tail: int | None, timestamps: bool) -> None:
    """Show what a container wrote: its output on standard output, its errors on standard error."""
    client = invocation.client
    id = naming.container(word, client.containers(), client.pods()).id
    path = client.status(id).log_path
    if not path:
        raise Failed(f"container {id} has no log: its config names none")

    def ended() -> bool:
        return client.status(id).state == cri.CONTAINER_EXITED

    records = follow_log(Path(path), ended, tail) if follow else read_log(Path(path), tail)
    for record in records:
        write(record, timestamps)


def write(record: Record, timestamps: bool = False) -> None:
    """The line to the stream that it came from; the end of an unfinished one is left open."""
    out = sys.stdout.buffer if record.stream == "stdout" else sys.stderr.buffer
    head = f"{timestamp(record.at)} ".encode() if timestamps else b""
    out.write(head + record.content + (b"" if record.partial else b"\n"))
    out.flush()


def read_log(path: Path, tail: int | None = None) -> Iterator[Record]:
    """The log as it is now, or its last `tail` lines."""
    with _open(path) as file:
        joiner = Joiner()
        yield from _last_lines(file, joiner, tail)
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            yield from joiner.feed(chunk)
        yield from joiner.end()


def follow_log(path: Path, ended: Callable[[], bool], tail: int | None = None) -> Iterator[Record]:
    """The log, or its last `tail` lines, and what comes until `ended`: read to its end after that."""
    joiner = Joiner()
    with ExitStack() as stack:
        file = stack.enter_context(_open(path))
        yield from _last_lines(file, joiner, tail)
        quiet = 0
        last_look = False
        while True:
            chunk = file.read(_CHUNK)
            if chunk:
                quiet = 0
                yield from joiner.feed(chunk)
                continue
            if rotated := _rotated(path, file):
                stack.pop_all().close()
                file = stack.enter_context(rotated)
                continue
            if last_look:
                break
            last_look = ended()
            if not last_look:
                time.sleep(_PAUSES[min(quiet, len(_PAUSES) - 1)])
                quiet += 1
    yield from joiner.end()


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise Failed(f"the log {path} is gone") from None
    except OSError as error:
        raise Failed(f"cannot read the log {path}: {error.strerror}; try sudo") from None


def _rotated(path: Path, file: BinaryIO) -> BinaryIO | None:
    """The file that has taken this one's name, once all of this one is read; else None."""
    here = os.fstat(file.fileno())
    try:
        new = path.open("rb")
    except FileNotFoundError:
        return None  # renamed, and the new one not made yet
    there = os.fstat(new.fileno())
    shrunk = here.st_size < file.tell()  # truncated in place
    moved_on = (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) and here.st_size <= file.tell()
    if shrunk or moved_on:
        return new
    new.close()
    return None


def _last_lines(file: BinaryIO, joiner: Joiner, count: int | None) -> Iterator[Record]:
    """Leave `file` at its end and give its last `count` lines; with None leave it as it is and give none.

    Reads backwards in steps that double, until enough whole lines are there. A line that the read begins amid
    is dropped; `joiner` keeps what the last line holds so far.
    """
    if count is None:
        return
    end = file.seek(0, os.SEEK_END)
    length = _CHUNK
    while True:
        start = max(0, end - length)
        file.seek(start)
        text = file.read(end - start)
        if start:
            text = text.partition(b"\n")[2]
        trial = deque(Joiner().feed(text), maxlen=count + 1)
        if not start or len(trial) > count:  # one more than asked for, as the first may lack its beginning
            break
        length *= 2
    yield from deque(joiner.feed(text), maxlen=count)
