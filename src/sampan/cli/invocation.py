"""What all commands share: the endpoint, the deadline, text or JSON, and the way a command fails."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

import click

from sampan.model.errors import SampanError
from sampan.wire import settings

if TYPE_CHECKING:
    from sampan.cli.client import Client

DEFAULT_ENDPOINT = "unix:///run/sampan/sampan.sock"
FAILED, UNREACHABLE, OUT_OF_TIME = 1, 3, 124
CANNOT_RUN, NOT_FOUND = 126, 127  # the program in the container, as shells say it


class Failed(click.ClickException):
    """The command failed; the message is for a person."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click's is a class variable
        return self.code

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"sampan: {self.format_message()}", file=file, err=True)


class Seconds(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """A duration such as 10s or 2m, or a plain number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's
        text = str(value)
        try:
            return settings.duration(f"{text}s" if text.isdecimal() and text.isascii() else text)
        except ValueError as error:
            return self.fail(f"{text!r} {error}", param, ctx)


class Parsed(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """A value that a function makes of the text, or refuses with ValueError."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        try:
            # A default comes as text, what was parsed already as it is.
            return self._parse(value) if isinstance(value, str) else value
        except ValueError as error:
            return self.fail(f"{value!r} {error}", param, ctx)


@dataclass
class Invocation:
    """One use of the command line."""

    endpoint: str = DEFAULT_ENDPOINT
    seconds: float = 0.0
    as_json: bool = False

    @cached_property
    def client(self) -> "Client":
        """The connection; gRPC is imported only now."""
        from sampan.cli.client import Client

        return Client(self.endpoint, self.seconds)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()


def _set_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Invocation).as_json = True


# Before and after the command's name: both `sampan --json ps` and `sampan ps --json` are typed.
json_option = click.option(
    "--json", is_flag=True, expose_value=False, callback=_set_json, help="Print JSON, for scripts."
)


def for_each(words: Iterable[str], act: Callable[[str], object]) -> int:
    """Do it to each, report those that fail and go on; the exit code."""
    code = 0
    for word in words:
        try:
            act(word)
        except Failed as error:
            if error.code == UNREACHABLE:
                raise
            error.show()
            code = error.code
        except SampanError as error:
            click.echo(f"sampan: {error}", err=True)
            code = FAILED
    return code
