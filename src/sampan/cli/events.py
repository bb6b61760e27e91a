"""`events`: what happens to pods and containers, as it happens."""

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import json_text, naming, tables
from sampan.cli.invocation import Failed, Invocation, json_option

WORDS = {
    cri.CONTAINER_CREATED_EVENT: "created",
    cri.CONTAINER_STARTED_EVENT: "started",
    cri.CONTAINER_STOPPED_EVENT: "stopped",
    cri.CONTAINER_DELETED_EVENT: "deleted",
}


@click.command("events")
@click.option("--pod", "pod_word", metavar="POD", help="Only those of this pod and its containers.")
@json_option
@click.pass_obj
def events_command(invocation: Invocation, pod_word: str | None) -> None:
    """Show what happens to pods and containers, as it happens, until ^C.

    With --json: a line for each event, with the status of its pod and of the pod's containers right after it.
    """
    client = invocation.client
    pod = naming.pod(pod_word, client.pods()).id if pod_word is not None else ""
    names: dict[str, str] = {}  # of containers, for the event that says they are gone
    for event in client.stream(client.runtime.GetContainerEvents, cri.GetEventsRequest()):
        if pod and event.pod_sandbox_status.id != pod:
            continue
        names.update((each.id, each.metadata.name) for each in event.containers_statuses)
        if invocation.as_json:
            click.echo(json_text.text(event, indent=None))
        else:
            click.echo(line(event, names.get(event.container_id, "")))
        if event.container_event_type == cri.CONTAINER_DELETED_EVENT:
            names.pop(event.container_id, None)
    raise Failed("the daemon has ended, and its events with it")


def line(event: cri.ContainerEventResponse, name: str) -> str:
    """Time, subject, what happened, id, name, and how it ended if it has. Pure."""
    pod = event.pod_sandbox_status.metadata
    subject = "pod" if event.container_id == event.pod_sandbox_status.id else "container"
    path = "/".join(part for part in (pod.namespace, pod.name, name) if part)
    what = WORDS.get(event.container_event_type, "unknown")
    words = [tables.timestamp(event.created_at), f"{subject:9}", what, tables.short(event.container_id), path]
    ends = [each for each in event.containers_statuses if each.id == event.container_id]
    if ends and event.container_event_type == cri.CONTAINER_STOPPED_EVENT:
        words.append(f"({ends[0].reason}, {ends[0].exit_code})")
    return tables.printable(" ".join(words))
