"""Which directory of which configuration path describes a registry."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from sampan.host.registry import hosts
from sampan.host.registry.hosts import hosts_of
from sampan.model.errors import Invalid
from tests.evil_registry import running


def write(root: Path, name: str, server: str) -> None:
    (root / name).mkdir(parents=True)
    (root / name / "hosts.toml").write_text(f'server = "https://{server}"')


async def found(domain: str, *roots: Path) -> str:
    return (await hosts_of(domain, roots))[-1].host


async def test_without_a_directory_the_registry_itself_is_asked(tmp_path: Path) -> None:
    assert await found("a.test:5000", tmp_path, tmp_path / "missing") == "a.test:5000"
    assert await found("docker.io", tmp_path) == "registry-1.docker.io"


async def test_the_most_particular_directory_counts(tmp_path: Path) -> None:
    write(tmp_path, "_default", "default")
    assert await found("a.test:5000", tmp_path) == "default"
    write(tmp_path, "a.test:5000", "colon")
    assert await found("a.test:5000", tmp_path) == "colon"
    write(tmp_path, "a.test_5000_", "underscores")
    assert await found("a.test:5000", tmp_path) == "underscores"
    assert await found("b.test", tmp_path) == "default"


async def test_the_first_path_that_knows_a_host_wins(tmp_path: Path) -> None:
    write(tmp_path / "one", "a.test", "first")
    write(tmp_path / "two", "a.test", "second")
    write(tmp_path / "two", "b.test", "other")
    assert await found("a.test", tmp_path / "one", tmp_path / "two") == "first"
    assert await found("b.test", tmp_path / "one", tmp_path / "two") == "other"


async def test_a_directory_without_hosts_toml_may_hold_certificates(tmp_path: Path) -> None:
    (tmp_path / "a.test").mkdir()
    for name in ("ca.crt", "client.cert", "client.key", "alone.cert", "README"):
        (tmp_path / "a.test" / name).touch()
    (host,) = await hosts_of("a.test", [tmp_path])
    assert host.ca == (f"{tmp_path}/a.test/ca.crt",)
    assert host.client == (
        (f"{tmp_path}/a.test/alone.cert", ""),
        (f"{tmp_path}/a.test/client.cert", f"{tmp_path}/a.test/client.key"),
    )
    assert host.url == "https://a.test/v2"


async def test_an_empty_hosts_toml_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "a.test").mkdir()
    (tmp_path / "a.test/hosts.toml").touch()
    (tmp_path / "a.test/ours.crt").touch()
    (tmp_path / "a.test/not.crt").mkdir()
    (host,) = await hosts_of("a.test", [tmp_path])
    assert host.ca == (f"{tmp_path}/a.test/ours.crt",)


async def test_a_file_where_a_directory_should_be_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.test").write_text("")
    assert await found("a.test", tmp_path, tmp_path / "a.test") == "a.test"


@pytest.mark.root
async def test_a_directory_instead_of_the_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.test/hosts.toml").mkdir(parents=True)
    with pytest.raises(Invalid, match=r"a\.test/hosts\.toml cannot be read"):
        await hosts_of("a.test", [tmp_path])


# --- loopback, where nobody says what is spoken -----------------------------------------------------------------


async def test_plain_http_on_loopback_is_found_out(tmp_path: Path) -> None:
    async with running() as registry:
        (host,) = await hosts_of(registry.address, [tmp_path])
        port = registry.address.rpartition(":")[2]
        (named,) = await hosts_of(f"localhost:{port}", [tmp_path])
        assert registry.requests == []
    assert (host.scheme, host.assumed, host.skip_verify) == ("http", True, False)
    assert named.url == f"http://localhost:{port}/v2"


@pytest.mark.parametrize("domain", ["127.0.0.1", "127.0.0.1:443", "localhost", "[::1]", "127.0.0.1:1"])
async def test_https_is_assumed_on_loopback_where_nothing_else_is_seen(tmp_path: Path, domain: str) -> None:
    (host,) = await hosts_of(domain, [tmp_path])
    assert (host.scheme, host.assumed, host.skip_verify) == ("https", True, True)


async def test_a_registry_that_says_nothing_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "GREETING_SECONDS", 0.05)

    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        (host,) = await hosts_of(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", [tmp_path])
        await gone.wait()
    assert host.scheme == "https"


async def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.test").mkdir()
    file = tmp_path / "a.test/hosts.toml"
    for content in (b"\xff", b"server = ", b" " * ((1 << 20) + 1)):
        file.write_bytes(content)
        with pytest.raises(Invalid, match=r"hosts\.toml"):
            await hosts_of("a.test", [tmp_path])
