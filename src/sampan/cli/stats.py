"""`stats`: what containers use, once or again and again."""

import time

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import json_text, naming, tables
from sampan.cli.invocation import Invocation, Seconds, json_option


@click.command("stats")
@click.argument("words", metavar="[CONTAINER]...", nargs=-1)
@click.option("-w", "--watch", is_flag=True, help="Show it again and again, until ^C.")
@click.option("--interval", type=Seconds(), default="2s", show_default=True, help="How often, with --watch.")
@json_option
@click.pass_obj
def stats_command(invocation: Invocation, words: tuple[str, ...], watch: bool, interval: float) -> None:
    """Show what containers use, all that run or those named: processor (100 % is one core), memory, disk.

    MEMORY is the working set, which is what counts against a limit; DISK is what the container has written.
    """
    while True:
        text = _stats(invocation, words)
        if watch and not invocation.as_json:
            click.clear()
        click.echo(text, nl=False)
        if not watch:
            return
        time.sleep(max(interval, 0.1))


def _stats(invocation: Invocation, words: tuple[str, ...]) -> str:
    client = invocation.client
    containers, pods = client.containers(), client.pods()
    response = client.call(client.runtime.ListContainerStats, cri.ListContainerStatsRequest())
    found = list(response.stats)
    if words:
        wanted = {naming.container(word, containers, pods).id for word in words}
        found = [each for each in found if each.attributes.id in wanted]
    if invocation.as_json:
        return json_text.text(cri.ListContainerStatsResponse(stats=found)) + "\n"
    names = {pod.id: pod.metadata.name for pod in pods}
    return tables.stats(found, {each.id: names.get(each.pod_sandbox_id, "") for each in containers})
