"""Where a registry's images are served from: the hosts.toml directories, read at each pull, so that no
restart is needed.

What a file means is `wire.hosts_toml`; this finds and reads it, and finds out what an unconfigured registry on
loopback speaks.
"""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sampan.host.threads import in_thread
from sampan.model.errors import Invalid
from sampan.wire import hosts_toml
from sampan.wire.hosts_toml import Host

FILE_LIMIT = 1 << 20  # bytes
GREETING_SECONDS = 5.0  # for a registry on loopback to show what it speaks


async def hosts_of(domain: str, config_paths: Sequence[Path]) -> tuple[Host, ...]:
    """The hosts to ask for images of `domain`, in order. Raises Invalid for a file that cannot be read or
    understood."""
    hosts = await in_thread(_hosts_of, domain, config_paths)
    return tuple([await _settled(host) if host.assumed else host for host in hosts])


def _hosts_of(domain: str, config_paths: Sequence[Path]) -> tuple[Host, ...]:
    for root in config_paths:
        for name in hosts_toml.directories(domain):
            directory = root / name
            try:
                if directory.is_dir():
                    return _read(domain, directory)
            except (OSError, UnicodeDecodeError) as error:
                raise Invalid(f"{directory}/hosts.toml cannot be read: {error}") from error
    return (hosts_toml.default(domain),)


def _read(domain: str, directory: Path) -> tuple[Host, ...]:
    text = b""
    file = directory / "hosts.toml"
    if file.exists():
        with file.open("rb") as opened:
            text = opened.read(FILE_LIMIT + 1)
    if len(text) > FILE_LIMIT:
        raise Invalid(f"{file} is larger than {FILE_LIMIT} bytes")
    if text:
        return hosts_toml.parse(text.decode(), domain, str(directory))
    names = [entry.name for entry in directory.iterdir() if entry.is_file()]
    return hosts_toml.from_certificates(domain, str(directory), names)


async def _settled(host: Host) -> Host:
    """A host on loopback that nobody configured, with the scheme it speaks. Ports 80 and 443 say it themselves."""
    name, _, port = host.host.rpartition(":")
    if host.scheme == "http" or not name or host.host.endswith("]") or port == "443":
        return host
    if await _speaks_tls(name.strip("[]"), int(port)):
        return host
    return replace(host, scheme="http", skip_verify=False)


async def _speaks_tls(name: str, port: int) -> bool:
    """Whether the other side answers a TLS greeting in TLS. True too where nobody answers: the request will say it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(GREETING_SECONDS):
            _, writer = await asyncio.open_connection(name, port, ssl=context)
        writer.transport.abort()
    except ssl.SSLError:
        return False
    except OSError as error:
        # a server that ends the connection on what it takes for a request line speaks no TLS either
        return not isinstance(error, ConnectionResetError | BrokenPipeError)
    return True
