"""The limits of containers: that they hold once a container was created, and how they change while it lives.

Which limits there are is `spec.resources`, what the kernel makes of them `wire.readback`. Those of the pod's own group
are the kubelet's to set; UpdatePodSandboxResources only tells us of it.
"""

import logging
from collections.abc import Mapping
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.config import Config
from sampan.model import container as transitions
from sampan.model import ids
from sampan.model import pod as pod_transitions
from sampan.model.container import Container, ContainerState
from sampan.model.errors import SampanError, Unavailable, WrongState
from sampan.model.oom import size
from sampan.runtime.machine import Machine
from sampan.runtime.state import State
from sampan.spec import process, resources
from sampan.tasks import KeyedLock, finish, step
from sampan.wire import readback
from sampan.wire.cgroupfs import Limits
from sampan.wire.readback import Difference

log = logging.getLogger("sampan.limits")
LIVE = (ContainerState.CREATED, ContainerState.RUNNING)


class LimitChecks:
    """Compares what was asked for with what the kernel has."""

    def __init__(self, state: State, machine: Machine) -> None:
        self._state = state
        self._machine = machine
        self._v2 = machine.host.cgroup_v2

    async def created(self, container: Container, parent: str) -> Container:
        """The container with its limits as the kernel has them. Raises Unavailable if one that protects the node or the
        other pods is absent or wider: such a container must not start."""
        asked = resources.build(container.limits, self._machine.host)
        got = await self.read(container.id, parent, asked) if asked else Limits()
        found = readback.differences(asked, got, v2=self._v2)
        if lost := [str(one) for one in found if one.lost]:
            raise Unavailable(
                f"container {container.id} was created without limits that were asked for: {'; '.join(lost)}; "
                f"is the cgroup parent {parent!r} what the kubelet and this node's cgroup driver agree on?"
            )
        self.report(container.id, found)
        score = process.oom_score_adj(container.limits, self._machine.host)
        shown = self.shown(container.limits, got, score)
        return container if shown == container.limits else transitions.limited(container, shown)

    async def differences(self, container: Container) -> tuple[str, ...]:
        """What is not in force now of the limits of a live container, also what others have changed since. Raises
        nothing: it is an extra of a status."""
        pod = self._state.pods.get(container.pod_id)
        if pod is None or container.state not in LIVE:
            return ()
        try:
            asked = resources.build(container.limits, self._machine.host)
            got = await self.read(container.id, pod.cgroup_parent, asked) if asked else Limits()
        except (SampanError, OSError) as error:
            return (f"whether its limits are in force cannot be told: {error}",)
        return tuple(str(one) for one in readback.differences(asked, got, v2=self._v2))

    async def read(self, id: str, parent: str, asked: Mapping[str, Any]) -> Limits:
        """What the kernel has."""
        return await self._machine.cgroups.read_back(parent, id, readback.files(asked, v2=self._v2))

    def shown(
        self, asked: cri.LinuxContainerResources, got: Limits, score: int
    ) -> cri.LinuxContainerResources:
        """For the status: what was asked for, with the values that hold."""
        shown = readback.shown(asked, got, v2=self._v2)
        if asked.oom_score_adj:
            shown.oom_score_adj = score
        return shown

    def report(self, id: str, found: tuple[Difference, ...]) -> None:
        """To the log."""
        for difference in found:
            log.warning("container %s: %s", id, difference)


class Resources:
    """UpdateContainerResources and UpdatePodSandboxResources."""

    def __init__(self, config: Config, state: State, machine: Machine, locks: KeyedLock) -> None:
        """`locks`: those of the verbs that change a container, by its id."""
        self._config = config
        self._state = state
        self._machine = machine
        self._locks = locks
        self._checks = LimitChecks(state, machine)

    async def differences(self, container: Container) -> tuple[str, ...]:
        """See `LimitChecks.differences`."""
        return await self._checks.differences(container)

    # --- pods -------------------------------------------------------------------------------------------------

    async def update_pod(
        self,
        id: str,
        overhead: cri.LinuxContainerResources | None,
        limits: cri.LinuxContainerResources | None,
    ) -> None:
        """Take note of what the kubelet has given to the pod's group: it is shown in the status, and applied by nobody
        but the kubelet, whose group that is. None leaves what there is. Raises NotFound, Invalid."""
        pod = ids.resolve("pod", self._state.pods, id)
        for told in filter(None, (overhead, limits)):
            resources.build(told, self._machine.host)
        await step("pod.resources", pod.id)
        await finish(
            self._state.update_pod(pod.id, lambda now_: pod_transitions.resized(now_, overhead, limits))
        )

    # --- containers -------------------------------------------------------------------------------------------

    async def update(self, id: str, change: cri.LinuxContainerResources) -> None:
        """Give a created or running container other limits; what `change` leaves empty stays. All of it or, as far as
        the kernel lets us go back, nothing. Raises NotFound, Invalid, ToolFailed (the OCI runtime's words), Unavailable
        (a limit did not take effect), and WrongState: it has ended, or uses more memory than it is to have.

        An ended one is refused because no group is left to be limited, and a success would say that there is.
        """
        container = ids.resolve("container", self._state.containers, id)
        await finish(self._update(container.id, change))

    async def _update(self, id: str, change: cri.LinuxContainerResources) -> None:
        async with self._locks(id):
            container = ids.resolve("container", self._state.containers, id)
            if container.init is None:
                raise WrongState(f"container {id} is still being created; its limits cannot be updated yet")
            transitions.require(container, "update the limits of", *LIVE)
            wanted = resources.merged(container.limits, change)
            process.oom_score_adj(wanted, self._machine.host)  # Invalid before anything happens
            asked = resources.update(wanted, self._machine.host)
            await self._room(container, wanted)
            before = await self._checks.read(id, self._parent(container), asked)
            bundle = await self._machine.bundles.read(id)
            try:
                await self._change(container, wanted, asked, bundle)
            except Exception:  # of any kind: a full disk keeps the record from saying what the kernel has
                await self._restore(container, asked, before, bundle)
                self._still_there(id)
                raise

    async def _change(
        self,
        container: Container,
        wanted: cri.LinuxContainerResources,
        asked: Mapping[str, Any],
        bundle: Mapping[str, Any] | None,
    ) -> None:
        """Into the kernel, the bundle, which execs and a verbose status are made from, and the record."""
        got = await self._apply(container, asked) if asked else Limits()
        before = process.oom_score_adj(container.limits_in_force, self._machine.host)
        wanted_score = process.oom_score_adj(wanted, self._machine.host)
        score = await self._adjust_score(container, before, wanted_score)
        shown = self._checks.shown(wanted, got, score)
        try:
            if bundle is not None:
                await self._machine.bundles.rewrite(container.id, _with_limits(bundle, asked, score))
            await step("container.updated", container.id)
            await self._state.update_container(
                container.id, lambda now_: transitions.limited(now_, shown, asked=wanted)
            )
        except Exception:
            await self._adjust_score(container, score, before)
            raise

    async def _room(self, container: Container, wanted: cri.LinuxContainerResources) -> None:
        """Refuse a memory limit below what is in use: on v2 the kernel would take it, and kill. (What is allocated
        between this look and the write is the kernel's to deal with.)"""
        limit = wanted.memory_limit_in_bytes
        if limit <= 0 or limit == container.limits.memory_limit_in_bytes:
            return
        [usage] = await self._machine.cgroups.usage_many([(self._parent(container), container.id)])
        used = usage.memory_working_set if usage else None
        if used is not None and used > limit:
            raise WrongState(
                f"container {container.id} uses {size(used)} ({used} bytes) of memory, more than the limit of "
                f"{size(limit)} ({limit} bytes) it was to get; let it free some, or restart it with that limit"
            )

    async def _apply(self, container: Container, asked: Mapping[str, Any]) -> Limits:
        """The new limits into the kernel, and what it made of them."""
        await step("container.update", container.id)
        await self._machine.oci.update(self._config.handlers[container.handler], container.id, asked)
        got = await self._checks.read(container.id, self._parent(container), asked)
        found = readback.differences(asked, got, v2=self._machine.host.cgroup_v2)
        if lost := [str(one) for one in found if one.lost]:
            raise Unavailable(f"container {container.id}: the update did not take effect: {'; '.join(lost)}")
        self._checks.report(container.id, found)
        return got

    async def _restore(
        self,
        container: Container,
        asked: Mapping[str, Any],
        before: Limits,
        bundle: Mapping[str, Any] | None,
    ) -> None:
        """As it was, as far as it goes: the caller has an error of its own to tell."""
        unified = container.limits.unified
        old = readback.restoring(asked, before, unified, v2=self._machine.host.cgroup_v2)
        try:
            if old:
                await self._machine.oci.update(self._config.handlers[container.handler], container.id, old)
            if bundle is not None:
                await self._machine.bundles.rewrite(container.id, bundle)
        except (SampanError, OSError) as error:
            log.warning("container %s: its former limits could not be restored: %s", container.id, error)

    def _still_there(self, id: str) -> None:
        """A container that ended meanwhile explains every failure."""
        transitions.require(
            ids.resolve("container", self._state.containers, id), "update the limits of", *LIVE
        )

    async def _adjust_score(self, container: Container, before: int, score: int) -> int:
        """The oom_score_adj that holds then. Best effort: it orders victims and limits nothing, so it does not undo an
        update of what limits."""
        if score == before:
            return score
        handler = self._config.handlers[container.handler]
        try:
            await self._machine.oci.adjust_oom_score(handler, container.id, before, score)
        except (SampanError, OSError) as error:
            log.warning(
                "container %s: not all of its processes have the oom_score_adj %d: %s",
                container.id,
                score,
                error,
            )
            return before
        return score

    def _parent(self, container: Container) -> str:
        return self._state.pods[container.pod_id].cgroup_parent


def _with_limits(bundle: Mapping[str, Any], asked: Mapping[str, Any], score: int) -> dict[str, Any]:
    """The config.json with these limits; what else is limited there (devices, block I/O) stays."""
    limits = {**bundle["linux"].get("resources", {}), **asked}
    return {
        **bundle,
        "linux": {**bundle["linux"], "resources": limits},
        "process": {**bundle["process"], "oomScoreAdj": score},
    }
