"""`exec`: a command in a running container, its output when it has ended."""

import math
import sys

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import arguments, naming
from sampan.cli.invocation import Failed, Invocation

NOT_AVAILABLE = 125
_GRACE = 10.0  # seconds that the daemon has, beyond the command's own time, to kill it and to answer


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.argument("word", metavar="CONTAINER")
@click.argument("command", nargs=-1, required=True)
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on (not in this version).")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal (not in this version).")
@click.pass_obj
def exec_command(
    invocation: Invocation, word: str, command: tuple[str, ...], interactive: bool, tty: bool
) -> int:
    """Run a command in a running container; ends with the command's exit code.

    The global --timeout limits the command: it is killed then, and the exit code is 124.
    """
    client = invocation.client
    container = naming.container(word, client.containers(), client.pods())
    if interactive or tty:
        return session(container, command, tty)
    request = cri.ExecSyncRequest(
        container_id=container.id, cmd=arguments.words(command), timeout=math.ceil(invocation.seconds)
    )
    deadline = request.timeout + _GRACE if request.timeout else 0.0
    answer = client.call(client.runtime.ExecSync, request, seconds=deadline)
    for stream, content in ((sys.stdout.buffer, answer.stdout), (sys.stderr.buffer, answer.stderr)):
        stream.write(content)
        stream.flush()
    return answer.exit_code


def session(container: cri.Container, command: tuple[str, ...], tty: bool) -> int:
    """A session with standard input, and a terminal with `tty`; its exit code."""
    raise Failed("interactive exec (-i, -t) is not available in this version", NOT_AVAILABLE)
