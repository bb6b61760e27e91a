"""Usage of containers, gathered in the background; requests are answered from the last sample.

A container that has no sample yet (it has just started) is read at once: one thread hop for all of them.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sampan.model.container import Container, ContainerState
from sampan.runtime.image_ports import Usage
from sampan.runtime.machine import Machine
from sampan.runtime.ports import CgroupUsage
from sampan.runtime.state import Gone, Record, State, now

log = logging.getLogger("sampan.stats")
PERIOD = 10.0  # seconds between sweeps that nobody asks for, the kubelet's own housekeeping interval
FRESH = 0.9  # seconds for which a sample is as good as new; `crictl stats` asks twice within one
LAYER_PERIOD = 60.0  # seconds between walks over writable layers


@dataclass(frozen=True, slots=True)
class Sample:
    """The last reading of a container, and how much CPU it used between the last two (nano-cores)."""

    usage: CgroupUsage
    nano_cores: int | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """What a container had written when its writable layer was last walked, `at` ns since the epoch."""

    usage: Usage
    at: int


class Stats:
    """The collector and its answers."""

    def __init__(self, state: State, machine: Machine) -> None:
        self._state = state
        self._machine = machine
        self._samples: dict[str, Sample] = {}
        self._layers: dict[str, Layer] = {}
        self._wanted = asyncio.Event()  # a container has started, or somebody was given an old sample
        self._swept = 0.0
        state.watch(self._noticed)

    async def collect(self) -> None:
        """Sweep for ever: from time to time, and soon when it is wanted, but never more than once in FRESH seconds."""
        walked = -LAYER_PERIOD
        clock = asyncio.get_running_loop().time
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await self._wanted.wait()
            await asyncio.sleep(max(0.0, self._swept + FRESH - clock()))
            self._wanted.clear()
            self._swept = clock()
            try:
                await self._sweep(self._running())
                whole = clock() - walked >= LAYER_PERIOD
                await self._walk(whole)
                walked = clock() if whole else walked
            except Exception:
                log.exception("the stats sweep failed; trying again in %d s", PERIOD)

    async def of(self, containers: Sequence[Container]) -> dict[str, Sample]:
        """The samples of those of the containers that run; one without is read now, in one hop for all of them. Each
        request causes new samples, for who asks a second later."""
        running = [container for container in containers if container.state is ContainerState.RUNNING]
        missing = [container for container in running if container.id not in self._samples]
        if missing:
            await self._sweep(missing)
        self._wanted.set()
        return {one.id: self._samples[one.id] for one in running if one.id in self._samples}

    def layer(self, container: Container) -> Layer | None:
        """What the container has written to its own layer, as of the last walk; None before the first."""
        return self._layers.get(container.id)

    def written(self) -> Usage:
        """What all containers have written, as of the last walk."""
        layers = self._layers.values()
        return Usage(sum(one.usage.bytes for one in layers), sum(one.usage.inodes for one in layers))

    def _running(self) -> list[Container]:
        return [one for one in self._state.containers.values() if one.state is ContainerState.RUNNING]

    async def _sweep(self, containers: Sequence[Container]) -> None:
        parents = [(self._state.pods[one.pod_id].cgroup_parent, one.id) for one in containers]
        for container, usage in zip(containers, await self._machine.cgroups.usage_many(parents), strict=True):
            if usage is not None and container.id in self._state.containers:
                self._samples[container.id] = Sample(
                    usage, _nano_cores(self._samples.get(container.id), usage)
                )

    async def _walk(self, whole: bool) -> None:
        for container in self._running():
            if whole or container.id not in self._layers:
                usage = await self._machine.rootfs.usage(container.id)
                if container.id in self._state.containers:
                    self._layers[container.id] = Layer(usage, now())

    def _noticed(self, change: Record | Gone) -> None:
        if isinstance(change, Gone) and change.kind == "container":
            self._samples.pop(change.id, None)
            self._layers.pop(change.id, None)
        elif isinstance(change, Container) and change.state is ContainerState.RUNNING:
            self._wanted.set()


def _nano_cores(before: Sample | None, usage: CgroupUsage) -> int | None:
    """CPU time per second between two readings, in units of 10^-9 of a core."""
    if before is None or before.usage.cpu_ns is None or usage.cpu_ns is None or usage.at <= before.usage.at:
        return None
    return max(0, (usage.cpu_ns - before.usage.cpu_ns) * 1_000_000_000 // (usage.at - before.usage.at))
