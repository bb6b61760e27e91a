"""`stop` and `rm`: the end of containers and pods. What `sampan run` made is stopped and removed whole."""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import naming
from sampan.cli.client import Client
from sampan.cli.invocation import Failed, Invocation, for_each

DEFAULT_ROOT = "/var/lib/sampan"
GRACE = 10  # seconds between the stop signal and the kill


@click.command("stop")
@click.argument("words", metavar="CONTAINER|POD...", nargs=-1, required=True)
@click.option(
    "-t", "--time", "grace", type=click.IntRange(min=0), default=GRACE, show_default=True,
    help="Seconds between the stop signal and the kill.",
)  # fmt: skip
@click.pass_obj
def stop_command(invocation: Invocation, words: tuple[str, ...], grace: int) -> int:
    """Stop containers or pods: send the image's stop signal, wait, kill.

    A pod's containers are stopped one by one; then its network is given back. It stays listed until `sampan
    rm`.
    """
    client = invocation.client

    def stop(word: str) -> None:
        stop_thing(client, _find(client, word), grace)
        click.echo(word)

    return for_each(words, stop)


@click.command("rm")
@click.argument("words", metavar="CONTAINER|POD...", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Also what is still running: it is killed.")
@click.pass_obj
def rm_command(invocation: Invocation, words: tuple[str, ...], force: bool) -> int:
    """Remove containers or pods; a pod goes with its containers."""
    client = invocation.client

    def remove(word: str) -> None:
        thing = _find(client, word)
        running = running_in(client, thing)
        if running and not force:
            raise Failed(f"{word} is running; stop it first with `sampan stop {word}`, or use -f")
        remove_thing(client, thing)
        click.echo(word)

    return for_each(words, remove)


def stop_thing(client: Client, thing: naming.Thing, grace: int) -> None:
    """Stop a container, or a pod's containers and then the pod."""
    for container in running_in(client, thing):
        client.call(
            client.runtime.StopContainer, cri.StopContainerRequest(container_id=container.id, timeout=grace)
        )
    if isinstance(thing, cri.PodSandbox):
        client.call(client.runtime.StopPodSandbox, cri.StopPodSandboxRequest(pod_sandbox_id=thing.id))


def remove_thing(client: Client, thing: naming.Thing) -> None:
    """Remove a container or a pod, whatever its state; with a pod that `sampan run` made, its log."""
    if isinstance(thing, cri.Container):
        client.call(client.runtime.RemoveContainer, cri.RemoveContainerRequest(container_id=thing.id))
        return
    logs = _run_logs(client, thing)
    client.call(client.runtime.StopPodSandbox, cri.StopPodSandboxRequest(pod_sandbox_id=thing.id))
    client.call(client.runtime.RemovePodSandbox, cri.RemovePodSandboxRequest(pod_sandbox_id=thing.id))
    if logs is not None:
        with suppress(OSError):  # not ours to remove without root; the daemon has done its part
            shutil.rmtree(logs)


def running_in(client: Client, thing: naming.Thing) -> list[cri.Container]:
    """The containers that run: of a pod, or this one if it does."""
    wanted = cri.ContainerFilter(
        id=thing.id if isinstance(thing, cri.Container) else "",
        pod_sandbox_id=thing.id if isinstance(thing, cri.PodSandbox) else "",
        state=cri.ContainerStateValue(state=cri.CONTAINER_RUNNING),
    )
    return list(
        client.call(client.runtime.ListContainers, cri.ListContainersRequest(filter=wanted)).containers
    )


def _find(client: Client, word: str) -> naming.Thing:
    pods = client.pods()
    return naming.unit(word, client.containers(), pods)


def log_directory(client: Client, name: str, uid: str) -> Path:
    """Where the log of a pod that `sampan run` made is kept: below the daemon's root, by name and uid."""
    answer = client.call(client.runtime.Status, cri.StatusRequest(verbose=True))
    try:
        root = json.loads(answer.info["config"])["root"]
    except (KeyError, ValueError, TypeError):
        root = DEFAULT_ROOT
    return Path(root) / "logs" / f"{name}-{uid}"


def _run_logs(client: Client, pod: cri.PodSandbox) -> Path | None:
    """Never a path that a request named: labels and names come from any client of the socket."""
    name, uid = pod.metadata.name, pod.metadata.uid
    if naming.RUN_LABEL not in pod.labels or not re.fullmatch(
        r"[a-z0-9-]{1,63}/[0-9a-f-]{1,36}", f"{name}/{uid}"
    ):
        return None
    return log_directory(client, name, uid)
