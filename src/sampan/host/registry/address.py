"""Which addresses a registry may send us to, and the TLS that is spoken there. Imports aiohttp: loaded at the
first pull.

A registry names other hosts: in redirects and as its token server. Those may not be this machine's or the
link's own (a metadata service answers there), and not in a private network unless the registry itself is in
one. Names are resolved once, checked, and the checked address is connected to.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from socket import SOCK_STREAM, AddressFamily

from aiohttp.abc import AbstractResolver, ResolveResult

from sampan.host.threads import in_thread
from sampan.model.errors import Invalid
from sampan.wire.hosts_toml import Host

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Reach(Enum):
    """How far from this machine an address is."""

    HERE = "loopback"
    LINK = "link-local"
    PRIVATE = "private"
    PUBLIC = "public"


class AddressRefused(Exception):
    """A registry pointed at an address that is none of its business."""


def reach_of(address: str) -> Reach:
    """The reach of an IP address, also one wrapped in IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        elif ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.is_loopback or ip.is_unspecified:
        return Reach.HERE
    if ip.is_link_local or ip.is_multicast:
        return Reach.LINK
    return Reach.PUBLIC if ip.is_global else Reach.PRIVATE


class Resolver(AbstractResolver):
    """Resolves for one registry host (`home`) and whatever it points at."""

    def __init__(self, home: str, exempt: frozenset[str] = frozenset()) -> None:
        """`exempt` are the names of proxies, which the operator chose."""
        self._home = home.lower()
        self._exempt = exempt
        self._allowed = {Reach.PUBLIC}
        if (reach := _literal(home)) is not None:
            self._admit(reach)

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AddressFamily.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Called by the connector for names."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=SOCK_STREAM)
        results = [_result(host, info) for info in found]
        home = host.lower() == self._home
        if home:
            for result in results:
                self._admit(reach_of(result["host"]))
        if home or host in self._exempt:
            return results
        results = [result for result in results if reach_of(result["host"]) in self._allowed]
        if not results:
            raise AddressRefused(f"{host} has only addresses that a registry elsewhere may not send us to")
        return results

    def check_literal(self, host: str) -> None:
        """The same judgement on a host that may be an address itself: those never reach `resolve`."""
        reach = _literal(host)
        if reach is None and (":" in host or host.replace(".", "").isdigit()):
            # sockets would take 127.1 and 2130706433 for addresses, without ever asking for the name
            raise AddressRefused(f"{host} is no address that can be asked")
        if reach is not None and host not in (self._home, *self._exempt) and reach not in self._allowed:
            raise AddressRefused(
                f"{host} is a {reach.value} address, where a registry elsewhere may not send us"
            )

    def _admit(self, reach: Reach) -> None:
        self._allowed.add(reach)
        if reach is Reach.HERE:
            self._allowed.add(Reach.PRIVATE)

    async def close(self) -> None:
        """Nothing is held."""


def _literal(host: str) -> Reach | None:
    try:
        return reach_of(host.strip("[]"))
    except ValueError:
        return None


def _result(host: str, info: tuple[int, int, int, str, tuple[object, ...]]) -> ResolveResult:
    family, _, proto, _, address = info
    return ResolveResult(
        hostname=host, host=str(address[0]), port=int(str(address[1])), family=family, proto=proto, flags=0
    )


_default_context: ssl.SSLContext | None = None


async def tls(host: Host) -> ssl.SSLContext:
    """The TLS settings for a host. Raises Invalid naming the certificate file that cannot be used."""
    global _default_context  # loading the system's authorities costs 20 ms and megabytes: once is enough
    if host.ca or host.client or host.skip_verify:
        return await in_thread(_context, host)
    if _default_context is None:
        _default_context = await in_thread(ssl.create_default_context)
    return _default_context


def _context(host: Host) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if host.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for file in host.ca:
        _load(file, partial(context.load_verify_locations, cafile=file))
    for certificate, key in host.client:
        _load(certificate, partial(context.load_cert_chain, certificate, key or None))
    return context


def _load(file: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ssl.SSLError) as error:
        state = "" if Path(file).exists() else " (no such file)"
        raise Invalid(f"certificate file {file} cannot be used{state}: {error.strerror or error}") from None
