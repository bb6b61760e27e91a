"""One registry with the suite's images and one private daemon for all conformance tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.private_daemon import Daemon, Network, private_daemon
from tests.conformance import images, tools
from tests.conftest import running_registry

NETWORK = Network("sampan-conf0", "10.75.0.0/16")
BUSYBOX = "registry.k8s.io/e2e-test-images/busybox:1.29-2"


@pytest.fixture(scope="session")
def suite_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry with every image of the suite; yields the `hosts.toml` directory that leads to it."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed; `make test` installs it")
    directory = tmp_path_factory.mktemp("suite")
    with running_registry(directory) as registry:
        try:
            images.push_all(registry)
        except tools.NoTools as error:
            pytest.skip(f"the suite's images cannot be built here: {error}")
        yield registry.hosts_directory(directory / "certs.d", *images.UPSTREAM)


@pytest.fixture(scope="session")
def daemon(suite_registry: Path) -> Iterator[Daemon]:
    with private_daemon(NETWORK, certs=[suite_registry]) as running:
        yield running


def tool(name: str) -> Path:
    """crictl or critest; where it cannot be had, the test is skipped with the reason."""
    try:
        return tools.tool(name)
    except tools.NoTools as error:
        pytest.skip(str(error))
