"""Limits of containers in memory: what the fake OCI runtime puts into groups, and what the fake kernel shows of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sampan.config import Handler
from sampan.model.errors import ToolFailed
from sampan.wire.cgroupfs import Limits

DEFAULT_PERIOD = 100_000


@dataclass
class Groups:
    """The groups of containers on a v2 kernel, by container id."""

    limits: dict[str, dict[str, Any]] = field(default_factory=dict)  # OCI linux.resources in force
    scores: dict[str, int] = field(default_factory=dict)  # oom_score_adj of the first process
    used: int | None = None  # bytes of memory that every group uses
    texts: dict[str, str] = field(default_factory=dict)  # what files show, by name, whatever was written
    lost: set[str] = field(default_factory=set)  # sections of linux.resources that never take effect
    survivors: tuple[str, ...] = ()


class FakeUpdates:
    """The part of the fake `Oci` that changes limits. As the real one it may fail half way."""

    _world: Any  # the `World` of tests.fakes

    async def update(self, handler: Handler, id: str, resources: Mapping[str, Any]) -> None:
        if id not in self._world.processes:
            raise ToolFailed(["crun", "update", id], 1, "container does not exist")
        current = in_force(self._world, id)
        for name, part in resources.items():
            if name not in self._world.groups.lost:
                current[name] = {**current.get(name, {}), **part} if isinstance(part, Mapping) else part
        await self._world.did("oci.update")

    async def adjust_oom_score(self, handler: Handler, id: str, before: int, after: int) -> None:
        if self._world.groups.scores.get(id, before) == before:
            self._world.groups.scores[id] = after
        await self._world.did("oci.adjust_oom_score")

    async def survivors(self, handler: Handler, id: str) -> tuple[str, ...]:
        alive: tuple[str, ...] = self._world.groups.survivors
        return alive


class FakeReadBack:
    """The part of the fake `Cgroups` that reads limits back."""

    _world: Any  # the `World` of tests.fakes

    async def read_back(self, parent: str, id: str, files: Sequence[str] = ()) -> Limits:
        await self._world.did("cgroups.read_back")
        if id not in self._world.processes:
            return Limits()
        limits = shown(in_force(self._world, id), files)
        texts = {name: text for name, text in self._world.groups.texts.items() if name in files}
        return replace(limits, files={**limits.files, **texts})


def in_force(world: Any, id: str) -> dict[str, Any]:
    """The limits of a container: those it was created with, and what was changed since."""
    if id not in world.groups.limits:
        created = world.bundles.get(id, {}).get("linux", {}).get("resources", {})
        world.groups.limits[id] = {
            name: part for name, part in created.items() if name not in world.groups.lost
        }
    found: dict[str, Any] = world.groups.limits[id]
    return found


def shown(resources: Mapping[str, Any], files: Sequence[str]) -> Limits:
    """As v2 shows them: bytes in pages, weights for shares."""
    memory, cpu = resources.get("memory", {}), resources.get("cpu", {})
    known = dict(resources.get("unified", {}))
    for limit in resources.get("hugepageLimits", ()):
        known[f"hugetlb.{limit['pageSize']}.max"] = f"{limit['limit']}\n"
    shares, quota = cpu.get("shares", 1024), cpu.get("quota", -1)
    return Limits(
        memory=_pages(memory.get("limit", -1)),
        memory_swap=_pages(memory.get("swap", -1)),
        cpu_weight=1 + (shares - 2) * 9999 // 262142,
        cpu_quota=quota if quota > 0 else None,
        cpu_period=cpu.get("period", DEFAULT_PERIOD),
        cpuset_cpus=cpu.get("cpus", ""),
        cpuset_mems=cpu.get("mems", ""),
        files={name: known.get(name, "max\n") for name in files},
    )


def _pages(size: int) -> int | None:
    return size - size % 4096 if size >= 0 else None
