"""The built-in `portmap` plugin: ports of the host that lead to a pod, as elements of nftables maps.

Unlike the reference plugin it refuses a port that is already published instead of hiding one pod behind
another. Its rules are in `nftables`; `missing_rules` says what must be loaded before `add`. Blocking; for
threads.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from socket import if_indextoname
from typing import Any

from sampan.host.cni import conntrack, nftables, sysctl
from sampan.host.cni.links import Links
from sampan.host.cni.nftables import PROTOCOLS, Element, Nftables, endpoint, port_key, protocol_key
from sampan.model.errors import Invalid, Unavailable
from sampan.tasks import step_now
from sampan.wire.cni_builtin import Portmap
from sampan.wire.cni_request import Target
from sampan.wire.cni_result import Result

Address = IPv4Address | IPv6Address
log = logging.getLogger("sampan")


def mappings(target: Target) -> Sequence[Mapping[str, Any]]:
    """The ports to publish, as the capability argument lists them."""
    found: Sequence[Mapping[str, Any]] = target.capabilities.get("portMappings", ())
    return found


def missing_rules(conf: Portmap, network: str, result: Result) -> bytes:
    """What `nft` must load first; empty when all is there."""
    wanted: list[bytes] = []
    with nftables.opened() as tables:
        if not tables.has_chain(nftables.PORTS_CHAIN, nftables.PORTS_RULES):
            wanted.append(nftables.PORTS)
        if conf.snat:
            subnets = [ip_interface(ip.address).network for ip in result.ips]
            chain = nftables.hairpin(network, list(dict.fromkeys(subnets)))
            if not tables.has_chain(chain.name, chain.rules):
                wanted.append(chain.ruleset)
    return b"".join(wanted)


def add(conf: Portmap, network: str, target: Target, result: Result) -> None:
    """Publish the pod's ports, all or none. Unavailable if one is taken."""
    addresses = _pod_addresses(result)
    owner = _owner(network, target.container_id, target.ifname)
    elements = [
        element
        for mapping in mappings(target)
        for address in addresses
        for element in _elements(conf, owner, mapping, address)
    ]
    step_now("cni.nft.portmap", target.container_id)
    with nftables.opened() as tables:
        try:
            tables.add(dict.fromkeys(elements))
        except FileExistsError:
            raise Unavailable(_conflict(tables, elements)) from None
    if conf.snat:
        for address in addresses:
            if address.version == 4:
                _let_localhost_out(address)
    for port in {mapping["hostPort"] for mapping in mappings(target) if mapping["protocol"] == "udp"}:
        try:
            conntrack.forget_udp(port)
        except (
            OSError
        ) as error:  # the rules stand; an old flow may keep going to its old end until it times out
            log.warning("UDP flows to host port %s were not forgotten: %s", port, error)


def remove(network: str, container_id: str, ifname: str) -> bool:
    """Withdraw what an attachment has published; whether there was anything. Idempotent."""
    owner = _owner(network, container_id, ifname)
    return bool(_remove(lambda element: element.owner == owner))


def collect(network: str, alive: Callable[[str, str], bool]) -> None:
    """Withdraw what attachments (container id, ifname) of this network that are not alive have published."""

    def dead(element: Element) -> bool:
        container_id, _, rest = element.owner.partition("/")
        ifname = rest.partition("/")[0]
        return element.owner == _owner(network, container_id, ifname) and not alive(container_id, ifname)

    _remove(dead)


def check(conf: Portmap, network: str, target: Target, result: Result) -> None:
    """Raise Unavailable unless every port is published."""
    with nftables.opened() as tables:
        found = {element for name in nftables.MAPS for element in tables.elements(name)}
    owner = _owner(network, target.container_id, target.ifname)
    for mapping in mappings(target):
        for address in _pod_addresses(result):
            if not found.issuperset(_elements(conf, owner, mapping, address)):
                raise Unavailable(
                    f"host port {mapping['hostPort']}/{mapping['protocol']} is no longer published"
                )


def _remove(chosen: Callable[[Element], bool]) -> list[Element]:
    with nftables.opened() as tables:
        for _ in range(3):  # another teardown of the same pod may take elements from under us
            mine = [element for name in nftables.MAPS for element in tables.elements(name) if chosen(element)]
            if not mine:
                return []
            step_now("cni.nft.withdraw", mine[0].owner)
            with suppress(FileNotFoundError):
                tables.delete(mine)
                return mine
    raise Unavailable(f"published ports of {mine[0].owner} keep changing while they are withdrawn")


def _pod_addresses(result: Result) -> list[Address]:
    """The pod's first address of each family."""
    found: dict[int, Address] = {}
    for ip in result.ips:
        if ip.interface is None or result.interfaces[ip.interface].sandbox:
            address = ip_interface(ip.address).ip
            found.setdefault(address.version, address)
    return list(found.values())


def _elements(conf: Portmap, owner: str, mapping: Mapping[str, Any], address: Address) -> list[Element]:
    """What publishes one port towards one address of the pod; nothing if the host's address is of another
    family."""
    protocol, outside, inside = mapping["protocol"], mapping["hostPort"], mapping["containerPort"]
    if protocol not in PROTOCOLS or not 0 < outside < 65536 or not 0 < inside < 65536:
        raise Invalid(f"port mapping {outside}:{inside}/{protocol} is not possible")
    version = address.version
    to = endpoint(address, inside)
    key = port_key(protocol, outside)
    host = ip_address(mapping["hostIP"]) if mapping.get("hostIP") else None
    if host is not None and host.version != version:
        return []
    if host is None or host.is_unspecified:
        elements = [Element(f"any{version}", key, to, owner)]
    else:
        elements = [Element(f"host{version}", host.packed + key, to, owner)]
    if conf.snat:
        elements.append(Element(f"published{version}", protocol_key(protocol) + to, b"", owner))
    return elements


def _let_localhost_out(address: Address) -> None:
    """Let packets from 127.0.0.1 leave by the pod's bridge, where they are masqueraded."""
    with Links() as links:
        name = if_indextoname(links.link_towards(address))
    sysctl.ensure(f"ipv4/conf/{name}/route_localnet", "1")


def _conflict(tables: Nftables, elements: Sequence[Element]) -> str:
    """Which of the pod's ports is taken, and by whom."""
    wanted = {(element.map, element.key) for element in elements if element.data}
    for name in sorted({name for name, _ in wanted}):
        for other in tables.elements(name):
            if (name, other.key) in wanted:
                pod = other.owner.partition("/")[0]
                return f"host port {nftables.port_name(other.key)} is already published by pod {pod}"
    return "the pod's host ports contradict each other, or another pod published one of them just now"


def _owner(network: str, container_id: str, ifname: str) -> str:
    """The comment of an element, at most 128 bytes: the network's name, which may be longer, as a hash."""
    return f"{container_id}/{ifname}/{hashlib.sha256(network.encode()).hexdigest()[:8]}"
