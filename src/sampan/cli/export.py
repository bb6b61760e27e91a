"""`export`: images as an archive, in a file that appears only when it is whole."""

import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from sampan.api import sampan_pb2 as own
from sampan.cli.invocation import Failed, Invocation


@click.command("export")
@click.argument("words", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "-o", "--output", metavar="FILE", default="-", help="Where to; - is standard output, the default."
)
@click.pass_obj
def export_command(invocation: Invocation, words: tuple[str, ...], output: str) -> None:
    """Write images as an archive, an OCI layout that `docker load` reads too; layers they share stand in it once."""
    client = invocation.client
    with _standard_output() if output == "-" else _file(Path(output)) as file:
        for chunk in client.stream(client.own.Export, own.ExportRequest(images=words)):
            file.write(chunk.data)


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    if sys.stdout.isatty():
        raise click.UsageError(
            "an archive is not for a terminal; name a file with -o, or redirect the output"
        )
    try:
        # a buffer of our own: what cannot be written is not tried once more when the process ends
        with open(sys.stdout.fileno(), "wb", closefd=False) as file:
            yield file
    except OSError as error:
        raise Failed(f"cannot write standard output: {error.strerror}") from None


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when all went well, and else is gone. A pipe or device is written to."""
    path = path.resolve()
    try:
        special = path.exists() and not stat.S_ISREG(path.stat().st_mode)
        if path.is_dir():
            raise Failed(f"cannot write {path}: it is a directory")
        draft = path if special else path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
        file = draft.open("wb" if special else "xb")
    except OSError as error:
        raise Failed(f"cannot write {path}: {error.strerror}") from None
    try:
        with file:
            yield file
            if not special:
                file.flush()
                os.fsync(file.fileno())
        if not special:
            draft.rename(path)
    except OSError as error:
        raise Failed(f"cannot write {path}: {error.strerror}") from None
    finally:
        if not special:
            draft.unlink(missing_ok=True)
