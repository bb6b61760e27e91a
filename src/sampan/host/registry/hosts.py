"""Where a registry's images are served from: the hosts.toml directories, read at each pull, so that no
restart is needed.

What a file means is `wire.hosts_toml`; this finds and reads it.
"""

from collections.abc import Sequence
from pathlib import Path

from sampan.host.threads import in_thread
from sampan.model.errors import Invalid
from sampan.wire import hosts_toml
from sampan.wire.hosts_toml import Host

FILE_LIMIT = 1 << 20  # bytes


async def hosts_of(domain: str, config_paths: Sequence[Path]) -> tuple[Host, ...]:
    """The hosts to ask for images of `domain`, in order. Raises Invalid for a file that cannot be read or
    understood."""
    return await in_thread(_hosts_of, domain, config_paths)


def _hosts_of(domain: str, config_paths: Sequence[Path]) -> tuple[Host, ...]:
    for root in config_paths:
        for name in hosts_toml.directories(domain):
            directory = root / name
            if directory.is_dir():
                return _read(domain, directory)
    return (hosts_toml.default(domain),)


def _read(domain: str, directory: Path) -> tuple[Host, ...]:
    file = directory / "hosts.toml"
    try:
        with file.open("rb") as opened:
            text = opened.read(FILE_LIMIT + 1)
        if len(text) > FILE_LIMIT:
            raise Invalid(f"{file} is larger than {FILE_LIMIT} bytes")
        return hosts_toml.parse(text.decode(), domain, str(directory))
    except FileNotFoundError:
        return hosts_toml.from_certificates(
            domain, str(directory), [entry.name for entry in directory.iterdir()]
        )
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} cannot be read: {error}") from error
