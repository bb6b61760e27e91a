"""What every test may use: the root marker, short temporary paths, a real registry, a way to push to it."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from blockbuster import blockbuster_ctx

from tests import census, images

REGISTRY_SECONDS = 20
WHOLE = ("daemon", "conformance")  # directories of tests of the whole, in this order
TEST_SECONDS = 300  # for one test or its fixtures, unless marked `limit`


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole daemons last: the smaller the part that fails, the sooner it is known, and what runs for the session
    meets no test that counts its own children. Tests marked `root` run wherever they can: as root none is skipped,
    otherwise each says why."""
    items.sort(key=lambda item: WHOLE.index(item.path.parent.name) if item.path.parent.name in WHOLE else -1)
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root; `make test` runs it"))


def pytest_configure() -> None:
    """A run that is told to end (`timeout`, a CI system) still tears its fixtures down, as after ^C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextlib.contextmanager
def limited(item: pytest.Item) -> Iterator[None]:
    """Fail a test that takes longer than its `limit` marker says, so that a hang costs no more than that."""
    marker = item.get_closest_marker("limit")
    seconds = marker.args[0] if marker else TEST_SECONDS

    def over(_number: int, _frame: object) -> None:
        pytest.fail(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with limited(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with limited(item):
        yield


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """In tests of the use cases and the edge: our code that would hold up the event loop fails the test.

    Tests of `host` call blocking parts directly, to look at what the async ones did.
    """
    if request.path.parent.name not in ("runtime", "server"):
        yield
        return
    with blockbuster_ctx(["sampan"]):
        yield


@pytest.fixture(autouse=True)
def nothing_of_the_machine_is_given_away() -> Iterator[None]:
    """A machine whose /dev/null belongs to a container is lost: no test may leave it so."""
    before = list(census.devices())
    yield
    after = list(census.devices())
    if before != after and os.geteuid() == 0:
        os.chown("/dev/null", 0, 0)
        Path("/dev/null").chmod(0o666)
    assert after == before


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory whose path is short enough for Unix sockets in it (108 bytes, unix(7))."""
    path = Path(tempfile.mkdtemp(prefix="sp-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}
http: {{addr: "{address}"}}
"""


@contextlib.contextmanager
def running_registry(directory: Path) -> Iterator[images.Registry]:
    """Debian's docker-registry on a free loopback port, its blobs in `directory`."""
    address = f"127.0.0.1:{free_port()}"
    config = directory / "registry.yml"
    config.write_text(CONFIG.format(storage=directory / "storage", address=address))
    with (directory / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={}
        )
    try:
        wait_for(images.Registry(address), process, directory / "registry.log")
        yield images.Registry(address)
    finally:
        process.kill()
        process.wait()


def wait_for(registry: images.Registry, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + REGISTRY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            registry.request("GET", "/v2/")
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"docker-registry did not come up: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[images.Registry]:
    """A real registry for the whole session; use a repository name of your own."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed; `make test` installs it")
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


class PushImage(Protocol):
    """Push an image to the session's registry; returns its reference by tag."""

    def __call__(self, repository: str, image: images.Image | None = None, tag: str = "latest") -> str: ...


@pytest.fixture
def push_image(registry: images.Registry) -> PushImage:
    """`push_image("my/app", image, "v1")` → "127.0.0.1:PORT/my/app:v1"; busybox where no image is given."""

    def push(repository: str, image: images.Image | None = None, tag: str = "latest") -> str:
        registry.push(repository, image or images.busybox(), tag)
        return f"{registry.address}/{repository}:{tag}"

    return push
