"""Counters of interfaces in pinned network namespaces."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.host import mounts
from sampan.host.cni.links import Links
from sampan.host.sandbox import net_stats, netns
from sampan.host.threads import in_own_thread

pytestmark = pytest.mark.root


def pin(place: Path) -> None:
    netns.enter_new(frozenset({"net"}))
    netns.pin("net", place)


@pytest.fixture
async def pinned(tmp_path: Path) -> AsyncIterator[Path]:
    place = tmp_path / "net"
    place.touch()
    try:
        await in_own_thread(lambda: pin(place))
        yield place
    finally:
        mounts.detach(place)


async def test_a_new_namespace_has_only_its_loopback_which_is_left_out(pinned: Path) -> None:
    assert await net_stats.interfaces([pinned]) == [()]


async def test_its_interfaces_are_seen_from_inside(pinned: Path) -> None:
    def make() -> None:
        with Links() as links:
            links.add_bridge("eth0")

    await netns.inside(pinned, "net", make)
    ((found,),) = [one for one in await net_stats.interfaces([pinned]) if one is not None]
    assert (found.name, found.rx_bytes, found.tx_packets) == ("eth0", 0, 0)


async def test_as_many_as_do_not_fit_into_a_page(pinned: Path) -> None:
    def make() -> None:
        with Links() as links:
            for number in range(40):
                links.add_bridge(f"interface{number:05}")

    await netns.inside(pinned, "net", make)
    ((found),) = await net_stats.interfaces([pinned])
    assert found is not None
    assert [one.name for one in found] == [f"interface{number:05}" for number in range(40)]


async def test_one_that_is_gone_is_none_and_the_others_are_read(pinned: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    gone = [tmp_path / "absent", tmp_path / "empty"]
    assert await net_stats.interfaces([gone[0], pinned, gone[1], pinned]) == [None, (), None, ()]
    assert await net_stats.interfaces([]) == []


async def test_a_link_to_a_namespace_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "host").symlink_to("/proc/self/ns/net")
    assert await net_stats.interfaces([tmp_path / "host"]) == [None]


async def test_our_own_threads_stay_outside(pinned: Path) -> None:
    here = Path("/proc/thread-self/ns/net").stat().st_ino
    await net_stats.interfaces([pinned])
    assert Path("/proc/thread-self/ns/net").stat().st_ino == here
