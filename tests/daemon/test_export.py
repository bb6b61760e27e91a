"""Images from a registry, exported and imported into a second daemon, which runs them; damage found and mended."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.api import cri_pb2 as cri
from scripts import private_daemon
from tests import cgroup_drivers, images
from tests.conftest import PushImage
from tests.daemon.conftest import Live, clean_up
from tests.images import Entry

pytestmark = pytest.mark.root

LAYERS = [
    images.busybox_entries(),
    [Entry("data/one", data=os.urandom(300_000)), Entry("way", "symlink", link="data")],
    [Entry("way/two", data=b"two"), Entry("again", "hardlink", link="etc/passwd"), Entry("data/.wh.none")],
]
APP = images.image(list(map(images.layer, LAYERS)), {"Cmd": ["sh"], "Env": [images.PATH]})
SHARED = images.image([images.layer(LAYERS[0])], {"Cmd": ["true"], "Env": [images.PATH]})


def sampan(daemon: Live, *words: str, code: int = 0) -> str:
    argv = [sys.executable, "-m", "sampan", "--endpoint", daemon.own.endpoint, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def other() -> Iterator[Live]:
    """A second daemon, with nothing in it."""
    live = Live(os.getpid() % 200 + 21, cgroup_drivers.DRIVERS[-1])
    try:
        live.start()
        yield live
    finally:
        with private_daemon.uninterrupted():
            clean_up(live)


def run(daemon: Live, pod: str, image: str, script: str, name: str = "app") -> str:
    config = daemon.container_config("sh", "-c", script, name=name)
    config.image.image = image
    request = cri.CreateContainerRequest(pod_sandbox_id=pod, config=config)
    id = daemon.runtime.CreateContainer(request, timeout=30).container_id
    daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id), timeout=30)
    return id


def test_an_image_goes_from_a_registry_by_an_archive_to_a_container(
    daemon: Live, other: Live, push_image: PushImage, tmp_path: Path
) -> None:
    name, shared = push_image("export/app", APP), push_image("export/shared", SHARED)
    for each in (name, shared):
        sampan(daemon, "pull", each)
    archive = tmp_path / "both.tar"
    sampan(daemon, "export", name, shared, "-o", str(archive))
    told = sampan(other, "import", str(archive))
    assert {line.split()[0] for line in told.splitlines()} == {APP.id, SHARED.id}
    assert "DAMAGED" not in sampan(other, "images", "verify")
    again = tmp_path / "again.tar"
    sampan(other, "export", name, shared, "-o", str(again))
    assert again.read_bytes() == archive.read_bytes()
    container = run(other, other.pod("tries"), name, "cat /way/two && busybox cmp /again /etc/passwd")
    assert other.until_exited(container).exit_code == 0
    assert other.until_logged(container) == ["two"]


def test_damage_is_found_and_mended_while_a_container_keeps_what_it_has(
    daemon: Live, push_image: PushImage
) -> None:
    name = push_image("export/app", APP)
    sampan(daemon, "pull", name)
    pod = daemon.pod("tries")
    old = run(daemon, pod, name, "sleep 1000", "old")
    assert sampan(daemon, "images", "verify", name).count(": good") == 3
    (file,) = daemon.own.root.glob("layers/*/fs/data/one")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    told = sampan(daemon, "images", "verify", name, code=1)
    assert told.count("DAMAGED") == 1 and "layer 2 of 3: DAMAGED" in told
    assert "is damaged" in sampan(daemon, "export", name, "-o", "/dev/null", code=1)
    told = sampan(daemon, "images", "verify", name, "--repair")
    assert "layer 2 of 3: was damaged, pulled anew" in told
    assert sampan(daemon, "images", "verify").count("DAMAGED") == 0
    fresh = run(daemon, pod, name, "busybox sha256sum /data/one", "fresh")
    assert daemon.until_logged(fresh)[0].split()[0] == images.sha256(data).removeprefix("sha256:")
    assert daemon.exec(old, "cat", "/way/two").stdout == b"two"  # on the damaged layer, which is still there
    daemon.kill()
    daemon.start()
    assert daemon.exec(old, "cat", "/way/two").stdout == b"two"
    assert sampan(daemon, "images", "verify", name).count(": good") == 3


def test_an_image_that_no_registry_has_any_more_is_kept_as_it_is(daemon: Live) -> None:
    (file,) = daemon.own.root.glob("layers/*/fs/etc/passwd")
    file.chmod(0o666)
    told = sampan(daemon, "images", "verify", "--repair", code=1)
    assert "has mode 666" in sampan(daemon, "images", "verify", code=1)
    assert "sampan: " in told
    container = run(daemon, daemon.pod("tries"), "localhost/box:1", "true")
    assert daemon.until_exited(container).exit_code == 0
