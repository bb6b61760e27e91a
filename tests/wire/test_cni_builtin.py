"""What the built-in plugins take on, and what they leave to the executed ones."""

from typing import Any

import pytest

from sampan.wire.cni_builtin import Loopback, Portmap, bridge, refusal, resolv_conf, understand, unread
from sampan.wire.cni_result import Dns

IPAM: dict[str, Any] = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.88.0.0/16"}]],
    "routes": [{"dst": "0.0.0.0/0"}],
}
BRIDGE: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "lab",
    "type": "bridge",
    "bridge": "lab0",
    "isGateway": True,
    "ipMasq": True,
    "promiscMode": False,
    "hairpinMode": True,
    "ipam": IPAM,
}


def test_the_usual_bridge_network_is_understood() -> None:
    read = bridge(BRIDGE)
    assert (read.name, read.gateway, read.masquerade, read.hairpin, read.mtu) == ("lab0", True, True, True, 0)
    assert str(read.ipam.sets[0][0].gateway) == "10.88.0.1"
    assert read.ipam.routes[0].dst == "0.0.0.0/0"


def test_defaults_are_the_reference_plugins() -> None:
    read = bridge({"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}})
    assert (read.name, read.gateway, read.masquerade, read.hairpin) == ("cni0", False, False, False)
    assert read.ipam.data_dir == ""


def test_a_default_gateway_is_a_gateway() -> None:
    assert bridge({**BRIDGE, "isGateway": False, "isDefaultGateway": True}).gateway


def test_the_old_form_of_a_range_goes_before_the_list() -> None:
    ipam = {**IPAM, "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.5", "gateway": "10.1.0.9"}
    first = bridge({**BRIDGE, "ipam": ipam}).ipam.sets[0][0]
    assert (str(first.start), str(first.gateway)) == ("10.1.0.5", "10.1.0.9")


@pytest.mark.parametrize(
    "changes",
    [
        {"mtu": 9000},
        {"forceAddress": True},
        {"vlan": 0},
        {"vlanTrunk": None},
        {"macspoofchk": False},
        {"ipMasqBackend": "nftables"},
        {"dns": {"nameservers": ["10.0.0.1"]}},
        {"capabilities": {"ips": True, "mac": True}},
        {"runtimeConfig": {"portMappings": []}},
        {"prevResult": {}},
        {"cni.dev/valid-attachments": []},
        {"ipam": {**IPAM, "dataDir": "/run/x", "resolvConf": "/etc/resolv.conf"}},
        {"ipam": {**IPAM, "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]}},
        {"ipam": {**IPAM, "routes": [{"dst": "10.0.0.0/8", "gw": "10.88.0.9"}]}},
    ],
)
def test_these_options_are_built_in(changes: dict[str, Any]) -> None:
    assert refusal("bridge", {**BRIDGE, **changes}) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vlan": 5}, "vlan"),
        ({"vlanTrunk": [{"id": 5}]}, "vlanTrunk"),
        ({"macspoofchk": True}, "macspoofchk"),
        ({"enabledad": True}, "enabledad"),
        ({"disableContainerInterface": True}, "disableContainerInterface"),
        ({"portIsolation": True}, "portIsolation"),
        ({"promiscMode": True}, "promiscMode"),
        ({"ipMasqBackend": "iptables"}, "iptables"),
        ({"brandNew": 1}, "brandNew"),
        ({"isgateway": True}, "isgateway"),
        ({"args": {"cni": {"mac": "02:00:00:00:00:01"}}}, "args"),
        ({"mtu": "1500"}, "mtu"),
        ({"mtu": -1}, "mtu"),
        ({"mtu": 1.5}, "mtu"),
        ({"isGateway": "yes"}, "isGateway"),
        ({"bridge": "a/b"}, "bridge"),
        ({"bridge": "x" * 16}, "bridge"),
        ({"bridge": ""}, "bridge"),
        ({"bridge": ".."}, "bridge"),
        ({"bridge": "eth0:1"}, "bridge"),
        ({"runtimeConfig": {"mac": "02:00:00:00:00:01"}}, "mac"),
        ({"runtimeConfig": {"ips": ["10.88.0.9"], "ipRanges": []}}, "ipRanges, ips"),
        ({"ipam": {}}, "type"),
        ({"ipam": {"type": "dhcp"}}, "dhcp"),
        ({"ipam": {**IPAM, "brandNew": 1}}, "brandNew"),
        ({"ipam": {**IPAM, "dataDir": "relative"}}, "dataDir"),
        ({"ipam": {**IPAM, "ranges": [[{"subnet": "10.0.0.0/24", "x": 1}]]}}, "x"),
        ({"ipam": {**IPAM, "ranges": [[{"subnet": "10.0.0.1/24"}]]}}, "host bits"),
        ({"ipam": {**IPAM, "ranges": []}}, "ranges"),
        ({"ipam": {"type": "host-local", "gateway": "10.0.0.1"}}, "subnet"),
        ({"ipam": {**IPAM, "routes": [{"dst": "10.0.0.1/8"}]}}, "route"),
        ({"ipam": {**IPAM, "routes": [{"dst": "10.0.0.0/8", "mtu": 9000}]}}, "mtu"),
        ({"ipam": {**IPAM, "routes": [{"dst": "10.0.0.0/8", "gw": "fd00::1"}]}}, "family"),
    ],
)
def test_anything_else_is_executed_and_the_option_is_named(changes: dict[str, Any], words: str) -> None:
    reason = refusal("bridge", {**BRIDGE, **changes})
    assert reason is not None
    assert words in reason


def test_a_bridge_without_addresses_is_executed() -> None:
    assert refusal("bridge", {key: value for key, value in BRIDGE.items() if key != "ipam"}) is not None


@pytest.mark.parametrize(
    ("conf", "snat"),
    [
        ({}, True),
        ({"snat": False}, False),
        ({"snat": True, "conditionsV4": None, "conditionsV6": []}, True),
        ({"backend": "nftables", "masqAll": False}, True),
    ],
)
def test_port_mapping_is_understood(conf: dict[str, Any], snat: bool) -> None:
    assert understand("portmap", {"type": "portmap", **conf}) == Portmap(snat)


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"conditionsV4": ["!", "-d", "192.0.2.0/24"]}, "conditionsV4"),
        ({"conditionsV6": ["-s", "fd00::/8"]}, "conditionsV6"),
        ({"backend": "iptables"}, "iptables"),
        ({"masqAll": True}, "masqAll"),
        ({"markMasqBit": 5}, "markMasqBit"),
        ({"externalSetMarkChain": "KUBE-MARK-MASQ"}, "externalSetMarkChain"),
        ({"snat": "true"}, "snat"),
    ],
)
def test_other_port_mapping_is_executed(conf: dict[str, Any], words: str) -> None:
    reason = refusal("portmap", {"type": "portmap", **conf})
    assert reason is not None
    assert words in reason


def test_loopback_takes_no_option() -> None:
    assert understand("loopback", {"type": "loopback", "name": "x", "cniVersion": "1.0.0"}) == Loopback()
    assert refusal("loopback", {"type": "loopback", "mtu": 5}) is not None


@pytest.mark.parametrize("kind", ["firewall", "tuning", "calico", "host-local", "Bridge"])
def test_other_plugins_are_executed(kind: str) -> None:
    assert refusal(kind, {"type": kind}) == f"{kind} is not built in"


def test_only_arguments_that_the_plugin_would_read_matter() -> None:
    assert unread("bridge", {"portMappings": [], "dns": {}}) == ""
    assert unread("bridge", {"mac": "x"}) == "mac"
    assert unread("portmap", {"mac": "x"}) == ""


def test_resolv_conf_is_reported_as_the_reference_plugin_does() -> None:
    text = "# x\nnameserver 10.0.0.1\nnameserver fd00::1\ndomain a.b\nsearch c d\n;y\noptions ndots:5\nbad\n"
    assert resolv_conf(text) == Dns(
        nameservers=("10.0.0.1", "fd00::1"), domain="a.b", search=("c", "d"), options=("ndots:5",)
    )
