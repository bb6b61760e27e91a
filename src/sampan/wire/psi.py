"""The text of a pressure file (cpu.pressure, memory.pressure, io.pressure) → figures. Pure.

Source: kernel Documentation/accounting/psi.rst.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stall:
    """How much time was lost: `total_ns` since the group was made, and percent of the last 10, 60 and 300 s."""

    total_ns: int = 0
    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0


@dataclass(frozen=True, slots=True)
class Pressure:
    """`some`: at least one task waited; `full`: all of them did at once. Kernels before 5.13 do not say `full` for
    the CPU; later ones that cannot tell say zero, and so does this."""

    some: Stall
    full: Stall = Stall()


def parse(text: bytes | None) -> Pressure | None:
    """None for an absent file, and for a text that is none: a kernel without PSI has neither."""
    found: dict[bytes, Stall] = {}
    for line in (text or b"").split(b"\n"):
        kind, _, rest = line.partition(b" ")
        if kind in (b"some", b"full"):
            stall = _stall(rest)
            if stall is not None:
                found[kind] = stall
    some = found.get(b"some")
    return None if some is None else Pressure(some, found.get(b"full", Stall()))


def _stall(fields: bytes) -> Stall | None:
    """`avg10=0.00 avg60=1.71 avg300=4.88 total=1575094704`, the total in µs."""
    values = dict(field.partition(b"=")[::2] for field in fields.split())
    total = values.get(b"total", b"")
    if not total.isdigit():
        return None
    try:
        averages = [float(values[name]) for name in (b"avg10", b"avg60", b"avg300")]
    except (KeyError, ValueError):
        return None
    return Stall(int(total) * 1000, *averages)
