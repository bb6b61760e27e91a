"""Which addresses a registry may send us to."""

import asyncio
import ssl
from typing import Any

import pytest

from sampan.host.registry.address import AddressRefused, Reach, Resolver, reach_of, tls
from sampan.wire.hosts_toml import Host


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("127.0.0.1", Reach.HERE),
        ("127.255.0.9", Reach.HERE),
        ("0.0.0.0", Reach.HERE),
        ("::1", Reach.HERE),
        ("::", Reach.HERE),
        ("::ffff:127.0.0.1", Reach.HERE),
        ("169.254.169.254", Reach.LINK),
        ("fe80::1", Reach.LINK),
        ("fe80::1%eth0", Reach.LINK),
        ("::ffff:169.254.169.254", Reach.LINK),
        ("64:ff9b::a9fe:a9fe", Reach.LINK),
        ("224.0.0.1", Reach.LINK),
        ("10.0.0.1", Reach.PRIVATE),
        ("172.16.0.1", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("8.8.8.8", Reach.PUBLIC),
        ("2606:4700::1", Reach.PUBLIC),
        ("64:ff9b::808:808", Reach.PUBLIC),
    ],
)
def test_reach(address: str, reach: Reach) -> None:
    assert reach_of(address) is reach


ADDRESSES = {
    "home": "",
    "public": "8.8.8.8",
    "private": "10.1.2.3",
    "here": "127.0.0.1",
    "link": "169.254.169.254",
}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A name service of our own."""
    table = dict(ADDRESSES)

    async def getaddrinfo(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        return [(2, 1, 6, "", (table[host], port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return table


@pytest.mark.parametrize(
    ("home", "allowed"),
    [
        ("8.8.4.4", {"public"}),
        ("10.0.0.1", {"public", "private"}),
        ("127.0.0.1", {"public", "private", "here"}),
        ("169.254.1.1", {"public", "link"}),
    ],
)
async def test_a_registry_may_send_us_where_it_is_itself_or_further_out(
    names: dict[str, str], home: str, allowed: set[str]
) -> None:
    names["home"] = home
    resolver = Resolver("home")
    assert [each["host"] for each in await resolver.resolve("home", 443)] == [home]
    for name in ("public", "private", "here", "link"):
        if name in allowed:
            assert (await resolver.resolve(name, 443))[0]["host"] == ADDRESSES[name]
        else:
            with pytest.raises(AddressRefused, match=name):
                await resolver.resolve(name, 443)


async def test_an_address_is_judged_like_a_name(names: dict[str, str]) -> None:
    resolver = Resolver("8.8.4.4")
    resolver.check_literal("8.8.8.8")
    resolver.check_literal("registry.test")
    for address in ("10.1.2.3", "127.0.0.1", "[::1]", "169.254.169.254"):
        with pytest.raises(AddressRefused):
            resolver.check_literal(address)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0177.0.0.1", "127.000.000.001", "0", "[::::]"])
async def test_what_only_sockets_take_for_an_address_is_refused(host: str) -> None:
    with pytest.raises(AddressRefused, match="no address"):
        Resolver("8.8.4.4").check_literal(host)


async def test_a_proxy_may_be_anywhere(names: dict[str, str]) -> None:
    resolver = Resolver("8.8.4.4", frozenset({"here"}))
    assert (await resolver.resolve("here", 3128))[0]["host"] == "127.0.0.1"


async def test_the_systems_authorities_are_loaded_once() -> None:
    first = await tls(Host("https", "a.test"))
    assert first is await tls(Host("https", "b.test"))
    assert first.verify_mode is ssl.CERT_REQUIRED
    assert (await tls(Host("https", "a.test", skip_verify=True))).verify_mode is ssl.CERT_NONE
