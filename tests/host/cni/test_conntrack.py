"""Which flows are forgotten, in a namespace of the test's own."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.host.cni.conntrack import forget_udp
from tests.host.cni.lab import Lab, inside

pytestmark = pytest.mark.root
TRACK = b"""table inet t { chain c { type filter hook output priority 0; ct state new accept; }; }"""


@pytest.fixture
def netns(short_tmp: Path) -> Iterator[str]:
    lab = Lab(short_tmp)
    try:
        netns = lab.netns()
        run = ["ip", "netns", "exec", Path(netns).name]
        subprocess.run([*run, "nft", "-f", "-"], input=TRACK, check=True)
        subprocess.run([*run, "ip", "link", "set", "lo", "up"], check=True)
        yield netns
    finally:
        lab.clear()


def flows(netns: str) -> set[tuple[str, int]]:
    """(protocol, destination port) of what the kernel tracks there."""
    lines = inside(netns, lambda: Path("/proc/thread-self/net/nf_conntrack").read_text()).splitlines()
    return {
        (
            line.split()[2],
            int(next(word for word in line.split() if word.startswith("dport=")).partition("=")[2]),
        )
        for line in lines
        if "dport=" in line
    }


def send(family: int, address: str, port: int) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", (address, port))


def test_only_udp_flows_to_the_port_are_forgotten(netns: str) -> None:
    def traffic() -> None:
        for port in (5001, 5002):
            send(socket.AF_INET, "127.0.0.1", port)
            send(socket.AF_INET6, "::1", port)
        with socket.create_server(("127.0.0.1", 5001)), socket.create_connection(("127.0.0.1", 5001)):
            pass

    inside(netns, traffic)
    assert flows(netns) == {("udp", 5001), ("udp", 5002), ("tcp", 5001)}
    inside(netns, lambda: forget_udp(5001))
    assert flows(netns) == {("udp", 5002), ("tcp", 5001)}
    inside(netns, lambda: forget_udp(5001))
    assert flows(netns) == {("udp", 5002), ("tcp", 5001)}
