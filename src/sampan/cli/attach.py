"""`attach`: what a running container writes from now on, and its input if it has one."""

import json
import time

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import naming
from sampan.cli.client import Client, told
from sampan.cli.exec import detach_option
from sampan.cli.invocation import Invocation

_ENDING_SECONDS = 2.0  # between the end of a container's output and its exit in its status
_STEP = 0.02


@click.command("attach")
@click.argument("word", metavar="CONTAINER")
@click.option("--no-stdin", is_flag=True, help="Only look: pass no input on.")
@detach_option
@click.pass_obj
def attach_command(invocation: Invocation, word: str, no_stdin: bool, detach_keys: bytes) -> int:
    """Attach to the output of a running container, and to its input if it was made with one.

    Ends with the container's exit code when that ends. The detach keys leave it running; ^C does, too, unless it goes
    to the container's terminal. The end of standard input is the container's only if its input is for one client.
    """
    from sampan.cli import session, signals

    client = invocation.client
    id = naming.container(word, client.containers(), client.pods()).id
    tty, has_stdin, once = _channels(client, id)
    stdin = has_stdin and not no_stdin
    request = cri.AttachRequest(container_id=id, stdin=stdin, stdout=True, stderr=not tty, tty=tty)
    url = client.call(client.runtime.Attach, request).url
    console = session.console(stdin=stdin, tty=tty, keys=detach_keys, redraw=True)
    console.tells_end = once
    try:
        status = session.attend(url, console, signals.Signals(invocation.seconds))
    except signals.Interrupted as interrupted:
        return interrupted.tell("the session", invocation.seconds)
    if status is None:
        click.echo("\nsampan: left; the container runs on", err=True)
        return 0
    if status.failure:
        raise told(status.failure.removeprefix("Internal error occurred: "))
    return _exit_code(client, id)


def _channels(client: Client, id: str) -> tuple[bool, bool, bool]:
    """Whether the container has a terminal, whether it has an input, and whether that ends with its first client."""
    request = cri.ContainerStatusRequest(container_id=id, verbose=True)
    said = client.call(client.runtime.ContainerStatus, request).info.get("info", "")
    try:
        info = json.loads(said)
        if "config" in info:
            tty, stdin, once = (bool(info["config"].get(name)) for name in ("tty", "stdin", "stdin_once"))
            return tty, stdin, once and not tty
        return bool(info["runtimeSpec"]["process"].get("terminal")), True, False  # CRI-O tells no more
    except (ValueError, KeyError, TypeError, AttributeError):
        return False, True, False


def _exit_code(client: Client, id: str) -> int:
    """The container's, once it has ended; 0 if only the session has."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while (status := client.status(id)).state == cri.CONTAINER_RUNNING and time.monotonic() < deadline:
        time.sleep(_STEP)
    return status.exit_code
