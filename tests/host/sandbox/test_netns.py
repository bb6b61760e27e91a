"""Entering pinned namespaces, and the names of sysctls."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.host import mounts
from sampan.host.sandbox import netns
from sampan.host.threads import in_own_thread
from sampan.model.errors import Invalid, NotFound


@pytest.fixture
async def pinned(tmp_path: Path) -> AsyncIterator[Path]:
    place = tmp_path / "net"
    place.touch()

    def make() -> None:
        netns.enter_new(frozenset({"net"}))
        netns.pin("net", place)

    try:
        await in_own_thread(make)
        yield place
    finally:
        mounts.detach(place)


def current() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


@pytest.mark.root
async def test_a_socket_made_inside_stays_inside(pinned: Path) -> None:
    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\0sampan-test-netns")  # abstract names belong to the network namespace
        listener.listen()
        return listener

    listener = await netns.inside(pinned, "net", listen)
    with listener:
        with socket.socket(socket.AF_UNIX) as outside, pytest.raises(ConnectionRefusedError):
            outside.connect("\0sampan-test-netns")
        inner = await netns.inside(pinned, "net", lambda: socket.socket(socket.AF_UNIX))
        with inner:
            inner.connect("\0sampan-test-netns")


@pytest.mark.root
async def test_the_threads_of_the_daemon_stay_where_they_are(pinned: Path) -> None:
    here = current()
    assert await netns.inside(pinned, "net", current) != here
    assert current() == here


@pytest.mark.root
async def test_a_namespace_that_is_gone_is_not_found(pinned: Path, tmp_path: Path) -> None:
    for place, kind in ((tmp_path / "absent", "net"), (pinned, "ipc"), (Path("/proc/self/ns/net"), "net")):
        with pytest.raises(NotFound):
            await netns.inside(place, kind, lambda: None)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
    ],
)
def test_the_path_of_a_sysctl(key: str, path: str) -> None:
    assert netns.sysctl_path(key) == path


@pytest.mark.parametrize(
    "key", ["", ".", "/", "net..x", "net/../x", "../x", "net.", "/net/x", "a\0b", "net.//.x"]
)
def test_what_is_no_sysctl_has_no_path(key: str) -> None:
    with pytest.raises(Invalid):
        netns.sysctl_path(key)
