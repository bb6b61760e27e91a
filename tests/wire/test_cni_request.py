"""What a CNI plugin is told."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.wire.cni import parse
from sampan.wire.cni_request import (
    MAX_BURST,
    Target,
    bandwidth,
    configuration,
    environment,
    gc_configuration,
    pod_args,
)

NETWORK = parse(
    json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "lab",
            "disableCheck": False,
            "plugins": [
                {"type": "bridge", "mtu": 1400, "keyA": ["kept"]},
                {"type": "portmap", "capabilities": {"portMappings": True, "mac": True, "dns": False}},
            ],
        }
    ).encode()
)
PORTS = [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}]
TARGET = Target(
    "c1", "/run/netns/x", "eth0", "IgnoreUnknown=1", {"portMappings": PORTS, "dns": {"servers": ["::1"]}}
)


def sent(place: int, **more: object) -> dict[str, object]:
    conf = configuration(NETWORK, NETWORK.plugins[place], TARGET, **more)  # type: ignore[arg-type]
    decoded: dict[str, object] = msgspec.json.decode(msgspec.json.encode(conf))
    return decoded


def test_a_plugin_gets_its_own_keys_and_the_networks_name_and_version() -> None:
    assert sent(0) == {"type": "bridge", "mtu": 1400, "keyA": ["kept"], "cniVersion": "1.0.0", "name": "lab"}


def test_capability_arguments_go_only_to_the_plugin_that_declares_them() -> None:
    assert "runtimeConfig" not in sent(0)
    assert sent(1)["runtimeConfig"] == {"portMappings": PORTS}
    assert "capabilities" not in sent(1)


def test_the_previous_result_is_passed_on_as_it_is() -> None:
    assert sent(1, previous=b'{"cniVersion": "1.0.0", "ips": []}')["prevResult"] == {
        "cniVersion": "1.0.0",
        "ips": [],
    }


def test_a_single_configurations_list_keys_do_not_reach_the_plugin() -> None:
    single = parse(
        b'{"cniVersion": "1.0.0", "cniVersions": ["1.0.0"], "name": "n", "type": "ptp", "prevResult": {}}'
    )
    assert configuration(single, single.plugins[0]) == {"cniVersion": "1.0.0", "name": "n", "type": "ptp"}


def test_gc_is_told_what_lives() -> None:
    conf = gc_configuration(NETWORK, NETWORK.plugins[0], [("c1", "eth0")])
    assert conf["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "eth0"}]


def test_the_environment_is_the_protocols_and_nothing_else() -> None:
    env = environment("ADD", ["/a", "/b"], TARGET)
    assert env.pop("PATH")
    assert env == {
        "CNI_COMMAND": "ADD",
        "CNI_PATH": "/a:/b",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1",
    }
    assert environment("STATUS", ["/a"]).keys() == {"PATH", "CNI_COMMAND", "CNI_PATH"}


def test_the_pods_names_become_arguments() -> None:
    assert pod_args("kube-system", "coredns-0", "abc", "7-8") == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=coredns-0;"
        "K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=7-8"
    )


@pytest.mark.parametrize(
    "value", ["x;IgnoreUnknown=0", "a=b", "a\nb", "a b", "a/b", "\u00e9", "x" * 254, "\x00"]
)
@pytest.mark.parametrize("place", range(4))
def test_no_value_can_add_an_argument_of_its_own(value: str, place: int) -> None:
    values = ["ns", "name", "id", "uid"]
    values[place] = value
    with pytest.raises(Invalid, match="cannot be passed"):
        pod_args(*values)


@given(st.lists(st.text(max_size=20), min_size=4, max_size=4))
def test_arguments_always_split_into_the_five_pairs(values: list[str]) -> None:
    try:
        args = pod_args(*values)
    except Invalid:
        return
    pairs = dict(pair.split("=") for pair in args.split(";"))
    assert list(pairs.values()) == ["1", *values[:2], values[2], values[3]]


@pytest.mark.parametrize("id_", ["", "-a", ".a", "_a"])
def test_a_container_id_begins_with_a_letter_or_digit(id_: str) -> None:
    with pytest.raises(Invalid, match="container id"):
        pod_args("ns", "name", id_, "uid")


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1k", 1000),
        ("10M", 10_000_000),
        ("1Mi", 1 << 20),
        ("1.5G", 1_500_000_000),
        ("1P", 10**15),
        ("12345", 12345),
        ("1e6", 10**6),
        ("1E6", 10**6),
        ("0.001E", 10**15),
        ("1000001m", 1001),
        ("+2k", 2000),
    ],
)
def test_bandwidth_annotations_are_kubernetes_quantities(text: str, rate: int) -> None:
    assert bandwidth({"kubernetes.io/ingress-bandwidth": text}) == {
        "ingressRate": rate,
        "ingressBurst": MAX_BURST,
    }
    assert bandwidth({"kubernetes.io/egress-bandwidth": text}) == {
        "egressRate": rate,
        "egressBurst": MAX_BURST,
    }


@pytest.mark.parametrize(
    "text", ["", "fast", "-1M", "999", "1.1P", "1Ei", "10 M", "10MB", "1e99", "0x10", "1k\n"]
)
def test_other_bandwidths_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="ingress-bandwidth"):
        bandwidth({"kubernetes.io/ingress-bandwidth": text})


def test_without_annotations_there_is_no_limit() -> None:
    assert bandwidth({"other": "10M"}) == {}
