"""`config`: the daemon's configuration file. Asks no daemon."""

from pathlib import Path

import click

from sampan import config as configuration
from sampan.model.errors import Invalid


@click.group("config")
def config_command() -> None:
    """Work with the daemon's configuration file; docs/configuration.md explains every key."""


@config_command.command("default")
def default_command() -> None:
    """Print the whole default configuration, every key explained."""
    click.echo(configuration.default_toml(), nl=False)


@config_command.command("check")
@click.argument("file", type=click.Path(path_type=Path), default=configuration.DEFAULT_FILE, metavar="[FILE]")
def check_command(file: Path) -> None:
    """Say everything that is wrong with a configuration file, by default /etc/sampan/config.toml, and with the policy
    that it names."""
    policy = configuration.load(file).trust.policy
    if policy:
        _check_policy(Path(policy))
    click.echo(f"{file}: nothing wrong with it")


def _check_policy(file: Path) -> None:
    """What the file says; whose it is, and the keys, are judged by the daemon."""
    from sampan.wire import trust_policy

    try:
        with file.open("rb") as opened:
            data = opened.read(trust_policy.FILE_LIMIT + 1)
    except OSError as error:
        raise Invalid(f"trust.policy: {file} cannot be read: {error.strerror}") from None
    if len(data) > trust_policy.FILE_LIMIT:
        raise Invalid(f"trust.policy: {file} is larger than {trust_policy.FILE_LIMIT} bytes")
    trust_policy.parse(data, str(file))
