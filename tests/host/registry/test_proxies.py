"""Which requests go through a proxy: as Go's programs decide it."""

import pytest
from yarl import URL

from sampan.host.registry import proxies

HTTP, HTTPS = "http://plain.test:3128", "http://user:word@secure.test:3128"


@pytest.fixture(autouse=True)
def no_other_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://a.test/v2", HTTP),
        ("https://a.test/v2", HTTPS),
        ("https://localhost:5000/v2", None),
        ("http://127.0.0.9:5000/v2", None),
        ("http://[::1]:5000/v2", None),
    ],
)
def test_the_scheme_says_which_and_this_machine_has_none(
    monkeypatch: pytest.MonkeyPatch, url: str, proxy: str | None
) -> None:
    monkeypatch.setenv("HTTP_PROXY", HTTP)
    monkeypatch.setenv("HTTPS_PROXY", HTTPS)
    assert proxies.of(URL(url)) == proxy
    assert proxies.hosts() == {"plain.test", "secure.test"}


def test_a_proxy_may_be_written_without_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "plain.test:3128")
    assert proxies.of(URL("https://a.test")) == HTTP
    assert proxies.hosts() == {"plain.test"}


def test_without_any_there_is_none() -> None:
    assert proxies.of(URL("https://a.test")) is None and proxies.hosts() == frozenset()


@pytest.mark.parametrize(
    ("exceptions", "direct"),
    [
        ("", ()),
        ("*", ("a.test", "b.a.test", "10.1.2.3", "10.1.2.3:5000", "[fd00::5]:5000")),
        ("a.test", ("a.test", "b.a.test")),
        (" x.test , A.test ", ("a.test", "b.a.test")),
        (".a.test", ("b.a.test",)),
        ("*.a.test", ("b.a.test",)),
        ("test", ("a.test", "b.a.test")),
        ("a.test:443", ("a.test", "b.a.test")),
        ("a.test:80", ()),
        ("10.0.0.0/8", ("10.1.2.3", "10.1.2.3:5000")),
        ("10.1.2.3", ("10.1.2.3", "10.1.2.3:5000")),
        ("10.1.2.3:5000", ("10.1.2.3:5000",)),
        ("2.3", ()),
        ("fd00::/8,10.0.0.0/99", ("[fd00::5]:5000",)),
        ("fd00::5", ("[fd00::5]:5000",)),
        ("[fd00::5]:5000", ("[fd00::5]:5000",)),
        (",:,/,.", ()),
    ],
)
def test_no_proxy_means_what_it_means_to_go(
    monkeypatch: pytest.MonkeyPatch, exceptions: str, direct: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", HTTPS)
    monkeypatch.setenv("NO_PROXY", exceptions)
    hosts = ("a.test", "b.a.test", "10.1.2.3", "10.1.2.3:5000", "[fd00::5]:5000")
    assert tuple(host for host in hosts if proxies.of(URL(f"https://{host}/v2")) is None) == direct
