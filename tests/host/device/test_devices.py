"""Device files of the host."""

import os
import stat
from pathlib import Path

import pytest

from sampan.host import process
from sampan.host.device import devices
from sampan.model.errors import Exhausted
from sampan.spec.facts import DeviceNode

NULL = Path("/dev/null").stat()


async def test_a_device_is_read_from_the_file_itself() -> None:
    found = await devices.device_nodes(["/dev/null"])
    (node,) = found["/dev/null"]
    assert node == DeviceNode("/dev/null", "c", 1, 3, stat.S_IMODE(NULL.st_mode), NULL.st_uid, NULL.st_gid)


@pytest.mark.parametrize(
    "path", ["/etc", "/etc/passwd", "/dev/../etc", "/dev/absent", "dev/null", "", "/dev/nu\0ll"]
)
async def test_what_is_no_device_is_left_out(path: str) -> None:
    assert await devices.device_nodes([path]) == {}


async def test_a_fifo_and_a_socket_are_no_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert await devices.device_nodes([str(tmp_path / "fifo"), str(tmp_path)]) == {}


async def test_a_link_to_a_device_keeps_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    (node,) = (await devices.device_nodes([str(tmp_path / "link")]))[str(tmp_path / "link")]
    assert (node.path, node.major, node.minor) == (str(tmp_path / "link"), 1, 5)


async def test_a_loop_of_links_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert await devices.device_nodes([str(tmp_path / "loop")]) == {}


@pytest.mark.parametrize("path", ["/", "/proc", "/usr", "/proc/self/root", "/devices"])
async def test_only_folders_in_dev_are_looked_through(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "scandir", lambda _: pytest.fail("looked into it"))
    assert await devices.device_nodes([path]) == {}


async def test_a_folder_deeper_than_any_stack_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_DEV", tmp_path)
    names = "/".join(["d"] * 1800)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        for name in names.split("/"):
            os.mkdir(name, dir_fd=folder)
            inner = os.open(name, os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = inner
    finally:
        os.close(folder)
    try:
        assert await devices.device_nodes([str(tmp_path)]) == {}
    finally:
        await process.run(["rm", "-rf", str(tmp_path / "d")])  # shutil.rmtree recurses


async def test_a_folder_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_DEV", tmp_path)
    monkeypatch.setattr(devices, "_MOST", 5)
    for number in range(6):
        (tmp_path / str(number)).touch()
    with pytest.raises(Exhausted, match=f"{tmp_path} has more than 5 files"):
        await devices.device_nodes([str(tmp_path)])


@pytest.mark.root
async def test_a_folder_gives_all_devices_beneath_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_DEV", tmp_path)
    (tmp_path / "deep").mkdir()
    os.mknod(tmp_path / "deep/block", stat.S_IFBLK | 0o640, os.makedev(7, 250))
    os.mknod(tmp_path / "char", stat.S_IFCHR | 0o606, os.makedev(1, 3))
    (tmp_path / "plain").touch()
    (tmp_path / "link").symlink_to("/dev/zero")
    os.chown(tmp_path / "deep/block", 0, 6)
    os.chmod(tmp_path / "char", 0o606)  # noqa: PTH101 - beside mknod and chown
    os.chmod(tmp_path / "deep/block", 0o640)  # noqa: PTH101 - the same
    found = (await devices.device_nodes([str(tmp_path)]))[str(tmp_path)]
    assert found == (
        DeviceNode(str(tmp_path / "char"), "c", 1, 3, 0o606, 0, 0),
        DeviceNode(str(tmp_path / "deep/block"), "b", 7, 250, 0o640, 0, 6),
    )


async def test_a_privileged_container_gets_the_hosts_devices_but_no_terminals() -> None:
    paths = [node.path for node in await devices.all_devices()]
    assert "/dev/null" in paths
    assert "/dev/console" not in paths
    assert not [path for path in paths if path.startswith(("/dev/pts/", "/dev/shm/", "/dev/mqueue/"))]
    assert len(paths) == len(set(paths))
