"""Classes of block I/O: named limits that an administrator wrote down, and a pod may ask for by name.

The file they come from is `wire.blockio`, the devices they hold for `host.device.io_classes`, the OCI form
`spec.io_classes`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for the devices that `devices` (patterns of paths, as a shell's) match; None is no limit.

    Without patterns it is the weight of every device that no entry names.
    """

    devices: tuple[str, ...] = ()
    weight: int | None = None  # 10 to 1000
    read_bps: int | None = None  # bytes a second
    write_bps: int | None = None
    read_iops: int | None = None  # operations a second
    write_iops: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """Limits, and the (major, minor) numbers of the devices there are for them now."""

    limits: Limits
    numbers: tuple[tuple[int, int], ...] = ()
