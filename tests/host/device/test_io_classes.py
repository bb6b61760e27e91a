"""Classes of block I/O and RDT on the real machine."""

import os
import stat
from pathlib import Path

import pytest

from sampan.host.device import io_classes
from sampan.host.device.io_classes import HostIoClasses
from sampan.model.errors import Invalid, NotFound
from sampan.model.io_classes import DeviceLimits, Limits


def write(directory: Path, pattern: str) -> str:
    file = directory / "blockio.yaml"
    file.write_text(f"Classes:\n  slow:\n    - Devices: ['{pattern}']\n      ThrottleReadBps: 1M\n")
    return str(file)


@pytest.mark.root
async def test_patterns_match_the_block_devices_of_now(tmp_path: Path) -> None:
    prefix = Path(f"/dev/sampan-test-{os.getpid()}-")
    config = write(tmp_path, f"{prefix}*")
    classes = HostIoClasses(config)
    limits = Limits((f"{prefix}*",), read_bps=1_000_000)
    assert await classes.block_io("slow") == (DeviceLimits(limits),)
    made = [Path(f"{prefix}{name}") for name in ("a", "b", "char", "link", "nowhere")]
    try:
        os.mknod(made[0], stat.S_IFBLK | 0o600, os.makedev(7, 250))
        os.mknod(made[1], stat.S_IFBLK | 0o600, os.makedev(7, 249))
        os.mknod(made[2], stat.S_IFCHR | 0o600, os.makedev(1, 3))
        made[3].symlink_to(made[0])
        made[4].symlink_to("/dev/absent")
        assert await classes.block_io("slow") == (DeviceLimits(limits, ((7, 249), (7, 250))),)
    finally:
        for path in made:
            path.unlink(missing_ok=True)


async def test_a_class_needs_a_file_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"'fast' is not in .*blockio\.yaml; there is slow"):
        await HostIoClasses(write(tmp_path, "/dev/x")).block_io("fast")
    with pytest.raises(Invalid, match=r"cannot be read: No such file"):
        await HostIoClasses(str(tmp_path / "absent")).block_io("fast")
    with pytest.raises(Invalid, match=r"cgroup\.blockio_config"):
        await HostIoClasses("").block_io("fast")
    assert await HostIoClasses("", ignore_blockio=True).block_io("fast") == ()
    with pytest.raises(NotFound):  # only the absence of any class is passed over
        await HostIoClasses(write(tmp_path, "/dev/x"), ignore_blockio=True).block_io("fast")


@pytest.fixture
def resctrl(tmp_path: Path) -> Path:
    """The tree of a mounted resctrl: no machine of ours can mount one."""
    for folder in ("", "gold", "info", "mon_groups", "mon_data"):
        (tmp_path / folder).mkdir(exist_ok=True)
    for folder in ("", "gold", "info"):
        (tmp_path / folder / "schemata").write_text("L3:0=f\n")
    return tmp_path


async def test_a_class_of_resctrl(resctrl: Path) -> None:
    classes = HostIoClasses("", resctrl=resctrl)
    assert await classes.has_rdt()
    assert await classes.rdt("gold") == "gold"
    for name in ("tin", "info", "mon_groups"):
        with pytest.raises(NotFound, match=f"RDT class '{name}' is not in"):
            await classes.rdt(name)


async def test_where_resctrl_is_not_mounted(tmp_path: Path) -> None:
    classes = HostIoClasses("", resctrl=tmp_path)
    assert not await classes.has_rdt()
    with pytest.raises(Invalid, match="mount -t resctrl"):
        await classes.rdt("gold")
    assert await HostIoClasses("", ignore_rdt=True, resctrl=tmp_path).rdt("gold") == ""


def test_the_kernels_place() -> None:
    assert Path("/sys/fs/resctrl") == io_classes.RESCTRL
