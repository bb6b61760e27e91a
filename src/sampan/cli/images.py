"""`pull`, `rmi` and `import`: images that come and go."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from sampan.api import cri_pb2 as cri
from sampan.api import sampan_pb2 as own
from sampan.cli import naming
from sampan.cli.client import Client, NotOffered, Refused
from sampan.cli.invocation import Failed, Invocation, for_each
from sampan.cli.tables import printable
from sampan.model.errors import Invalid, NotFound, WrongState
from sampan.wire.reference import parse

if TYPE_CHECKING:
    from sampan.cli.progress import PullProgress

_CHUNK = 512 << 10  # bytes of an archive in one message


@click.command("pull")
@click.argument("references", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--creds", metavar="USER[:PASSWORD]", help="For the registry; asked for if PASSWORD is left out."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress, only the id.")
@click.pass_obj
def pull_command(invocation: Invocation, references: tuple[str, ...], creds: str | None, quiet: bool) -> int:
    """Download images, showing how far each layer is, and print their ids."""
    client = invocation.client
    auth = _auth(creds)
    return for_each(references, lambda each: click.echo(pull(client, each, auth, quiet)))


@click.command("rmi")
@click.argument("words", metavar="IMAGE...", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Also images that the configuration pins.")
@click.pass_obj
def rmi_command(invocation: Invocation, words: tuple[str, ...], force: bool) -> int:
    """Remove images, by name or by the first digits of the id: each with all its names, which are printed."""
    client = invocation.client
    # All of them first: two may be names of one image
    images = {word: find_image(client, word) for word in words}
    gone, told = set[str](), set[str]()

    def tell(word: str, names: Iterable[str]) -> None:
        """The word that was given, then what else went; no name twice, however it was written."""
        for name in (word, *names):
            full = _in_full(name)
            if full not in told:
                told.add(full)
                click.echo(printable(name))

    def remove(word: str) -> None:
        found = images[word]
        if found is None:
            raise NotFound(f"there is no image {printable(word)}; `sampan images` lists them")
        if found.id in gone:
            tell(word, ())
            return
        if found.pinned and not force:
            raise WrongState(
                f"image {printable(word)} is pinned by the configuration; --force removes it all the same"
            )
        names = [*found.repo_tags, *found.repo_digests]
        spec = cri.ImageSpec(image=word if word in names else found.id)
        client.call(client.images.RemoveImage, cri.RemoveImageRequest(image=spec))
        gone.add(found.id)
        tell(word, names)

    return for_each(words, remove)


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.pass_obj
def import_command(invocation: Invocation, files: tuple[str, ...]) -> int:
    """Import image archives, as `docker save` or `skopeo copy` write them; - reads standard input."""
    client = invocation.client

    def take(name: str) -> None:
        with _archive(name) as file:
            try:
                for result in client.upload(client.own.Import, _chunks(file)):
                    click.echo(" ".join([result.image_id, *map(printable, result.tags)]))
            except Failed as error:
                source = "standard input" if name == "-" else name
                raise Failed(f"cannot import {source}: {error.message}", error.code) from None

    return for_each(files, take)


def pull(client: Client, reference: str, auth: cri.AuthConfig | None = None, quiet: bool = False) -> str:
    """Pull an image, with progress on the terminal if there is one; its id."""
    try:
        return _pull_showing(client, reference, auth, quiet)
    except NotOffered:  # some other runtime at this socket
        request = cri.PullImageRequest(image=cri.ImageSpec(image=reference), auth=auth)
        return client.call(client.images.PullImage, request).image_ref


def named_image(client: Client, name: str) -> cri.Image | None:
    """The image with this name or id; None if it is not here."""
    answer = client.call(client.images.ImageStatus, cri.ImageStatusRequest(image=cri.ImageSpec(image=name)))
    return answer.image if answer.HasField("image") else None


def find_image(client: Client, word: str) -> cri.Image | None:
    """The image with this name or id, or whose id begins with it; None if there is none."""
    try:
        found = named_image(client, word)
    except Refused:  # no possible name of an image; it may still begin an id
        found = None
    if found is not None:
        return found
    return naming.image(word, client.call(client.images.ListImages, cri.ListImagesRequest()).images)


def _pull_showing(client: Client, reference: str, auth: cri.AuthConfig | None, quiet: bool) -> str:
    id = ""
    try:
        with _progress(reference, quiet) as progress:
            for message in client.stream(client.own.Pull, own.PullRequest(image=reference, auth=auth)):
                id = message.image_id or id
                if progress is not None and message.layer:
                    progress.update(message.layer, message.done, message.total, message.ready)
    except KeyboardInterrupt:
        click.echo("sampan: the daemon goes on with the pull; ask again to see how far it is", err=True)
        raise
    return id


def _progress(reference: str, quiet: bool) -> "AbstractContextManager[PullProgress | None]":
    """Bars on the terminal, if there is one; rich takes its time to import."""
    if quiet or not sys.stderr.isatty():
        return nullcontext()
    from sampan.cli import progress

    return progress.PullProgress(reference)


def _auth(creds: str | None) -> cri.AuthConfig | None:
    if creds is None:
        return None
    user, colon, password = creds.partition(":")
    if not user:
        raise click.UsageError("--creds: there is no user; give USER:PASSWORD")
    if not colon:
        if not _terminal():
            raise click.UsageError(
                "--creds: there is no terminal to ask for the password on; give USER:PASSWORD"
            )
        password = click.prompt("Password", hide_input=True, err=True)
    return cri.AuthConfig(username=user, password=password)


def _terminal() -> bool:
    """Whether a password can be asked for: where getpass looks, which is not only standard input."""
    try:
        with Path("/dev/tty").open("rb+", buffering=0):
            return True
    except OSError:
        return sys.stdin.isatty()


def _in_full(name: str) -> str:
    """A name as the daemon knows it; what is no name, as it is."""
    try:
        return str(parse(name))
    except Invalid:
        return name


def _archive(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise Failed(f"cannot read {name}: {error.strerror}") from None


def _chunks(file: BinaryIO) -> Iterator[own.ImportChunk]:
    while data := file.read(_CHUNK):
        yield own.ImportChunk(data=data)
