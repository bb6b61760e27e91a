"""`ps` and `pods`: what is there."""

import time

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import json_text, naming, tables
from sampan.cli.invocation import Invocation, json_option


@click.command("ps")
@click.option("-a", "--all", "everything", is_flag=True, help="Those that have exited, too.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--pod", "pod_word", metavar="POD", help="Only those of this pod.")
@json_option
@click.pass_obj
def ps_command(invocation: Invocation, everything: bool, quiet: bool, pod_word: str | None) -> None:
    """List containers: those that run or wait to, or all."""
    client = invocation.client
    pods = client.pods()
    found = client.containers()
    if pod_word is not None:
        pod = naming.pod(pod_word, pods)
        found = [each for each in found if each.pod_sandbox_id == pod.id]
    if not everything:
        found = [each for each in found if each.state in (cri.CONTAINER_CREATED, cri.CONTAINER_RUNNING)]
    if invocation.as_json:
        click.echo(json_text.text(cri.ListContainersResponse(containers=found)))
    elif quiet:
        click.echo("".join(f"{each.id}\n" for each in found), nl=False)
    else:
        click.echo(tables.containers(found, pods, time.time_ns()), nl=False)


@click.command("pods")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@json_option
@click.pass_obj
def pods_command(invocation: Invocation, quiet: bool) -> None:
    """List pods."""
    found = invocation.client.pods()
    if invocation.as_json:
        click.echo(json_text.text(cri.ListPodSandboxResponse(items=found)))
    elif quiet:
        click.echo("".join(f"{each.id}\n" for each in found), nl=False)
    else:
        click.echo(tables.pods(found, time.time_ns()), nl=False)
