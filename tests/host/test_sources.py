"""What host paths really are."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.host import mounts, sources, syscalls
from sampan.host.processes import find
from sampan.host.sources import HostFacts
from sampan.model.errors import Invalid, WrongState
from sampan.model.process import ProcessRef


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "a mount"
    place.mkdir()
    mounts.tmpfs(place, 1 << 20, 0o755)
    try:
        yield place
    finally:
        mounts.detach(place)


async def test_files_and_folders_by_the_path_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    asked = [str(tmp_path), str(tmp_path / "file"), str(tmp_path / "link"), f"{tmp_path}/./x/../file"]
    found = await sources.sources(asked)
    assert set(found) == set(asked[:3])
    assert found[asked[0]].is_directory
    assert not found[asked[1]].is_directory
    assert found[asked[2]].path == str((tmp_path / "file").resolve())


async def test_dots_and_doubled_slashes_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    asked = f"{tmp_path}//deep/../deep/."
    assert (await sources.sources([asked]))[asked].path == str((tmp_path / "deep").resolve())


@pytest.mark.parametrize("path", ["/absent", "", "relative", "/etc/passwd/x", "/e\0tc", "/" + "a" * 5000])
async def test_what_does_not_exist_is_left_out(path: str) -> None:
    assert await sources.sources([path]) == {}


async def test_a_link_to_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Whatever is made of the name has to fit into JSON."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).mkdir()
    (tmp_path / "link").symlink_to(os.fsdecode(b"\xff"))
    with pytest.raises(Invalid, match=r"link' leads to '.*\\udcff', whose name is not UTF-8") as refused:
        await sources.sources([str(tmp_path / "link")])
    assert str(refused.value).encode()


async def test_nothing_is_opened(tmp_path: Path) -> None:
    """Opening a FIFO would wait for a writer."""
    os.mkfifo(tmp_path / "fifo")
    async with asyncio.timeout(5):
        found = await sources.sources([str(tmp_path / "fifo")])
    assert not found[str(tmp_path / "fifo")].is_directory


@pytest.mark.root
@pytest.mark.parametrize(
    ("flag", "propagation"),
    [(syscalls.MS_PRIVATE, "private"), (syscalls.MS_SHARED, "shared"), (syscalls.MS_UNBINDABLE, "private")],
)
async def test_the_propagation_is_that_of_the_mount_beneath(
    mounted: Path, flag: int, propagation: str
) -> None:
    syscalls.mount("", mounted, "", flag)
    (mounted / "deep").mkdir()
    source = (await sources.sources([str(mounted / "deep")]))[str(mounted / "deep")]
    assert source.propagation == propagation
    assert source.locked_flags == ("nodev", "noexec", "nosuid")


@pytest.mark.root
async def test_a_slave_is_told_from_its_master(mounted: Path, tmp_path: Path) -> None:
    syscalls.mount("", mounted, "", syscalls.MS_SHARED)
    slave = tmp_path / "slave"
    slave.mkdir()
    syscalls.mount(mounted, slave, "", syscalls.MS_BIND)
    try:
        syscalls.mount("", slave, "", syscalls.MS_SLAVE)
        assert (await sources.sources([str(slave)]))[str(slave)].propagation == "slave"
    finally:
        mounts.detach(slave)


@pytest.mark.root
async def test_what_is_mounted_beneath_a_source_is_seen(mounted: Path, tmp_path: Path) -> None:
    (mounted / "deep").mkdir()
    (tmp_path / "link").symlink_to(mounted.parent)
    asked = [str(path) for path in (tmp_path, tmp_path / "link", mounted, mounted / "deep", Path("/"))]
    found = await sources.sources(asked)
    assert [found[path].submounts for path in asked] == [True, True, False, False, True]
    mounts.tmpfs(mounted, 1 << 16, 0o755)  # over it, not beneath
    try:
        assert not (await sources.sources([str(mounted)]))[str(mounted)].submounts
    finally:
        mounts.detach(mounted)


@pytest.mark.root
async def test_of_two_mounts_at_one_place_the_upper_counts(mounted: Path) -> None:
    syscalls.mount("", mounted, "", syscalls.MS_SHARED)
    syscalls.mount("upper", mounted, "tmpfs", 0, "size=64k")
    syscalls.mount("", mounted, "", syscalls.MS_PRIVATE)
    source = (await sources.sources([str(mounted)]))[str(mounted)]
    assert (source.propagation, source.locked_flags) == ("private", ())


async def test_a_path_that_never_answers_holds_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many stuck requests as would fill any pool, and the next one is still answered."""
    release, real_open = threading.Event(), os.open

    def stuck(path: str, flags: int, *rest: int, **more: int) -> int:
        if path == "/stuck":
            release.wait()
        return real_open(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", stuck)
    waiting = [asyncio.ensure_future(sources.sources(["/stuck"])) for _ in range(40)]
    try:
        async with asyncio.timeout(5):
            assert str(tmp_path) in await sources.sources([str(tmp_path)])
    finally:
        release.set()
        assert await asyncio.gather(*waiting) == [{}] * 40


async def test_a_small_file_of_the_host(tmp_path: Path) -> None:
    facts = HostFacts()
    (tmp_path / "hosts").write_bytes(b"127.0.0.1 localhost\n")
    assert await facts.host_file(str(tmp_path / "hosts")) == b"127.0.0.1 localhost\n"
    assert await facts.host_file(str(tmp_path / "absent")) == b""
    (tmp_path / "large").write_bytes(bytes(sources.HOST_FILE_LIMIT + 1))
    with pytest.raises(Invalid, match="larger"):
        await facts.host_file(str(tmp_path / "large"))


@pytest.mark.root
async def test_disk_usage_counts_what_was_written(mounted: Path) -> None:
    before = await sources.disk_usage(mounted)
    (mounted / "file").write_bytes(bytes(256 << 10))
    after = await sources.disk_usage(mounted)
    assert before.size == 1 << 20
    assert after.used - before.used == 256 << 10
    assert before.available - after.available == 256 << 10
    assert after.inodes_used - before.inodes_used == 1
    assert after.inodes > after.inodes_used


async def test_a_pid_namespace_is_held_and_a_number_used_again_is_not_taken_for_the_process() -> None:
    facts, me = HostFacts(), find(os.getpid())
    assert me is not None
    async with facts.pid_namespace(me) as path:
        assert Path(path).stat().st_ino == Path("/proc/self/ns/pid").stat().st_ino
    for gone in (ProcessRef(me.pid, me.start + 1), ProcessRef(2**22 + 1, 1)):
        with pytest.raises(WrongState, match="gone"):
            async with facts.pid_namespace(gone):
                pass
