"""`version` and `info`: the daemon itself."""

import json
from importlib.metadata import version
from typing import TYPE_CHECKING

import click

from sampan.cli.invocation import Invocation, json_option

if TYPE_CHECKING:
    from sampan.cli.client import Client


@click.command("version")
@click.option("--client", "client_only", is_flag=True, help="Only the client's: asks no daemon.")
@json_option
@click.pass_obj
def version_command(invocation: Invocation, client_only: bool) -> None:
    """Show the versions of client and daemon."""
    found = {"client": version("sampan")}
    if not invocation.as_json:
        click.echo(f"client: {found['client']}")
    if not client_only:
        found |= _daemon_version(invocation.client)
        if not invocation.as_json:
            click.echo(f"daemon: {found['daemon']}\nruntime: {found['runtime']}\nCRI: {found['cri']}")
    if invocation.as_json:
        click.echo(json.dumps(found, indent=2))


def _daemon_version(client: "Client") -> dict[str, str]:
    from sampan.api import cri_pb2 as cri

    answer = client.call(client.runtime.Version, cri.VersionRequest())
    return {
        "daemon": answer.runtime_version,
        "runtime": answer.runtime_name,
        "cri": answer.runtime_api_version,
    }


@click.command("info")
@json_option
@click.pass_obj
def info_command(invocation: Invocation) -> None:
    """Show the state of the daemon and of the node: what is ready, what is not and why, where things are."""
    from sampan.cli import node

    click.echo(node.text(invocation.client, invocation.as_json), nl=False)
