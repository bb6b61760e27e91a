"""hosts.toml: which hosts serve a registry's images, as containerd documents it (docs/hosts.md).

    server = "https://registry-1.docker.io"          # asked last; if left out: the registry itself, by https
    [host."https://mirror.example:5000"]             # asked first, in the order of the file
      capabilities = ["pull", "resolve"]             # all, if left out or empty
      ca = "mirror.crt"                              # relative to this file; a list is fine
      client = [["mirror.cert", "mirror.key"]]       # of several, the last of each kind of key is shown
      skip_verify = false
      override_path = false                          # true: the URL's path is used as it is, without /v2
      dial_timeout = "30s"
      [host."https://mirror.example:5000".header]
        x-example = ["value"]

Not the directories they are in: `host.registry.hosts` reads those. Keys that are unknown are passed over: the
files are shared with other runtimes, which may know more.

Where this is stricter than containerd: a file with a mistake is an error that names it (containerd logs it and asks
the registry itself, which the file may have been written to prevent); a URL with a user or a query is refused (there
they are dropped); http:// is plain HTTP whatever else the table says (there TLS is tried first where it has TLS keys).
What is laxer: `docker.io` as a host means the machine that serves its images; a host that is listed and is the server
too is asked once; a pair with one certificate file is fine.
"""

import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from sampan.model.errors import Invalid
from sampan.wire.reference import DEFAULT_DOMAIN

CAPABILITIES = frozenset({"pull", "resolve"})
DIAL_SECONDS = 30.0
DOCKER_HUB = "registry-1.docker.io"  # serves the images of docker.io
_KNOWN_CAPABILITIES = CAPABILITIES | {"push", "referrers"}
_TLS_KEYS = frozenset({"ca", "client", "skip_verify"})
_URL = re.compile(
    r"([Hh][Tt]{2}[Pp][Ss]?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
    r"((?:/[A-Za-z0-9._~%:@!$&'()*+,;=-]*)*)"
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_PART = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)"  # both signs that people write for micro
_DURATION = re.compile(rf"\+?(?:(?:{_PART})+|0)|")
_DURATION_PART = re.compile(_PART)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


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
    assumed: bool = False  # nobody says how loopback speaks: plain HTTP is fine there, credentials are not

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}"


def default(domain: str) -> Host:
    """The registry itself, where no file says otherwise: https, and trusted certificates only.

    On loopback is where developers put theirs, and no traffic leaves the machine: like containerd and Docker, take any
    certificate there, and plain HTTP on a port of its own (`host.registry.hosts` finds out what it speaks). Unlike
    them, show it no credentials: whoever gets hold of the port would have them.
    """
    host = DOCKER_HUB if domain == DEFAULT_DOMAIN else domain
    if not _on_loopback(domain):
        return Host("https", host, origin=True)
    scheme = "http" if domain.endswith(":80") else "https"
    return Host(scheme, host, skip_verify=scheme == "https", origin=True, assumed=True)


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
    last = reader.last(tables, domain)
    # A server that is listed as a host too is asked once, under the table that describes it, unless it may do more.
    for place, host in enumerate(hosts):
        if host.url == last.url:
            hosts[place] = replace(host, origin=True)
            if last.capabilities <= host.capabilities:
                return tuple(hosts)
    return (*hosts, last)


def from_certificates(domain: str, directory: str, names: Sequence[str]) -> tuple[Host, ...]:
    """The older form of such a directory, Docker's: certificates alone (*.crt to trust, *.cert with *.key to show; a
    *.cert without one holds its key itself)."""
    base = PurePosixPath(directory)
    keys = {name.removesuffix(".key") for name in names if name.endswith(".key")}
    certificates = [name for name in sorted(names) if name.endswith(".cert")]
    pairs = tuple(
        (str(base / name), str(base / f"{stem}.key") if stem in keys else "")
        for name, stem in ((name, name.removesuffix(".cert")) for name in certificates)
    )
    authorities = tuple(str(base / name) for name in sorted(names) if name.endswith(".crt"))
    host = default(domain)
    if not pairs and not authorities:
        return (host,)
    return (Host("https", host.host, ca=authorities, client=pairs, origin=True),)


def _on_loopback(domain: str) -> bool:
    name = re.sub(r":[0-9]+$", "", domain) if not domain.endswith("]") else domain
    try:
        ip = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name.lower() == "localhost"
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


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

    def last(self, tables: Mapping[str, Any], domain: str) -> Host:
        """The host that is asked last: the server, or the registry itself with what the top of the file says."""
        server = tables.get("server", "")
        if server != "":
            return self.host(server, tables, origin=True)
        implied = default(domain)
        # As containerd does it: it may do everything, whatever `capabilities` at the top says.
        top = {key: value for key, value in tables.items() if key not in ("capabilities", "override_path")}
        said = self.host(f"{implied.scheme}://{implied.host}", top, origin=True)
        if implied.assumed and _TLS_KEYS.isdisjoint(tables):
            return replace(said, skip_verify=implied.skip_verify, assumed=True)
        return said

    def _url(self, url: str) -> tuple[str, str, str]:
        match = _URL.fullmatch(url if "://" in url else f"https://{url}")
        if match is None or int((match[3] or ":1")[1:]) not in range(1, 65536):
            raise Invalid(f"{self.where}: {_shown(url)!r} is not a URL like https://host:port")
        scheme, host, port, path = match.groups()
        if host == DEFAULT_DOMAIN and not port:
            host = DOCKER_HUB
        return scheme.lower(), host + (port or ""), _clean(path)

    def _capabilities(self, table: Mapping[str, Any]) -> frozenset[str]:
        given = frozenset(each.lower() for each in self._texts(table.get("capabilities", []), "capabilities"))
        if unknown := given - _KNOWN_CAPABILITIES:
            raise Invalid(f"{self.where}: {min(unknown)!r} is no capability; there is pull, resolve and push")
        return given or CAPABILITIES

    def _client(self, given: object) -> tuple[tuple[str, str], ...]:
        """A file with certificate and key, a list of such, or a list of [certificate, key]."""
        pairs: list[tuple[str, str]] = []
        for entry in [given] if isinstance(given, str) else given if isinstance(given, list) else [None]:
            names = [entry] if isinstance(entry, str) else entry
            if not isinstance(names, list) or len(names) not in (1, 2):
                raise Invalid(f"{self.where}: client must be a file or a list of [certificate, key]")
            certificate, key = [*self._texts(names, "client"), ""][:2]  # "" too where one file holds both
            pairs.append((self._path(certificate, "client"), self._path(key, "client") if key else ""))
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


def _clean(path: str) -> str:
    """A path without empty, "." and ".." parts."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "".join(f"/{part}" for part in parts)


def _shown(url: str) -> str:
    """A URL that somebody got wrong, fit for an error: without the user and the query, which may be secrets."""
    scheme, mark, rest = url.rpartition("://")
    return scheme + mark + rest.partition("?")[0].rpartition("@")[2]
