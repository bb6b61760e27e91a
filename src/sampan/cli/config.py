"""`config`: the daemon's configuration file. Asks no daemon."""

from pathlib import Path

import click

from sampan import config as configuration


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
    """Say everything that is wrong with a configuration file, by default /etc/sampan/config.toml."""
    configuration.load(file)
    click.echo(f"{file}: nothing wrong with it")
