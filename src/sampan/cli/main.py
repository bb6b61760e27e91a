"""`sampan`: arguments → command → exit code. A client of the daemon's socket like any other.

Exit codes: 0 done, 1 the operation failed, 2 usage, 3 the daemon cannot be reached, 124 out of time, 130
interrupted; `run` and `exec` pass on the code of what they ran, 126 if it cannot be run, 127 if it is not there.
A command's module is imported only when the command is used, so that help and completion come at once.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import click

from sampan.cli.invocation import DEFAULT_ENDPOINT, Invocation, Seconds, json_option
from sampan.cli.lazy import LazyGroup
from sampan.model.errors import SampanError

# Command → module and the line that describes it in `sampan --help`.
COMMANDS = {
    "run": ("run", "Run an image: pull it if it is not here, make a pod and a container, show its output."),
    "ps": ("listing", "List containers."),
    "pods": ("listing", "List pods."),
    "logs": ("logs", "Show what a container wrote."),
    "exec": ("exec", "Run a command in a running container."),
    "attach": ("attach", "Attach to the output of a running container, and to its input."),
    "port-forward": ("port_forward", "Forward local ports to ports of a pod."),
    "stop": ("lifecycle", "Stop containers or pods."),
    "rm": ("lifecycle", "Remove containers or pods."),
    "pull": ("images", "Download images."),
    "images": ("image_list", "List images."),
    "rmi": ("images", "Remove images."),
    "prune": ("prune", "Remove images that no container uses and that are not pinned."),
    "export": ("export", "Write images as an archive, for another machine or `docker load`."),
    "import": ("images", "Import image archives, as `docker save` or `skopeo copy` write them."),
    "inspect": ("inspect", "Show all that is known of a container, a pod or an image, as JSON."),
    "stats": ("stats", "Show what containers use."),
    "events": ("events", "Show what happens to pods and containers, as it happens, until ^C."),
    "info": ("about", "Show the state of the daemon and of the node."),
    "config": ("config", "Work with the daemon's configuration file."),
    "version": ("about", "Show the versions of client and daemon."),
}


class _Commands(LazyGroup):
    table: ClassVar = {
        name: (module, f"{name.replace('-', '_')}_command", line) for name, (module, line) in COMMANDS.items()
    }


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--endpoint",
    envvar="SAMPAN_ENDPOINT",
    default=DEFAULT_ENDPOINT,
    show_default=True,
    help="The daemon's socket; also $SAMPAN_ENDPOINT.",
)
@click.option(
    "--timeout",
    type=Seconds(),
    default="0",
    help="Give up a call after this long, such as 10s or 2m; by default never.",
)
@json_option
@click.pass_context
def cli(ctx: click.Context, endpoint: str, timeout: float) -> None:
    """Pods, containers and images of this machine, by way of the sampan daemon."""
    invocation = ctx.ensure_object(Invocation)
    invocation.endpoint, invocation.seconds = endpoint, timeout
    ctx.call_on_close(invocation.close)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    _open_standard_streams()
    sys.exit(_run(argv))


def _open_standard_streams() -> None:
    """Those that were closed are /dev/null, or what is opened next would be taken for them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free


def _run(argv: Sequence[str] | None) -> int:
    try:
        result: Any = cli.main(argv, prog_name="sampan", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SampanError as error:
        click.echo(f"sampan: {error}", err=True)
        return 1
    except UnicodeEncodeError as error:  # an argument of bytes that are no text
        click.echo(f"sampan: {error.object!a} is not UTF-8, which all words for the daemon must be", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
