import asyncio
import os
from pathlib import Path

import pytest

from sampan.config import Paths
from sampan.host.oci.bundles import HostBundles
from sampan.model.errors import Invalid, NotFound

pytestmark = pytest.mark.root  # deleting a bundle unmounts what is beneath it


@pytest.fixture
def bundles(tmp_path: Path) -> HostBundles:
    return HostBundles(Paths(tmp_path / "root", tmp_path / "state"))


async def test_a_bundle_is_read_as_it_was_written_and_removed_twice(
    bundles: HostBundles, tmp_path: Path
) -> None:
    bundle = await bundles.write("c1", {"process": {"args": ["sh"]}})
    assert bundle == tmp_path / "state/containers/c1"
    assert await bundles.read("c1") == {"process": {"args": ["sh"]}}
    await bundles.remove("c1")
    await bundles.remove("c1")
    assert await bundles.read("c1") is None and not bundle.exists()


async def test_a_bundle_is_rewritten_whole_or_not_at_all(bundles: HostBundles, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="the bundle of container c1 is gone"):
        await bundles.rewrite("c1", {"a": 1})
    assert not (tmp_path / "state/containers/c1").exists()
    bundle = await bundles.write("c1", {"a": 1})
    await bundles.rewrite("c1", {"a": 2})
    assert await bundles.read("c1") == {"a": 2}
    assert sorted(path.name for path in bundle.iterdir()) == ["config.json", "rootfs"]


async def test_the_process_of_a_bundle_is_always_the_one_that_was_written_last(
    bundles: HostBundles, tmp_path: Path
) -> None:
    assert await bundles.process("c1") is None
    bundle = await bundles.write("c1", {"process": {"args": ["sh"], "oomScoreAdj": 1}, "linux": {}})
    first = await bundles.process("c1")
    assert first == {"args": ["sh"], "oomScoreAdj": 1}
    first["args"] = ["changed by its user"]
    assert await bundles.process("c1") == {"args": ["sh"], "oomScoreAdj": 1}
    async with asyncio.TaskGroup() as group:  # a read under way keeps nothing that is about to change
        group.create_task(bundles.process("c1"))
        group.create_task(bundles.rewrite("c1", {"process": {"oomScoreAdj": 2}}))
    assert await bundles.process("c1") == {"oomScoreAdj": 2}
    (bundle / "config.json").write_text("torn")
    assert await HostBundles(Paths(tmp_path / "root", tmp_path / "state")).process("c1") is None
    await bundles.remove("c1")
    assert await bundles.process("c1") is None


async def test_processes_are_kept_of_some_containers_only(
    bundles: HostBundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampan.host.oci.bundles._KEPT", 2)
    for id in "abcab":
        await bundles.write(id, {"process": {"args": [id]}})
        assert await bundles.process(id) == {"args": [id]}
    assert len(bundles._processes) == 2


async def test_nobody_else_reads_what_is_secret_in_a_bundle(bundles: HostBundles, tmp_path: Path) -> None:
    bundle = await bundles.write("c1", {"process": {"env": ["PASSWORD=x"]}})
    assert (bundle / "config.json").stat().st_mode & 0o777 == 0o600
    (bundle / "config.json.new").touch(0o644)  # an earlier daemon was killed at it
    await bundles.rewrite("c1", {"process": {"env": ["PASSWORD=y"]}})
    assert (bundle / "config.json").stat().st_mode & 0o777 == 0o600


async def test_a_log_is_made_in_folders_that_are_not_there_yet(bundles: HostBundles, tmp_path: Path) -> None:
    log = await bundles.make_log(str(tmp_path / "logs/pod"), str(tmp_path / "logs/pod/app/0.log"))
    assert log.stat().st_mode & 0o777 == 0o640 and log.read_bytes() == b""


async def test_a_log_that_is_there_is_kept(bundles: HostBundles, tmp_path: Path) -> None:
    (tmp_path / "0.log").write_text("before")
    assert (await bundles.make_log(str(tmp_path), str(tmp_path / "0.log"))).read_text() == "before"


@pytest.mark.parametrize("kind", ["link to a file", "dangling link", "fifo", "directory", "folder is a link"])
async def test_what_was_planted_in_the_way_of_a_log_is_not_followed(
    bundles: HostBundles, tmp_path: Path, kind: str
) -> None:
    canary, logs = tmp_path / "canary", tmp_path / "logs"
    canary.mkdir()
    (canary / "f").write_text("precious")
    logs.mkdir()
    path = logs / "app" / "0.log"
    if kind == "folder is a link":
        path.parent.symlink_to(canary)
    else:
        path.parent.mkdir()
    match kind:
        case "link to a file":
            path.symlink_to(canary / "f")
        case "dangling link":
            path.symlink_to(canary / "new")
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
    with pytest.raises(Invalid, match=r"0\.log"):
        await bundles.make_log(str(logs), str(path))
    assert [entry.name for entry in canary.iterdir()] == ["f"] and (canary / "f").read_text() == "precious"


async def test_a_log_directory_is_made_once_and_must_be_a_directory(
    bundles: HostBundles, tmp_path: Path
) -> None:
    for _ in range(2):
        await bundles.make_log_directory(str(tmp_path / "a/b"))
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match="not a directory"):
        await bundles.make_log_directory(str(tmp_path / "file"))


@pytest.mark.parametrize("what", ["absent", "directory", "fifo", "large"])
async def test_a_profile_that_is_no_small_file_is_refused(
    bundles: HostBundles, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "profile.json"
    match what:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "large":
            path.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(Invalid, match=r"profile\.json"):
        await bundles.read_profile(str(path))


async def test_a_profile_is_read(bundles: HostBundles, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(b"{}")
    assert await bundles.read_profile(str(tmp_path / "p.json")) == b"{}"
