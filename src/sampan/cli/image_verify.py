"""`images verify`: whether the disk still holds what was pulled."""

from collections.abc import Iterator

import click

from sampan.api import sampan_pb2 as own
from sampan.cli import json_text, tables
from sampan.cli.client import Client
from sampan.cli.invocation import FAILED, Failed, Invocation, json_option


@click.command("verify")
@click.argument("words", metavar="[IMAGE...]", nargs=-1)
@click.option("--repair", is_flag=True, help="Pull anew, by digest, what is damaged.")
@click.option("-q", "--quiet", is_flag=True, help="Only what is not in order.")
@json_option
@click.pass_obj
def verify_command(invocation: Invocation, words: tuple[str, ...], repair: bool, quiet: bool) -> int:
    """Compare images, by default all, with what was pulled: every byte, every file's owner, mode, time and attributes.
    Exits with 1 if something is damaged, and stays so."""
    client = invocation.client
    damaged = set[str]()
    for found in _findings(client, own.VerifyRequest(images=words, repair=repair)):
        # a layer that several images have may be mended by the pull of a later one
        place = found.layer or found.image_id
        (damaged.add if found.differences and not found.repaired else damaged.discard)(place)
        if invocation.as_json:
            click.echo(json_text.text(found, indent=None))
        elif found.differences or found.unknown or not quiet:
            _tell(found)
    return FAILED if damaged else 0


def _findings(client: Client, request: own.VerifyRequest) -> Iterator[own.VerifyResult]:
    """The findings; a failure at their end may have a line for each image that could not be repaired."""
    try:
        yield from client.stream(client.own.Verify, request)
    except Failed as error:
        raise Failed(
            "\nsampan: ".join(map(tables.printable, error.message.split("\n"))), error.code
        ) from None


def _tell(found: own.VerifyResult) -> None:
    name = tables.printable(next(iter(found.names), found.image_id))
    what = f"layer {found.number} of {found.count}" if found.number else "record"
    click.echo(f"{name}: {what}: {_verdict(found)}")
    for difference in found.differences:
        click.echo(f"    {tables.printable(difference)}")
    if found.unknown:
        click.echo(f"    {tables.printable(found.unknown)}")


def _verdict(found: own.VerifyResult) -> str:
    if found.repaired:
        return "was damaged, pulled anew"
    if found.differences:
        return "DAMAGED"
    return "not verified, or not all of it" if found.unknown else "good"
