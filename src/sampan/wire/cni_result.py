"""What a CNI plugin answers: results and errors, between the protocol's versions.

Pure, and suspicious: a plugin's output is capped and every address in it is parsed before anybody acts on it.
Source: CNI specification 1.1, section 5; 0.3 and 0.4 differ by a `version` in each of `ips`.
"""

from collections.abc import Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import msgspec

from sampan.model.errors import Invalid
from sampan.wire.cni import SIZE_LIMIT, VERSIONS

INTERFACE_LIMIT = 64
ADDRESS_LIMIT = 64
ROUTE_LIMIT = 256
TRY_AGAIN = frozenset(
    (11, 50, 51)
)  # error codes that say "later": try again, not available, limited connectivity


class Interface(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An interface that the chain made, on the host (`sandbox` empty) or in the pod."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    socket_path: str = msgspec.field(default="", name="socketPath")
    pci_id: str = msgspec.field(default="", name="pciID")


class Ip(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An address in CIDR form. `version` is written for protocols before 1.0.0 only."""

    version: str = ""
    interface: int | None = None
    address: str
    gateway: str = ""


class Route(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A route of the pod. Without `gw` the gateway of the address of its family counts."""

    dst: str
    gw: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


class Dns(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the network says about name servers; the pod's own DNS settings are the kubelet's business."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


NO_DNS = Dns()


class Result(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The outcome of an ADD."""

    cni_version: str = msgspec.field(default="", name="cniVersion")
    dns: Dns = NO_DNS
    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Ip, ...] = ()
    routes: tuple[Route, ...] = ()


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin's error object."""

    code: int = 0
    msg: str = ""
    details: str = ""

    @property
    def text(self) -> str:
        words = "; ".join(part for part in (self.msg, self.details) if part)
        return f"CNI error {self.code}: {words or 'no message'}"[:4000]


_result = msgspec.json.Decoder(Result)
_failure = msgspec.json.Decoder(Failure)


def parse(output: bytes, version: str) -> Result:
    """A plugin's answer to ADD, checked, in protocol `version`. Invalid says what is wrong with it."""
    if len(output) > SIZE_LIMIT:
        raise Invalid(f"its output is larger than {SIZE_LIMIT} bytes")
    if not output.strip():
        raise Invalid("it printed no result")
    try:
        result = _result.decode(output)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"its result is malformed: {_printable(str(error))}") from None
    if result.cni_version and result.cni_version not in VERSIONS:
        raise Invalid(f"its result has cniVersion {result.cni_version!r}; {version} was asked for")
    _check(result)
    return convert(result, version)


def convert(result: Result, version: str) -> Result:
    """The same result in another version of the protocol."""
    old = VERSIONS.index(version) < VERSIONS.index("1.0.0")
    ips = tuple(
        msgspec.structs.replace(ip, version=str(ip_interface(ip.address).version) if old else "")
        for ip in result.ips
    )
    interfaces = result.interfaces
    if VERSIONS.index(version) < VERSIONS.index("1.1.0"):
        interfaces = tuple(
            msgspec.structs.replace(each, mtu=0, socket_path="", pci_id="") for each in interfaces
        )
    dns = NO_DNS if result.dns == NO_DNS else result.dns  # the default itself, which is not written
    return msgspec.structs.replace(result, cni_version=version, ips=ips, interfaces=interfaces, dns=dns)


def encode(result: Result) -> bytes:
    """As the reference plugins print it, without the white space."""
    return msgspec.json.encode(result)


def addresses(result: Result) -> tuple[str, ...]:
    """The pod's addresses without their prefix lengths, in the network's order. Invalid if there are none."""
    found = [
        str(ip_interface(ip.address).ip)
        for ip in result.ips
        if ip.interface is None or result.interfaces[ip.interface].sandbox
    ]
    if not found:
        raise Invalid("its result names no address for the pod")
    return tuple(dict.fromkeys(found))


def failure(stdout: bytes, stderr: bytes) -> Failure | None:
    """The error object of a plugin that failed; it belongs on stdout, some print it on stderr."""
    for stream in (stdout, stderr):
        try:
            said = _failure.decode(stream)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if said.msg or said.code:
            return Failure(code=said.code, msg=_printable(said.msg), details=_printable(said.details))
    return None


def _check(result: Result) -> None:
    _limit("interfaces", result.interfaces, INTERFACE_LIMIT)
    _limit("ips", result.ips, ADDRESS_LIMIT)
    _limit("routes", result.routes, ROUTE_LIMIT)
    for interface in result.interfaces:
        if not interface.name or len(interface.name) > 255 or not interface.name.isprintable():
            raise Invalid(f"its result names an interface {interface.name!r}")
    for ip in result.ips:
        _address(ip.address, ip_interface)
        if ip.gateway:
            _address(ip.gateway, ip_address)
        if ip.interface is not None and not 0 <= ip.interface < len(result.interfaces):
            raise Invalid(f"its result puts {ip.address} on interface {ip.interface}, which is not listed")
    for route in result.routes:
        _address(route.dst, _network)
        if route.gw:
            _address(route.gw, ip_address)


def _network(text: str) -> object:
    return ip_network(text, strict=False)


def _address(text: str, parser: Any) -> None:  # noqa: ANN401 - one of ipaddress's overloaded factories
    try:
        if "%" in text:
            raise ValueError("scoped address")
        parser(text)
    except ValueError:
        raise Invalid(f"its result holds the address {text[:80]!r}, which is none") from None


def _limit(what: str, items: Sequence[object], limit: int) -> None:
    if len(items) > limit:
        raise Invalid(f"its result lists {len(items)} {what}; the limit is {limit}")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:2000])
