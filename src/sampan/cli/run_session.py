"""`run -i` and `run -t`: a session with a container that begins before the container does, so that nothing of what it
writes is missed.
"""

import signal
import time
from collections.abc import Callable
from contextlib import suppress

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import session
from sampan.cli.client import Client, NotOffered, told
from sampan.cli.exec import NOT_AVAILABLE
from sampan.cli.invocation import Failed
from sampan.cli.run_config import Wish
from sampan.cli.signals import Interrupted, Signals
from sampan.wire.remotecommand.status import Status

_LEAVING = (signal.SIGHUP, signal.SIGQUIT)  # the others of signals.ENDING are for the container
_ENDING_SECONDS = 10.0  # between the end of a container's output and its exit in its status
_STEP = 0.02


class _Shared(Signals):
    """`pass_on` is called when signals may have come that somebody else handles."""

    def __init__(self, pass_on: Callable[[], None]) -> None:
        super().__init__(ending=_LEAVING)
        self._pass_on = pass_on

    def take(self) -> set[int]:
        came = super().take()
        self._pass_on()
        return came


class RunSession:
    """With the container `id`, which `wish` asked for and the person knows by `name`."""

    def __init__(self, client: Client, wish: Wish, id: str, name: str) -> None:
        self._client = client
        self._wish = wish
        self._id = id
        self._name = name
        self._started = False

    def attend(self, start: Callable[[], None], pass_on: Callable[[], None]) -> bool:
        """Attach, start the container, and stay until it has ended; False if the person left it before. SIGINT and
        SIGTERM are the caller's: `pass_on` is called soon after one has come, and when it has started. Raises Failed,
        and click's Exit for other signals."""

        def begun() -> None:
            start()
            self._started = True
            pass_on()

        try:
            status = self._attended(begun, pass_on)
        except Interrupted as interrupted:
            if self._runs():
                click.echo(f"sampan: {self._how_to_return()}", err=True)
            raise click.exceptions.Exit(interrupted.exit_code) from None
        except Failed as error:
            if self._runs():
                raise Failed(f"{error.message}; {self._how_to_return()}", error.code) from None
            raise
        if status is not None and self._has_ended():
            return True
        click.echo(f"\nsampan: left; {self._how_to_return()}", err=True)
        return False

    def _attended(self, begun: Callable[[], None], pass_on: Callable[[], None]) -> Status | None:
        wish = self._wish
        console = session.console(stdin=wish.interactive, tty=wish.tty, keys=wish.detach_keys)
        status = session.attend(self._url(), console, _Shared(pass_on), begun)
        if status is not None and status.failure:
            raise told(status.failure.removeprefix("Internal error occurred: "))
        return status

    def _url(self) -> str:
        wish = self._wish
        request = cri.AttachRequest(
            container_id=self._id, stdin=wish.interactive, stdout=True, stderr=not wish.tty, tty=wish.tty
        )
        try:
            return self._client.call(self._client.runtime.Attach, request).url
        except NotOffered as error:
            raise Failed(f"no session (-i, -t) is to be had: {error}", NOT_AVAILABLE) from None

    def _has_ended(self) -> bool:
        """Whether it has, or will at once: its exit comes after the end of its output."""
        deadline = time.monotonic() + _ENDING_SECONDS
        while self._client.status(self._id).state != cri.CONTAINER_EXITED:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_STEP)
        return True

    def _runs(self) -> bool:
        """As far as is known: whom its session broke off with may be gone."""
        with suppress(Failed):
            return self._client.status(self._id).state == cri.CONTAINER_RUNNING
        return self._started

    def _how_to_return(self) -> str:
        remove = f"; it is removed with `sampan rm {self._name}`" if self._wish.remove else ""
        return f"the container runs on: `sampan attach {self._name}`{remove}"
