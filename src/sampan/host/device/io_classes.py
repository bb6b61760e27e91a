"""Classes of block I/O, from the administrator's file, and of Resource Director Technology, from resctrl.

Both are looked at when a container asks for one: disks and classes come and go.
"""

import glob
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from sampan.host.threads import in_own_thread
from sampan.model.errors import Invalid, NotFound
from sampan.model.io_classes import DeviceLimits, Limits
from sampan.wire import blockio

RESCTRL = Path("/sys/fs/resctrl")  # Documentation/filesystems/resctrl.rst
_NO_CLASSES = frozenset({"info", "mon_data", "mon_groups"})  # other folders there


class HostIoClasses:
    """The `IoClasses` port on the real machine. `config` is the file of block I/O classes, "" without one."""

    def __init__(
        self, config: str, *, ignore_blockio: bool = False, ignore_rdt: bool = False, resctrl: Path = RESCTRL
    ) -> None:
        self._config = config
        self._ignore_blockio = ignore_blockio
        self._ignore_rdt = ignore_rdt
        self._resctrl = resctrl

    async def block_io(self, name: str) -> tuple[DeviceLimits, ...]:
        """The limits of this class, for the devices there are now. Raises NotFound, Invalid."""
        if not self._config:
            if self._ignore_blockio:
                return ()
            raise Invalid(
                f"block I/O class {name!r} is asked for, and this node has no classes: "
                "the key cgroup.blockio_config names no file"
            )
        return await in_own_thread(lambda: _block_io(self._config, name))

    async def rdt(self, name: str) -> str:
        """The class, if resctrl has it. Raises NotFound, Invalid."""
        if await self.has_rdt():
            await in_own_thread(lambda: _check_rdt(self._resctrl, name))
            return name
        if self._ignore_rdt:
            return ""
        raise Invalid(
            f"RDT class {name!r} is asked for, and this node has none: {self._resctrl} is not there "
            "(mount -t resctrl resctrl /sys/fs/resctrl, if the processor can)"
        )

    async def has_rdt(self) -> bool:
        """Whether resctrl is mounted."""
        return await in_own_thread(lambda: (self._resctrl / "schemata").exists())


def _check_rdt(resctrl: Path, name: str) -> None:
    if name in _NO_CLASSES or not (resctrl / name / "schemata").exists():
        there = [path.parent.name for path in resctrl.glob("*/schemata")]
        raise NotFound(
            f"RDT class {name!r} is not in {resctrl}; there is {', '.join(sorted(there)) or 'none'}"
        )


def _block_io(config: str, name: str) -> tuple[DeviceLimits, ...]:
    classes = _classes(config)
    if name not in classes:
        raise NotFound(
            f"block I/O class {name!r} is not in {config}; there is {', '.join(sorted(classes)) or 'none'}"
        )
    return tuple(DeviceLimits(limits, _numbers(limits)) for limits in classes[name])


def _classes(config: str) -> Mapping[str, tuple[Limits, ...]]:
    try:
        with Path(config).open("rb") as file:
            return blockio.parse(file.read(blockio.LIMIT + 1), config)
    except OSError as error:
        raise Invalid(f"the block I/O classes {config} cannot be read: {error.strerror}") from error


def _numbers(limits: Limits) -> tuple[tuple[int, int], ...]:
    """The block devices that the patterns match now; one that matches none is no mistake, disks come and go."""
    found = set()
    for pattern in limits.devices:
        for path in glob.iglob(pattern):  # noqa: PTH207 - an absolute pattern
            try:
                node = os.stat(path)  # noqa: PTH116 - beside major and minor
            except OSError:  # gone since, or a link to nothing
                continue
            if stat.S_ISBLK(node.st_mode):
                found.add((os.major(node.st_rdev), os.minor(node.st_rdev)))
    return tuple(sorted(found))
