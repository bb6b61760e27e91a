"""The file of block I/O classes, in the format that goresctrl gave it (its doc/blockio.md):

    Classes:
      LowPrioThrottled:
        - Weight: 80                        # of all devices not named below
        - Devices: [/dev/sd[a-z], /dev/disk/by-id/*SSD*]
          ThrottleReadBps: 50M              # Kubernetes quantities
          ThrottleWriteIOPS: 5k

Which devices the patterns match is not decided here.
"""

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal

import msgspec

from sampan.model.errors import Invalid
from sampan.model.io_classes import Limits
from sampan.wire import strict_json, strict_yaml

LIMIT = 1 << 20  # bytes
WEIGHTS = (10, 1000)
RATES = (0, (1 << 63) - 1)

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,2})|([numkMGTPE]|[KMGTPE]i)?)")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DIGITS = 40  # more than any limit has; exact arithmetic on more would only cost time


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    devices: tuple[str, ...] | None = None
    weight: str | int | float | None = None
    throttle_read_bps: str | int | float | None = None
    throttle_write_bps: str | int | float | None = None
    throttle_read_iops: str | int | float | None = msgspec.field(default=None, name="ThrottleReadIOPS")
    throttle_write_iops: str | int | float | None = msgspec.field(default=None, name="ThrottleWriteIOPS")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    classes: dict[str, tuple[_Entry, ...]] = {}


def parse(data: bytes, path: str) -> Mapping[str, tuple[Limits, ...]]:
    """The classes by name. Raises Invalid naming `path` and what is wrong."""
    value = strict_yaml.loads(data, path, LIMIT)
    file = strict_json.convert(value or {}, _File, path)
    classes = {}
    for name, entries in file.classes.items():
        try:
            classes[name] = tuple(_limits(entry) for entry in entries)
        except ValueError as error:
            raise Invalid(f"{path}: class {name[:80]!r}: {error}") from None
    return classes


def _limits(entry: _Entry) -> Limits:
    limits = Limits(
        devices=tuple(entry.devices or ()),
        weight=_number("Weight", entry.weight, WEIGHTS),
        read_bps=_number("ThrottleReadBps", entry.throttle_read_bps, RATES),
        write_bps=_number("ThrottleWriteBps", entry.throttle_write_bps, RATES),
        read_iops=_number("ThrottleReadIOPS", entry.throttle_read_iops, RATES),
        write_iops=_number("ThrottleWriteIOPS", entry.throttle_write_iops, RATES),
    )
    for pattern in limits.devices:
        if not pattern.startswith("/dev/") or ".." in pattern.split("/") or "\0" in pattern:
            raise ValueError(f"Devices: {pattern[:80]!r} is no pattern of paths in /dev")
    rates = (limits.read_bps, limits.write_bps, limits.read_iops, limits.write_iops)
    if not limits.devices and any(rate is not None for rate in rates):
        raise ValueError("a Throttle without Devices: only a Weight can hold for all devices")
    return limits


def _number(field: str, given: str | int | float | None, bounds: tuple[int, int]) -> int | None:
    """A Kubernetes quantity as a whole number, rounded up; None where none is given."""
    if given is None or given == "":
        return None
    written = str(given)
    parts = _QUANTITY.fullmatch(written)
    if parts is None or len(written) > _DIGITS:
        raise ValueError(f"{field}: {written[:40]!r} is not a number such as 100, 50M or 64Ki")
    number, exponent, suffix = Decimal(parts[1]), parts[2], parts[3] or ""
    if suffix in _BINARY:
        number *= 1 << _BINARY[suffix]
    else:
        number = number.scaleb(int(exponent) if exponent else _DECIMAL[suffix])
    value = int(number.to_integral_value(ROUND_CEILING))
    if not bounds[0] <= value <= bounds[1]:
        raise ValueError(f"{field}: {written} is not from {bounds[0]} to {bounds[1]}")
    return value
