"""`inspect`: all that is known of one thing, as JSON."""

import json
from collections.abc import Mapping
from typing import Any

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import json_text, naming
from sampan.cli.client import Client
from sampan.cli.images import find_image
from sampan.cli.invocation import Invocation, json_option
from sampan.model.errors import NotFound


@click.command("inspect")
@click.argument("word", metavar="CONTAINER|POD|IMAGE")
@click.option("--type", "kind", type=click.Choice(["container", "pod", "image"]), help="Look for this only.")
@json_option
@click.pass_obj
def inspect_command(invocation: Invocation, word: str, kind: str | None) -> None:
    """Show all that is known of a container, a pod or an image, as JSON.

    A container's spec, a pod's network result and an image's config are under "info".
    """
    click.echo(json_text.text(_inspect(invocation.client, word, kind)))


def _inspect(client: Client, word: str, kind: str | None) -> dict[str, Any]:
    if kind != "image":
        try:
            return _thing(client, word, kind)
        except NotFound:
            if kind is not None:
                raise
    found = find_image(client, word)
    if found is None:
        raise NotFound(f"there is no {kind or 'container, pod or image'} {word}")
    request = cri.ImageStatusRequest(image=cri.ImageSpec(image=found.id), verbose=True)
    image = client.call(client.images.ImageStatus, request)
    return {"image": json_text.fields(image.image), "info": _info(image.info)}


def _thing(client: Client, word: str, kind: str | None) -> dict[str, Any]:
    pods = client.pods()
    thing: naming.Thing
    if kind == "pod":
        thing = naming.pod(word, pods)
    elif kind == "container":
        thing = naming.container(word, client.containers(), pods)
    else:
        thing = naming.either(word, client.containers(), pods)
    if isinstance(thing, cri.Container):
        container = client.call(
            client.runtime.ContainerStatus, cri.ContainerStatusRequest(container_id=thing.id, verbose=True)
        )
        return {"status": json_text.fields(container.status), "info": _info(container.info)}
    pod = client.call(
        client.runtime.PodSandboxStatus, cri.PodSandboxStatusRequest(pod_sandbox_id=thing.id, verbose=True)
    )
    return {
        "status": json_text.fields(pod.status),
        "containers": [json_text.fields(each) for each in pod.containers_statuses],
        "info": _info(pod.info),
    }


def _info(info: Mapping[str, str]) -> dict[str, Any]:
    """The verbose part: values that are JSON as JSON; the usual single "info" without its wrapping."""
    found = {key: _value(text) for key, text in sorted(info.items())}
    only = found.get("info")
    return only if len(found) == 1 and isinstance(only, dict) else found


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
