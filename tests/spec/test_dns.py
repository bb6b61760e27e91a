"""resolv.conf: what is in it, and that nothing else can get in."""

from hypothesis import given
from hypothesis import strategies as st

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec import dns


def test_resolv_conf_is_written_in_full() -> None:
    config = cri.DNSConfig(
        servers=["10.96.0.10", "fd00::a"],
        searches=["shop.svc.cluster.local", "cluster.local"],
        options=["ndots:5", "edns0"],
    )
    assert dns.resolv_conf(config) == (
        b"search shop.svc.cluster.local cluster.local\n"
        b"nameserver 10.96.0.10\n"
        b"nameserver fd00::a\n"
        b"options ndots:5 edns0\n"
    )


def test_an_empty_dns_config_means_the_hosts_file() -> None:
    assert dns.resolv_conf(cri.DNSConfig()) == b""


@given(st.lists(st.text()), st.lists(st.text()), st.lists(st.text()))
def test_no_entry_adds_a_line(servers: list[str], searches: list[str], options: list[str]) -> None:
    config = cri.DNSConfig(servers=servers, searches=searches, options=options)
    try:
        lines = dns.resolv_conf(config).split(b"\n")
    except Invalid:
        return
    assert len(lines) - 1 == len(servers) + bool(searches) + bool(options)
    assert all(line.startswith((b"search ", b"nameserver ", b"options ")) for line in lines[:-1])
