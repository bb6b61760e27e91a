"""`run`: image → pod → container → its output and exit code. Undone whole if it cannot start."""

import os
import secrets
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import arguments, run_config
from sampan.cli.client import Client
from sampan.cli.exec import detach_option
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
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal; with -i it is this one, until it ends.")
@detach_option
@click.pass_obj
def run_command(
    invocation: Invocation,
    /,
    image: str,
    command: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - the fields of Wish
) -> int:
    """Run an image: pull it if it is not here, make a pod and a container, show its output.

    Ends with the container's exit code. ^C stops the container, a second ^C kills it. What has ended stays
    listed, with its log, until `sampan rm`; --rm removes it at once. With -it every key goes to the container, but for
    the detach keys, which leave it running.
    """
    wish = Wish(image=image, command=arguments.words(command), **options)
    if wish.detach and wish.remove:
        raise click.UsageError("--rm cannot be used with -d: nobody is left to remove it")
    if wish.net == "host" and wish.publish:
        raise click.UsageError("-p cannot be used with --net host: its ports are the host's already")
    if wish.interactive and wish.tty and not wish.detach and not (sys.stdin and os.isatty(0)):
        raise click.UsageError("-t cannot be used with -i if standard input is no terminal: leave it out")
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
    config = run_config.pod(wish, name, uid, str(logs))
    with _Interrupts(client) as interrupts, _made(client, config, container, wish.handler) as made:
        if wish.detach:
            made.start()
            click.echo(made.id)
            return 0
        try:
            code = _attend(client, made, wish, logs / container.log_path, interrupts)
        except BrokenPipeError:  # nobody reads what it writes
            client.call(
                client.runtime.StopContainer, cri.StopContainerRequest(container_id=made.id, timeout=GRACE)
            )
            _finish(client, made.pod, wish)
            raise
    if code is None:
        return 0
    _finish(client, made.pod, wish)
    return code


def _finish(client: Client, pod: cri.PodSandbox, wish: Wish) -> None:
    if wish.remove:
        remove_thing(client, pod)
    else:  # give back its network; what is left is for `logs`, `inspect` and `rm`
        client.call(client.runtime.StopPodSandbox, cri.StopPodSandboxRequest(pod_sandbox_id=pod.id))


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


class _Made:
    """A pod with a container that waits to be started."""

    def __init__(self, client: Client, pod: cri.PodSandbox, id: str) -> None:
        self._client = client
        self.pod = pod
        self.id = id
        self.started = False

    def start(self) -> None:
        self._client.call(
            self._client.runtime.StartContainer, cri.StartContainerRequest(container_id=self.id)
        )
        self.started = True


@contextmanager
def _made(
    client: Client, config: cri.PodSandboxConfig, container: cri.ContainerConfig, handler: str
) -> Iterator[_Made]:
    """The pod and its container; nothing of either if the block fails before it has started it."""
    request = cri.RunPodSandboxRequest(config=config, runtime_handler=handler)
    try:
        pod_id = client.call(client.runtime.RunPodSandbox, request).pod_sandbox_id
    except BaseException:
        with suppress(OSError):  # log directories are the client's to remove; only an empty one is
            Path(config.log_directory).rmdir()
        raise
    made = _Made(client, cri.PodSandbox(id=pod_id, metadata=config.metadata, labels=config.labels), "")
    try:
        create = cri.CreateContainerRequest(pod_sandbox_id=pod_id, config=container, sandbox_config=config)
        made.id = client.call(client.runtime.CreateContainer, create).container_id
        yield made
    except BaseException:
        if not made.started:
            with suppress(Failed):  # the first failure is the one to be told
                remove_thing(client, made.pod)
        raise


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
            if signal.getsignal(number) is not signal.SIG_IGN:
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


def _attend(client: Client, made: _Made, wish: Wish, log: Path, interrupts: _Interrupts) -> int | None:
    """Start it and show what it writes until it has ended; its exit code. None if the person left it before."""

    def pass_on() -> None:
        if made.started:
            interrupts.pass_on(made.id)

    if wish.interactive or wish.tty:
        from sampan.cli import run_session

        session = run_session.RunSession(client, wish, made.id, made.pod.metadata.name)
        if not session.attend(made.start, pass_on):
            return None
    else:
        made.start()
        _show(client, made.id, log, pass_on)
    status = client.status(made.id)
    if status.reason not in ("Completed", "Error"):
        click.echo(f"sampan: {status.reason}: {printable(status.message)}", err=True)
    return status.exit_code


def _show(client: Client, id: str, log: Path, pass_on: Callable[[], None]) -> None:
    """What the container writes, until it has ended."""

    def ended() -> bool:
        pass_on()
        return client.status(id).state == cri.CONTAINER_EXITED

    for record in follow_log(log, ended):
        write(record)
        pass_on()
