"""Sysctls: defaults, the two spellings, and whose they are."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec import sysctls


def pod(sysctl: dict[str, str] | None = None, **options: Any) -> cri.PodSandboxConfig:
    config = cri.PodSandboxConfig()
    config.linux.security_context.namespace_options.MergeFrom(cri.NamespaceOption(**options))
    config.linux.sysctls.update(sysctl or {})
    return config


def test_a_pod_may_ping_and_listen_on_low_ports_unless_told_otherwise() -> None:
    assert sysctls.resolved(pod()) == {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
    }
    told = sysctls.resolved(pod({"net/ipv4/ip_unprivileged_port_start": "1024"}))
    assert told["net.ipv4.ip_unprivileged_port_start"] == "1024"
    assert sysctls.resolved(pod(network=cri.NODE)) == {}


@pytest.mark.parametrize(
    ("given_", "name"),
    [
        ("net.ipv4.ip_forward", "net.ipv4.ip_forward"),
        ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "net.ipv4.conf.eth0/1.forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "net.ipv4.conf.eth0/1.forwarding"),
        ("kernel/shm_rmid_forced", "kernel.shm_rmid_forced"),
    ],
)
def test_dots_and_slashes_mean_one_name(given_: str, name: str) -> None:
    assert sysctls.resolved(pod({given_: "1"}))[name] == "1"


@given(st.text(alphabet="netkrlcoipd_/.-+= |\n\0", max_size=24), st.text(max_size=12))
def test_a_resolved_sysctl_is_of_the_pods_own_namespaces(name: str, value: str) -> None:
    try:
        found = sysctls.resolved(pod({name: value}, ipc=cri.NODE))
    except Invalid:
        return
    assert all(key.startswith("net.") and ".." not in key and "//" not in key for key in found)
    assert not any(set("\n\0+=|") & set(key + value) for key, value in found.items())
