"""Which directory of which configuration path describes a registry."""

from pathlib import Path

import pytest

from sampan.host.registry.hosts import hosts_of
from sampan.model.errors import Invalid


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
    assert host.client == ((f"{tmp_path}/a.test/client.cert", f"{tmp_path}/a.test/client.key"),)
    assert host.url == "https://a.test/v2"


async def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.test").mkdir()
    file = tmp_path / "a.test/hosts.toml"
    for content in (b"\xff", b"server = ", b" " * ((1 << 20) + 1)):
        file.write_bytes(content)
        with pytest.raises(Invalid, match=r"hosts\.toml"):
            await hosts_of("a.test", [tmp_path])
