"""What the built-in plugins understand of a configuration, and what they leave to the executed ones.

Pure. `refusal` decides: a key or a value that we do not know is a reason to execute the reference plugin,
never one to ignore it. Sources: the documentation of the reference plugins bridge, host-local, portmap and
loopback.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from sampan.model.errors import Invalid
from sampan.wire.cni_ranges import RangeConf, RangeSet, parse_sets
from sampan.wire.cni_result import NO_DNS, Dns, Route

_INTERFACE = re.compile(r"[^\s/:]{1,15}")
_RESERVED = {"capabilities", "cniVersion", "name", "prevResult", "type"}
# Capability arguments that the reference plugin of that type reads; the others it ignores, and so do we.
_READS = {"bridge": frozenset(("mac", "ips", "ipRanges"))}


class _RouteConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    dst: str
    gw: str = ""


class _IpamConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    type: str
    ranges: tuple[tuple[RangeConf, ...], ...] = ()
    subnet: str = ""
    range_start: str = msgspec.field(default="", name="rangeStart")
    range_end: str = msgspec.field(default="", name="rangeEnd")
    gateway: str = ""
    routes: tuple[_RouteConf, ...] = ()
    data_dir: str = msgspec.field(default="", name="dataDir")
    resolv_conf: str = msgspec.field(default="", name="resolvConf")


class _BridgeConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"):
    bridge: str = "cni0"
    is_gateway: bool = False
    is_default_gateway: bool = False
    force_address: bool = False
    ip_masq: bool = False
    ip_masq_backend: str = "nftables"
    mtu: int = 0
    hairpin_mode: bool = False
    promisc_mode: bool = False
    vlan: int = 0
    vlan_trunk: tuple[Any, ...] | None = None
    preserve_default_vlan: bool = False
    macspoofchk: bool = False
    enabledad: bool = False
    disable_container_interface: bool = False
    port_isolation: bool = False
    dns: Dns = NO_DNS
    ipam: _IpamConf


class _PortmapConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    backend: str = "nftables"
    snat: bool = True
    conditions_v4: tuple[str, ...] | None = msgspec.field(default=None, name="conditionsV4")
    conditions_v6: tuple[str, ...] | None = msgspec.field(default=None, name="conditionsV6")
    masq_all: bool = msgspec.field(default=False, name="masqAll")


class _LoopbackConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


@dataclass(frozen=True, slots=True)
class HostLocal:
    """The part of a network that hands out addresses. `data_dir` "" is the default directory."""

    sets: tuple[RangeSet, ...]
    routes: tuple[Route, ...]
    data_dir: str
    resolv_conf: str


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge network that the built-in plugin can make. `mtu` 0 is the kernel's default."""

    name: str
    gateway: bool
    default_gateway: bool
    force_address: bool
    masquerade: bool
    mtu: int
    hairpin: bool
    promiscuous: bool
    dns: Dns
    ipam: HostLocal


@dataclass(frozen=True, slots=True)
class Portmap:
    """Published ports; with `snat`, also for the host's own loopback and the network's own pods."""

    snat: bool


@dataclass(frozen=True, slots=True)
class Loopback:
    """The pod's `lo`, which is brought up in any case."""


Program = Bridge | Portmap | Loopback


def understand(kind: str, conf: Mapping[str, Any]) -> Program:
    """What the built-in plugin `kind` is to do. Invalid, with the reason, if it must be executed instead."""
    if kind not in _PARSERS:
        raise Invalid(f"{kind} is not built in")
    try:
        return _PARSERS[kind](conf)
    except msgspec.ValidationError as error:
        raise Invalid(str(error)) from None


def unread(kind: str, runtime_config: Mapping[str, Any]) -> str:
    """The capability arguments that this plugin reads if executed, and we do not; "" if there are none."""
    return ", ".join(sorted(_READS.get(kind, frozenset[str]()) & runtime_config.keys()))


def refusal(kind: str, conf: Mapping[str, Any]) -> str | None:
    """Why a plugin with this request configuration must be executed; None if we do all of it ourselves."""
    try:
        understand(kind, conf)
    except Invalid as error:
        return str(error)
    asked = unread(kind, conf.get("runtimeConfig") or {})
    return f"capability argument {asked} is not built in" if asked else None


def bridge(conf: Mapping[str, Any]) -> Bridge:
    """A bridge network. Invalid or msgspec.ValidationError for what we do not know."""
    read = msgspec.convert(_options(conf), _BridgeConf, strict=True)
    unknown = {
        "vlan": read.vlan,
        "vlanTrunk": read.vlan_trunk,
        "macspoofchk": read.macspoofchk,
        "enabledad": read.enabledad,
        "disableContainerInterface": read.disable_container_interface,
        "portIsolation": read.port_isolation,
        "hairpinMode together with promiscMode": read.hairpin_mode and read.promisc_mode,
        f"ipMasqBackend {read.ip_masq_backend}": read.ip_masq_backend != "nftables",
    }
    _refuse(unknown)
    if not _INTERFACE.fullmatch(read.bridge) or read.bridge in (".", ".."):
        raise Invalid(f"bridge name {read.bridge!r} is no interface name")
    if not 0 <= read.mtu <= 65535:
        raise Invalid(f"mtu {read.mtu} is out of range")
    return Bridge(
        name=read.bridge,
        gateway=read.is_gateway or read.is_default_gateway,
        default_gateway=read.is_default_gateway,
        force_address=read.force_address,
        masquerade=read.ip_masq,
        mtu=read.mtu,
        hairpin=read.hairpin_mode,
        promiscuous=read.promisc_mode,
        dns=read.dns,
        ipam=_host_local(read.ipam),
    )


def _host_local(read: _IpamConf) -> HostLocal:
    if read.type != "host-local":
        raise Invalid(f"ipam type {read.type} is not built in")
    single: tuple[tuple[RangeConf, ...], ...] = ()
    if read.subnet:  # the form before `ranges`; it goes first
        bare = RangeConf(
            subnet=read.subnet, range_start=read.range_start, range_end=read.range_end, gateway=read.gateway
        )
        single = ((bare,),)
    elif read.range_start or read.range_end or read.gateway:
        raise Invalid("ipam names a range without a subnet")
    if read.data_dir and not read.data_dir.startswith("/"):
        raise Invalid(f"dataDir {read.data_dir!r} is not absolute")
    return HostLocal(
        parse_sets((*single, *read.ranges)), tuple(map(_route, read.routes)), read.data_dir, read.resolv_conf
    )


def _route(read: _RouteConf) -> Route:
    try:
        network = ip_network(read.dst)
        if read.gw and ip_address(read.gw).version != network.version:
            raise ValueError(f"its gateway {read.gw} is of another family")
    except ValueError as error:
        raise Invalid(f"route {read.dst}: {error}") from None
    return Route(dst=str(network), gw=read.gw)


def portmap(conf: Mapping[str, Any]) -> Portmap:
    """Port mapping. Invalid or msgspec.ValidationError for what we do not know."""
    read = msgspec.convert(_options(conf), _PortmapConf, strict=True)
    _refuse(
        {
            f"backend {read.backend}": read.backend != "nftables",
            "conditionsV4": read.conditions_v4,
            "conditionsV6": read.conditions_v6,
            "masqAll": read.masq_all,
        }
    )
    return Portmap(read.snat)


def loopback(conf: Mapping[str, Any]) -> Loopback:
    """Nothing to configure: any option is one that we do not know."""
    msgspec.convert(_options(conf), _LoopbackConf, strict=True)
    return Loopback()


def _options(conf: Mapping[str, Any]) -> dict[str, Any]:
    """The plugin's own options: without the protocol's keys, and without what is null."""
    skipped = _RESERVED | {"runtimeConfig"}
    return {
        key: value
        for key, value in conf.items()
        if key not in skipped and value is not None and not key.startswith("cni.dev/")
    }


def _refuse(asked: Mapping[str, object]) -> None:
    for option, value in asked.items():
        if value:
            raise Invalid(f"option {option} is not built in")


_PARSERS: dict[str, Callable[[Mapping[str, Any]], Program]] = {
    "bridge": bridge,
    "portmap": portmap,
    "loopback": loopback,
}


def resolv_conf(text: str) -> Dns:
    """The DNS settings of a resolv.conf(5) as host-local reports them."""
    nameservers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    domain = ""
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or line[:1] in "#;":
            continue
        match words[0]:
            case "nameserver":
                nameservers.append(words[1])
            case "domain":
                domain = words[1]
            case "search":
                search += words[1:]
            case "options":
                options += words[1:]
    return Dns(nameservers=tuple(nameservers), domain=domain, search=tuple(search), options=tuple(options))
