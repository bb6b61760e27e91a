"""`run`: image → pod → container → its output and exit code. Undone whole if it cannot start."""

import os
import secrets
import signal
import uuid
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import arguments, run_config
from sampan.cli.client import Client
from sampan.cli.exec import NOT_AVAILABLE
from sampan.cli.images import named_image, pull
from sampan.cli.invocation import Failed, Invocation, Parsed
from sampan.cli.lifecycle import GRACE, log_directory, remove_thing
from sampan.cli.logs import follow_log, write
from sampan.cli.run_config import Wish
from sampan.cli.tables import printable, short


def _variable(text: str) -> cri.KeyValue:
    return arguments.variable(text, os.environ)


def _mount(text: str) -> cri.Mount:
    return arguments.mount(text, str(Path.cwd()))


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("image")
@click.argument("command", nargs=-1)
@click.option(
    "--name",
    type=Parsed("name", arguments.name),
    help="Of the pod, the container and the host; made up if not given.",
)
@click.option("--rm", "remove", is_flag=True, help="Remove all of it once it has ended.")
@click.option("-d", "--detach", is_flag=True, help="Print the container's id and leave it running.")
@click.option(
    "-p",
    "--publish",
    type=Parsed("[ip:]host:ctr[/proto]", arguments.port),
    multiple=True,
    help="Make a port of the container reachable at a port of the host.",
)
@click.option(
    "-e",
    "--env",
    type=Parsed("name=value", _variable),
    multiple=True,
    help="Set a variable; NAME alone passes on the value it has here.",
)
@click.option(
    "-v",
    "--volume",
    type=Parsed("host:ctr[:ro]", _mount),
    multiple=True,
    help="Mount a file or directory of the host.",
)
@click.option(
    "--net",
    type=click.Choice(["pod", "host"]),
    default="pod",
    show_default=True,
    help="A network of its own, or the host's.",
)
@click.option("--memory", type=Parsed("size", arguments.memory), help="At most this much, such as 512m.")
@click.option(
    "--cpus", type=Parsed("number", arguments.cpu_quota), help="At most this many processors, such as 0.5."
)
@click.option("--user", help="NAME, UID or UID:GID; by default the image's.")
@click.option("--privileged", is_flag=True, help="All capabilities and devices, and no profiles.")
@click.option("-w", "--workdir", default="", help="Working directory; by default the image's.")
@click.option("--entrypoint", help="The program to run, instead of the image's.")
@click.option(
    "--pull",
    type=click.Choice(["missing", "always", "never"]),
    default="missing",
    show_default=True,
    help="When to pull the image.",
)
@click.option("--handler", default="", help="Runtime handler; by default the daemon's default.")
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.pass_obj
def run_command(
    invocation: Invocation,
    /,
    image: str,
    command: tuple[str, ...],
    interactive: bool,
    tty: bool,
    **options: Any,  # noqa: ANN401 - the fields of Wish
) -> int:
    """Run an image: pull it if it is not here, make a pod and a container, show its output.

    Ends with the container's exit code. ^C stops the container, a second ^C kills it. What has ended stays
    listed, with its log, until `sampan rm`; --rm removes it at once.
    """
    wish = Wish(image=image, command=arguments.words(command), **options)
    if interactive or tty:
        raise Failed("an interactive run (-i, -t) is not available in this version", NOT_AVAILABLE)
    if wish.detach and wish.remove:
        raise click.UsageError("--rm cannot be used with -d: nobody is left to remove it")
    if wish.net == "host" and wish.publish:
        raise click.UsageError("-p cannot be used with --net host: its ports are the host's already")
    return run(invocation.client, wish)


def run(client: Client, wish: Wish) -> int:
    """Do it; the exit code."""
    name = wish.name or arguments.name_from(wish.image, secrets.token_hex(2))
    if wish.name:
        _require_free(client, wish.name)
    image_id = _image(client, wish)
    uid = str(uuid.uuid4())
    logs = log_directory(client, name, uid)
    try:
        container = run_config.container(wish, name, image_id)
    except ValueError as error:
        raise click.UsageError(f"--user {wish.user!r} {error}") from error
    with _Interrupts(client) as interrupts:
        pod, id = _make(client, run_config.pod(wish, name, uid, str(logs)), container, wish.handler)
        if wish.detach:
            click.echo(id)
            return 0
        code = _attend(client, id, logs / container.log_path, interrupts)
    if wish.remove:
        remove_thing(client, pod)
    else:  # give back its network; what is left is for `logs`, `inspect` and `rm`
        client.call(client.runtime.StopPodSandbox, cri.StopPodSandboxRequest(pod_sandbox_id=pod.id))
    return code


def _require_free(client: Client, name: str) -> None:
    for pod in client.pods():
        if (pod.metadata.namespace, pod.metadata.name) == (run_config.NAMESPACE, name):
            raise Failed(f"pod {short(pod.id)} has the name {name}; remove it with `sampan rm {name}`")


def _image(client: Client, wish: Wish) -> str:
    """The id of the image, pulled if that is wanted."""
    if wish.pull != "always":
        found = named_image(client, wish.image)
        if found is not None:
            return found.id
        if wish.pull == "never":
            raise Failed(f"image {wish.image} is not here, and --pull never forbids to pull it")
    return pull(client, wish.image)


def _make(
    client: Client, config: cri.PodSandboxConfig, container: cri.ContainerConfig, handler: str
) -> tuple[cri.PodSandbox, str]:
    """The pod and the id of its container, started; or nothing of either."""
    request = cri.RunPodSandboxRequest(config=config, runtime_handler=handler)
    try:
        pod_id = client.call(client.runtime.RunPodSandbox, request).pod_sandbox_id
    except BaseException:
        with suppress(OSError):  # log directories are the client's to remove; only an empty one is
            Path(config.log_directory).rmdir()
        raise
    pod = cri.PodSandbox(id=pod_id, metadata=config.metadata, labels=config.labels)
    try:
        create = cri.CreateContainerRequest(pod_sandbox_id=pod_id, config=container, sandbox_config=config)
        id = client.call(client.runtime.CreateContainer, create).container_id
        client.call(client.runtime.StartContainer, cri.StartContainerRequest(container_id=id))
    except BaseException:
        with suppress(Failed):  # the first failure is the one to be told
            remove_thing(client, pod)
        raise
    return pod, id


class _Interrupts:
    """^C and SIGTERM, passed on: the first stops the container, the next kills it. A context manager."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, client: Client) -> None:
        self._client = client
        self._came = 0
        self._stops: list[object] = []  # calls under way; gRPC cancels what nobody holds
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave, it takes

    def _count(self, number: int, frame: FrameType | None) -> None:
        self._came += 1  # and no more: the call it interrupts may hold gRPC's locks

    def pass_on(self, id: str) -> None:
        """Stop the container `id` if a signal has come since the last time."""
        if self._came > len(self._stops):
            request = cri.StopContainerRequest(container_id=id, timeout=0 if self._stops else GRACE)
            self._stops.append(self._client.runtime.StopContainer.future(request))


def _attend(client: Client, id: str, log: Path, interrupts: _Interrupts) -> int:
    """Show what the container writes until it has ended; its exit code."""

    def ended() -> bool:
        interrupts.pass_on(id)
        return client.status(id).state == cri.CONTAINER_EXITED

    for record in follow_log(log, ended):
        write(record)
        interrupts.pass_on(id)
    status = client.status(id)
    if status.reason not in ("Completed", "Error"):
        click.echo(f"sampan: {status.reason}: {printable(status.message)}", err=True)
    return status.exit_code
