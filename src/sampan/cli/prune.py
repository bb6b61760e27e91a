"""`prune`: removes the images that nobody uses, and says what that gave back."""

import click

from sampan.api import sampan_pb2 as own
from sampan.cli import json_text, tables
from sampan.cli.invocation import Invocation, json_option


@click.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="Also images that have a tag.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@click.pass_obj
def prune_command(invocation: Invocation, everything: bool, dry_run: bool) -> None:
    """Remove images that no container uses and that are not pinned: those without a tag, or all."""
    client = invocation.client
    response = client.call(client.own.Prune, own.PruneRequest(all=everything, dry_run=dry_run))
    if invocation.as_json:
        click.echo(json_text.text(response))
        return
    for each in response.images:
        names = " ".join(map(tables.printable, each.names))
        click.echo(f"{each.image_id}  {tables.size(each.bytes)}  {names}".rstrip())
    freed = sum(each.bytes for each in response.images)
    count = len(response.images)
    exactly = f" ({freed} bytes)" if freed >= 1024 else ""  # what is less is said in bytes as it is
    what = f"{count} image{'' if count == 1 else 's'}, {tables.size(freed)}{exactly}"
    click.echo(f"would remove {what}" if dry_run else f"removed {what}")
