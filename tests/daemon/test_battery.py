"""A daemon under attack by its sessions' clients: others do not notice, and it holds nothing afterwards.

Short here; `scripts/battery.sh` runs it in full size and prints the figures.
"""

import pytest

from tests import growth
from tests.attacks import CLIENTS
from tests.daemon.watched_daemon import Bystanders, Victim, at, outcome, size, tell
from tests.daemon.watched_daemon import victim as victim  # a fixture

pytestmark = [pytest.mark.root, pytest.mark.limit(size(120, 3600))]

MIB = 1 << 20
MEMORY = 32 * MIB
UNAFFECTED = 1000.0  # ms, p99: on a machine whose cores the attackers have as well
ATTACKS = {
    "fuzz": size(3000, 100_000),
    "flood": size(2000, 1_000_000),  # of each kind
    "guess": size(2000, 250_000),
    "half_open": 500,
    "connections": size(400, 10_000),
}
IDLE = {"fuzz": CLIENTS}  # connections to a conmon wait for its next client, as many as there were at a time
PROCESSES = {"guess": 4}  # that share the work


@pytest.mark.parametrize("kind", ATTACKS)
async def test_an_attack_is_felt_by_nobody_else_and_leaves_nothing(victim: Victim, kind: str) -> None:
    live = victim.live
    await Bystanders(victim).watch(lambda: True)
    if kind != "half_open":
        warm_up(victim, kind)
    calm = await Bystanders(victim).watch(lambda: True)
    before = growth.settled(live.own)
    growth.forget_highest(live.own.pid)
    attackers = [victim.attack(kind, ATTACKS[kind], seed) for seed in range(1, PROCESSES.get(kind, 1) + 1)]
    times = await Bystanders(victim).watch(lambda: all(each.poll() is not None for each in attackers))
    done = [outcome(each, 10) for each in attackers]
    after = growth.settled(live.own, before, IDLE.get(kind, 0))
    highest = growth.memory(live.own.pid, "VmHWM")
    tell(
        f"{kind}: {done}\n  before: {calm.words()}\n  during: {times.words()}\n"
        f"  memory {before.resident / MIB:.1f} -> at most {highest / MIB:.1f}, then {after.resident / MIB:.1f} MiB; "
        f"{before.count} -> {after.count}"
    )
    assert highest - before.resident <= MEMORY
    left = {name: (before.count[name], after.count[name]) for name in growth.COUNTS}
    assert after.count["descriptors"] <= before.count["descriptors"] + IDLE.get(kind, 0), (
        f"{left}\n{before.names}\n{after.names}"
    )
    assert all(now <= then for name, (then, now) in left.items() if name != "descriptors"), (
        f"{left}\n{before.names}\n{after.names}"
    )
    assert at(times.echo, 0.99) < UNAFFECTED and at(times.lists, 0.99) < UNAFFECTED
    check(kind, done)


def warm_up(victim: Victim, kind: str) -> None:
    """A small attack, after which what is made once has been made."""
    outcome(victim.attack(kind, {"fuzz": 1000, "flood": 10}.get(kind, 300), 99), 60)


def check(kind: str, done: list[dict[str, int]]) -> None:
    """That it was the attack that it should have been."""
    for each in done:
        if kind == "guess":
            assert each["HTTP/1.1 404"] == ATTACKS[kind]
        elif kind == "half_open":
            assert each["not ended"] == 0 and each["seconds"] >= 8
        else:
            assert each["connections" if kind == "connections" else "frames"] >= ATTACKS[kind]
        if kind == "fuzz":
            assert each["broken"] > each["sessions"] / 4
