"""hosts.toml: which hosts serve a registry's images, as containerd documents it (docs/hosts.md).

    server = "https://registry-1.docker.io"          # the registry itself, asked last; if left out: https
    [host."https://mirror.example:5000"]             # asked first, in the order of the file
      capabilities = ["pull", "resolve"]
      ca = "mirror.crt"                              # relative to this file; a list is fine
      client = [["mirror.cert", "mirror.key"]]
      skip_verify = false
      override_path = false                          # true: the URL's path is used as it is, without /v2
      dial_timeout = "30s"
      [host."https://mirror.example:5000".header]
        x-example = ["value"]

Not the directories they are in: `host.registry.hosts` reads those. Keys that are unknown are passed over: the
files are shared with other runtimes, which may know more.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from sampan.model.errors import Invalid
from sampan.wire.reference import DEFAULT_DOMAIN

CAPABILITIES = frozenset({"pull", "resolve"})
DIAL_SECONDS = 30.0
_DOCKER_HUB = "registry-1.docker.io"
_URL = re.compile(
    r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?((?:/[A-Za-z0-9._~%:@!$&'()*+,;=-]*)*)"
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|ms|s|m|h))+|0")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Host:
    """One host that may be asked for a registry's images. `path` begins the path of every request ("/v2")."""

    scheme: str
    host: str  # with the port, if one was given
    path: str = "/v2"
    capabilities: frozenset[str] = CAPABILITIES
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()  # certificate and key; "" where one file holds both
    skip_verify: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # may hold an Authorization
    dial_timeout: float = DIAL_SECONDS
    origin: bool = False  # the registry itself, not a mirror

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}"


def default(domain: str) -> Host:
    """The registry itself, where no file says otherwise: https, always."""
    return Host("https", _DOCKER_HUB if domain == DEFAULT_DOMAIN else domain, origin=True)


def parse(text: str, domain: str, directory: str) -> tuple[Host, ...]:
    """The hosts to ask for images of `domain`, in order. Raises Invalid saying which key is wrong."""
    where = f"{directory}/hosts.toml"
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{where} is not TOML: {error}") from None
    reader = _Reader(where, PurePosixPath(directory))
    mirrors = tables.get("host", {})
    if not isinstance(mirrors, dict):
        raise Invalid(f'{where}: host must be tables, [host."https://..."]')
    hosts = [reader.host(url, table, origin=False) for url, table in mirrors.items()]
    server = tables.get("server")
    if server is None:
        return (*hosts, default(domain))
    last = reader.host(server, tables, origin=True)
    # A server that is listed as a host too is asked once, under the table that describes it.
    if any(host.url == last.url for host in hosts):
        return tuple(replace(host, origin=True) if host.url == last.url else host for host in hosts)
    return (*hosts, last)


def from_certificates(domain: str, directory: str, names: list[str]) -> tuple[Host, ...]:
    """The older form of such a directory: certificates alone (*.crt to trust, *.cert with *.key to show)."""
    base = PurePosixPath(directory)
    host = default(domain)
    pairs = [
        (str(base / name), str(base / (name.removesuffix(".cert") + ".key")))
        for name in sorted(names)
        if name.endswith(".cert") and name.removesuffix(".cert") + ".key" in names
    ]
    authorities = tuple(str(base / name) for name in sorted(names) if name.endswith(".crt"))
    return (Host(host.scheme, host.host, ca=authorities, client=tuple(pairs), origin=True),)


def directories(domain: str) -> tuple[str, ...]:
    """The names a domain's directory may have, the first that exists counts: a port's colon is awkward in
    some."""
    name, colon, port = domain.rpartition(":")
    if colon and port.isascii() and port.isdigit():
        return f"{name}_{port}_", domain, "_default"
    return domain, "_default"


@dataclass(frozen=True, slots=True)
class _Reader:
    where: str
    directory: PurePosixPath

    def host(self, url: object, table: object, *, origin: bool) -> Host:
        if not isinstance(url, str) or not isinstance(table, dict):
            raise Invalid(f"{self.where}: every host must be a table, named by its URL, and server a URL")
        scheme, host, path = self._url(url)
        if not self._flag(table, "override_path"):
            path = path if path.endswith("/v2") else f"{path}/v2"
        return Host(
            scheme,
            host,
            path,
            capabilities=self._capabilities(table),
            ca=tuple(self._path(name, "ca") for name in self._texts(table.get("ca", []), "ca")),
            client=self._client(table.get("client", [])),
            skip_verify=self._flag(table, "skip_verify"),
            headers=self._headers(table.get("header", {})),
            dial_timeout=self._seconds(table.get("dial_timeout")),
            origin=origin,
        )

    def _url(self, url: str) -> tuple[str, str, str]:
        match = _URL.fullmatch(url if "://" in url else f"https://{url}")
        if match is None:
            raise Invalid(f"{self.where}: {url!r} is not a URL like https://host:port")
        scheme, host, port, path = match.groups()
        return scheme, host + (port or ""), path.rstrip("/")

    def _capabilities(self, table: Mapping[str, Any]) -> frozenset[str]:
        given = table.get("capabilities")
        if given is None:
            return CAPABILITIES
        return frozenset(self._texts(given, "capabilities"))

    def _client(self, given: object) -> tuple[tuple[str, str], ...]:
        """A file with certificate and key, a list of such, or a list of [certificate, key]."""
        pairs: list[tuple[str, str]] = []
        for entry in [given] if isinstance(given, str) else given if isinstance(given, list) else [None]:
            names = [entry] if isinstance(entry, str) else entry
            if not isinstance(names, list) or len(names) not in (1, 2):
                raise Invalid(f"{self.where}: client must be a file or a list of [certificate, key]")
            files = [self._path(name, "client") for name in self._texts(names, "client")]
            pairs.append((files[0], files[1] if len(files) == 2 else ""))
        return tuple(pairs)

    def _headers(self, given: object) -> tuple[tuple[str, str], ...]:
        if not isinstance(given, dict):
            raise Invalid(f"{self.where}: header must be a table")
        headers = [(name, value) for name, values in given.items() for value in self._texts(values, "header")]
        for name, value in headers:
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise Invalid(f"{self.where}: {name!r} is no HTTP header, or its value has odd characters")
        return tuple(headers)

    def _seconds(self, given: object) -> float:
        if given is None:
            return DIAL_SECONDS
        if not isinstance(given, str) or not _DURATION.fullmatch(given):
            raise Invalid(f'{self.where}: dial_timeout must be a duration like "30s"')
        return (
            sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(given))
            or DIAL_SECONDS
        )

    def _texts(self, given: object, key: str) -> list[str]:
        values = [given] if isinstance(given, str) else given
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise Invalid(f"{self.where}: {key} must be text or a list of texts")
        return values

    def _flag(self, table: Mapping[str, Any], key: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            raise Invalid(f"{self.where}: {key} must be true or false")
        return value

    def _path(self, name: str, key: str) -> str:
        if not name or "\0" in name:
            raise Invalid(f"{self.where}: {key} must name a file")
        return str(self.directory / name)
