"""`exec`: a command in a running container, its output as it comes, with input and a terminal if wanted."""

import math
import sys

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import arguments, detach_keys, naming
from sampan.cli.client import Client, NotOffered, told
from sampan.cli.invocation import Failed, Invocation, Parsed

NOT_AVAILABLE = 125
_GRACE = 10.0  # seconds that the daemon has, beyond the command's own time, to kill it and to answer
_NO_TERMINAL = "sampan: standard input is no terminal: there is one in the container only"

detach_option = click.option(
    "--detach-keys",
    type=Parsed("keys", detach_keys.parse),
    default=detach_keys.DEFAULT,
    show_default=True,
    help="Keys that leave the session, with commas between; '' for none.",
)


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.argument("word", metavar="CONTAINER")
@click.argument("command", nargs=-1, required=True)
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@detach_option
@click.pass_obj
def exec_command(
    invocation: Invocation,
    word: str,
    command: tuple[str, ...],
    interactive: bool,
    tty: bool,
    detach_keys: bytes,
) -> int:
    """Run a command in a running container; ends with the command's exit code.

    The global --timeout limits the command: it is killed then, and the exit code is 124.
    """
    client = invocation.client
    id = naming.container(word, client.containers(), client.pods()).id
    request = cri.ExecRequest(
        container_id=id,
        cmd=arguments.words(command),
        stdin=interactive,
        stdout=True,
        stderr=not tty,
        tty=tty,
    )
    try:
        url = client.call(client.runtime.Exec, request).url
    except NotOffered as error:
        if interactive or tty:
            raise Failed(f"no session (-i, -t) is to be had: {error}", NOT_AVAILABLE) from None
        return _without_session(client, request, invocation.seconds)
    return _session(url, request, detach_keys, invocation.seconds)


def _session(url: str, request: cri.ExecRequest, keys: bytes, seconds: float) -> int:
    from sampan.cli import session, signals

    console = session.console(stdin=request.stdin, tty=request.tty, keys=keys)
    if request.stdin and request.tty and console.raw is None:
        click.echo(_NO_TERMINAL, err=True)
    try:
        status = session.attend(url, console, signals.Signals(seconds))
    except signals.Interrupted as interrupted:
        return interrupted.tell("the command", seconds)
    if status is None:
        click.echo("\nsampan: left the session", err=True)
        return 0
    if status.failure:
        raise told(status.failure.removeprefix("Internal error occurred: "))
    return status.code


def _without_session(client: Client, request: cri.ExecRequest, seconds: float) -> int:
    """By ExecSync, for a daemon that serves no sessions: the output when it has ended."""
    sync = cri.ExecSyncRequest(container_id=request.container_id, cmd=request.cmd, timeout=math.ceil(seconds))
    deadline = sync.timeout + _GRACE if sync.timeout else 0.0
    answer = client.call(client.runtime.ExecSync, sync, seconds=deadline)
    for stream, content in ((sys.stdout.buffer, answer.stdout), (sys.stderr.buffer, answer.stderr)):
        stream.write(content)
        stream.flush()
    return answer.exit_code
