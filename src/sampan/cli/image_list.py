"""`sampan images`: lists images, and leads to what can be done with all of them (`sampan images verify`)."""

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import json_text, tables
from sampan.cli.invocation import Invocation, json_option
from sampan.cli.lazy import LazyGroup

# Sub-command → module, the command in it, and the line that describes it in `sampan images --help`.
SUBCOMMANDS: dict[str, tuple[str, str, str]] = {
    "verify": ("image_verify", "verify_command", "Compare images with what was pulled, and repair them."),
}


class _Subcommands(LazyGroup):
    table = SUBCOMMANDS


@click.group("images", cls=_Subcommands, invoke_without_command=True, subcommand_metavar="[COMMAND]...")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--digests", is_flag=True, help="The digest that each image was pulled by, too.")
@json_option
@click.pass_context
def images_command(ctx: click.Context, quiet: bool, digests: bool) -> None:
    """List images."""
    if ctx.invoked_subcommand is not None:
        return
    invocation = ctx.ensure_object(Invocation)
    client = invocation.client
    response = client.call(client.images.ListImages, cri.ListImagesRequest())
    if invocation.as_json:
        click.echo(json_text.text(response))
    elif quiet:
        click.echo("".join(f"{each.id}\n" for each in response.images), nl=False)
    else:
        click.echo(tables.images(response.images, digests=digests), nl=False)
