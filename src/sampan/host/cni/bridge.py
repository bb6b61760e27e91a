"""The built-in `bridge` plugin: a pod's veth pair on a host bridge, its addresses and routes.

Does in one thread what the reference plugin does in two processes; result and effects are the same. The
host end's name follows from the attachment, so that it is found again without the pod's namespace, and is
longer than any name of the reference plugin: a result tells who made it. Blocking; for threads.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from ipaddress import (
    IPv4Interface,
    IPv6Interface,
    ip_address,
    ip_interface,
    ip_network,
)
from socket import AF_INET, AF_INET6

from sampan.host.cni import host_local, nftables, podns, sysctl
from sampan.host.cni.links import OPERSTATE_UP, PROMISC, UP, Link, Links, VethEnd, random_mac
from sampan.model.errors import Unavailable
from sampan.tasks import step_now
from sampan.wire.cni_builtin import Bridge
from sampan.wire.cni_ranges import Candidate
from sampan.wire.cni_request import Target
from sampan.wire.cni_result import NO_DNS, Dns, Interface, Ip, Result, Route

PORT_SECONDS = 2.5  # how long a new port may take to come up
_POD = 2  # place of the pod's interface in the result
_DEFAULTS = {4: "0.0.0.0/0", 6: "::/0"}
IpInterface = IPv4Interface | IPv6Interface


def host_end(container_id: str, ifname: str) -> str:
    """The name of the veth's host end: 15 characters, where the reference plugin's have 12."""
    return "veth" + hashlib.sha256(f"{container_id}\0{ifname}".encode()).hexdigest()[:11]


def made_here(result: Result, target: Target) -> bool:
    """Whether this result is of the built-in plugin."""
    name = host_end(target.container_id, target.ifname)
    return any(interface.name == name for interface in result.interfaces)


def add(conf: Bridge, network: str, target: Target) -> Result:
    """Attach a pod, and bring its `lo` up. In a thread of its own, which ends in the pod's namespace.

    A failure leaves what `unlink` and `host_local.release` remove.
    """
    with podns.opened(target.netns) as netns, Links() as host:
        taken, dns = host_local.add(conf.ipam, network, target.container_id, target.ifname)
        routes = _routes(conf, taken)
        bridge = _bridge(host, conf, taken)
        outer = VethEnd(host_end(target.container_id, target.ifname), random_mac(), conf.mtu)
        inner = VethEnd(target.ifname, random_mac(), conf.mtu)
        step_now("cni.bridge.veth", target.container_id)
        host.add_veth(outer, inner, netns, bridge.index)
        if conf.hairpin:
            host.set_hairpin(outer.name)
        sysctl.put_if_there(f"ipv6/conf/{outer.name}/accept_ra", "0")  # the pod must not route for the host
        if conf.gateway:
            _forward(taken)
        step_now("cni.bridge.addresses", target.container_id)
        podns.enter(netns)
        _configure(inner.name, taken, routes)
        _await_port(host, outer.name)
    return Result(
        interfaces=(
            Interface(name=bridge.name, mac=bridge.mac),
            Interface(name=outer.name, mac=outer.mac),
            Interface(name=inner.name, mac=inner.mac, sandbox=target.netns),
        ),
        ips=tuple(Ip(interface=_POD, address=each.cidr, gateway=str(each.gateway)) for each in taken),
        routes=routes,
        dns=_dns(conf.dns, dns),
    )


def missing_rules(conf: Bridge, network: str) -> bytes:
    """What `nft` must load before this network's traffic is masqueraded; empty when it is loaded."""
    if not conf.masquerade:
        return b""
    subnets = [ranges.subnet for each in conf.ipam.sets for ranges in each]
    chain = nftables.masquerade(network, list(dict.fromkeys(subnets)))
    with nftables.opened() as tables:
        return b"" if tables.has_chain(chain.name, chain.rules) else chain.ruleset


def unlink(name: str) -> None:
    """Delete a link and wait for the kernel to be done with it, some 20 ms of which 19 are its RCU
    barrier."""
    with Links() as host:
        host.delete(name)


def present(name: str) -> bool:
    with Links() as host:
        return host.get(name) is not None


def await_gone(name: str, ended: Callable[[], bool]) -> None:
    """Wait until a link that is being deleted is off the list, about 1 ms, or the deletion has `ended`."""
    with Links() as host:
        while not ended() and host.get(name) is not None:
            time.sleep(0.0003)


def check(conf: Bridge, network: str, target: Target, result: Result) -> None:
    """Raise Unavailable unless the attachment is as `add` left it. In a thread of its own."""
    name = host_end(target.container_id, target.ifname)
    with podns.opened(target.netns) as netns, Links() as host:
        bridge, outer = host.get(conf.name), host.get(name)
        if bridge is None or outer is None or outer.master != bridge.index or not outer.up:
            raise Unavailable(f"{name} is not an active port of bridge {conf.name}")
        podns.enter(netns)
        with Links() as pod:
            inner = pod.get(target.ifname)
            found = (
                pod.addresses(inner.index, AF_INET) + pod.addresses(inner.index, AF_INET6) if inner else []
            )
    lost = [ip.address for ip in result.ips if ip_interface(ip.address) not in found]
    if lost:
        raise Unavailable(f"{target.ifname} has lost {', '.join(lost)}")
    if not host_local.holds(conf.ipam, network, target.container_id, target.ifname):
        raise Unavailable(f"network {network} no longer reserves an address for {target.container_id}")


def _routes(conf: Bridge, taken: Sequence[Candidate]) -> tuple[Route, ...]:
    """The network's routes, and a default route for each family that lacks one with a gateway of its own."""
    routes = list(conf.ipam.routes)
    for each in taken if conf.default_gateway else ():
        default = _DEFAULTS[each.address.version]
        if not any(route.gw and route.dst == default for route in routes):
            routes.append(Route(dst=default, gw=str(each.gateway)))
    return tuple(routes)


def _bridge(host: Links, conf: Bridge, taken: Sequence[Candidate]) -> Link:
    """The bridge, made if need be, up, and with the gateways' addresses if it is the gateway."""
    bridge = host.get(conf.name)
    if bridge is None:
        step_now("cni.bridge.create", conf.name)
        try:
            host.add_bridge(conf.name, conf.mtu)
        except FileExistsError:
            pass  # another pod's attachment was faster
        else:
            sysctl.put_if_there(f"ipv6/conf/{conf.name}/accept_ra", "0")
        bridge = host.get(conf.name)
    if bridge is None or bridge.kind != "bridge":
        raise Unavailable(f"{conf.name} exists but is not a bridge: rename it or the bridge of this network")
    wanted = UP | (PROMISC if conf.promiscuous else 0)
    if bridge.flags & wanted != wanted:
        host.set_flags(bridge.index, wanted)
    if conf.gateway:
        for each in taken:
            _gateway(host, bridge, ip_interface(f"{each.gateway}/{each.prefix}"), conf.force_address)
    return bridge


def _gateway(host: Links, bridge: Link, address: IpInterface, force: bool) -> None:
    """One IPv4 address, or any number of IPv6 addresses whose subnets do not overlap."""
    for found in host.addresses(bridge.index, AF_INET if address.version == 4 else AF_INET6):
        if found == address:
            return
        if address.version == 6 and not found.network.overlaps(address.network):
            continue
        if not force:
            raise Unavailable(
                f"bridge {bridge.name} has address {found}, the network wants {address}: "
                f"delete the bridge or set forceAddress"
            )
        host.delete_address(bridge.index, found)
    host.add_address(bridge.index, address)


def _forward(taken: Sequence[Candidate]) -> None:
    versions = {each.address.version for each in taken}
    if 4 in versions:
        sysctl.ensure("ipv4/ip_forward", "1")
    if 6 in versions:
        sysctl.ensure("ipv6/conf/all/forwarding", "1")


def _configure(name: str, taken: Sequence[Candidate], routes: Sequence[Route]) -> None:
    """Addresses and routes, in the namespace that the thread is in."""
    sysctl.put_if_there(f"ipv6/conf/{name}/accept_dad", "0")
    sysctl.put_if_there(
        f"ipv4/conf/{name}/arp_notify", "1"
    )  # so that neighbours forget who had the address before
    if any(each.address.version == 6 for each in taken):
        sysctl.ensure("ipv6/conf/lo/disable_ipv6", "0")
        sysctl.ensure(f"ipv6/conf/{name}/disable_ipv6", "0")
        sysctl.put_if_there(f"ipv6/conf/{name}/keep_addr_on_down", "1")
    gateways = {
        each.address.version: each.gateway for each in reversed(taken)
    }  # the first of each family counts
    with Links() as pod:
        pod.set_flags(podns.LOOPBACK_INDEX, UP)
        link = pod.get(name)
        if link is None:
            raise Unavailable(f"{name} vanished from the pod's network namespace")
        for each in taken:
            pod.add_address(link.index, ip_interface(each.cidr))
        pod.set_flags(link.index, UP)
        for route in routes:
            destination = ip_network(route.dst)
            gateway = ip_address(route.gw) if route.gw else gateways.get(destination.version)
            pod.add_route(link.index, destination, gateway)


def _await_port(host: Links, name: str) -> None:
    """The kernel brings a bridge port up a moment after both ends of its pair; until then the pod is mute."""
    deadline = time.monotonic() + PORT_SECONDS
    while True:
        link = host.get(name)
        if link is None or time.monotonic() > deadline:
            raise Unavailable(f"bridge port {name} did not come up within {PORT_SECONDS} s")
        if link.operstate == OPERSTATE_UP:
            return
        time.sleep(0.0003)


def _dns(own: Dns, ipam: Dns) -> Dns:
    return ipam if own == NO_DNS else own
