"""The text of /proc/net/dev → counters of each interface. Pure.

Sources: proc_pid_net(5), kernel net/core/net-procfs.c.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LOOPBACK = "lo"
PREFERRED = "eth0"  # what CNI plugins are asked to make in a pod
_COLUMNS = 16


@dataclass(frozen=True, slots=True)
class Interface:
    """Counters since the interface was made, as seen from inside: `rx` came in, `tx` went out."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


def parse(text: bytes) -> tuple[Interface, ...]:
    """Every interface but the loopback, in the order of the kernel (which is that of their making)."""
    found = []
    for line in text.split(b"\n"):
        name, colon, rest = line.rpartition(b":")  # an alias may have a colon in its name, the counters never
        columns = rest.split()
        if not colon or len(columns) != _COLUMNS or not all(column.isdigit() for column in columns):
            continue
        values = [int(column) for column in columns]
        interface = Interface(name.strip().decode("utf-8", "replace"), *values[:4], *values[8:12])
        if interface.name != LOOPBACK:
            found.append(interface)
    return tuple(found)


def default(interfaces: Sequence[Interface]) -> Interface | None:
    """The one that stands for the pod: eth0, else the first."""
    named = (one for one in interfaces if one.name == PREFERRED)
    return next(named, interfaces[0] if interfaces else None)
