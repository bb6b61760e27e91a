"""At boot: what each record means against what is really there, and then doing it.

`decide_*` are pure and tested as tables of (record x reality). One record that cannot be taken back never stops the
rest, and never stops the daemon from serving: clean-up runs in the background, each failure is logged and tried again
by the next Stop or Remove.
"""

import asyncio
import logging
from collections.abc import Awaitable
from enum import Enum

from sampan.model import pod as transitions
from sampan.model.container import Container, ContainerState
from sampan.model.pod import Pod
from sampan.runtime.containers import Containers
from sampan.runtime.exits import Exits
from sampan.runtime.machine import Machine
from sampan.runtime.pod_init import PodInit
from sampan.runtime.pods import Pods
from sampan.runtime.state import State, now
from sampan.tasks import Tasks

log = logging.getLogger("sampan.recovery")


class Verdict(Enum):
    """What to do with a record."""

    KEEP = "keep"
    BREAK = "break"  # keep, not ready: what it stood on is gone
    TEAR_DOWN = "tear down"  # nobody was told of it, or its end was decided


def decide_pod(pod: Pod, *, pinned: bool) -> Verdict:
    """`pinned`: every namespace of its own is still there (false after a reboot)."""
    if not pod.ready_at or (pod.stopping_at and not pod.stopped_at):
        return Verdict.TEAR_DOWN
    if pod.stopped_at or pod.broken_at or pinned:
        return Verdict.KEEP
    return Verdict.BREAK


def decide_container(container: Container, *, pod_known: bool) -> Verdict:
    """A container without a pod has lost its record's other half; it cannot be reached by the kubelet's verbs."""
    if container.init is None and not container.finished_at:
        return Verdict.TEAR_DOWN
    return Verdict.KEEP if pod_known else Verdict.TEAR_DOWN


class Recovery:
    """Takes everything back."""

    def __init__(
        self,
        state: State,
        machine: Machine,
        pods: Pods,
        containers: Containers,
        watchers: tuple[Exits, PodInit],
        tasks: Tasks,
    ) -> None:
        self._state = state
        self._machine = machine
        self._pods = pods
        self._containers = containers
        self._exits, self._init = watchers
        self._tasks = tasks

    async def run(self) -> None:
        """When this returns every record says the truth, but for clean-ups that go on in the background."""
        containers = list(self._state.containers.values())
        pods = list(self._state.pods.values())
        await self._isolated("the volumes of", "lost containers", self._sweep())
        # containers first: the teardown of a pod waits for the ends of its containers, which must be watched by then
        await asyncio.gather(
            *(self._isolated("container", one.id, self._container(one)) for one in containers)
        )
        await asyncio.gather(*(self._isolated("pod", pod.id, self._pod(pod)) for pod in pods))
        if self._state.pods or containers:
            log.info("took back %d pods and %d containers", len(self._state.pods), len(containers))

    async def _isolated(self, kind: str, id: str, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception:
            log.exception("could not take back %s %s", kind, id)

    async def _sweep(self) -> None:
        """What no record leads to: it keeps images busy."""
        await self._machine.volumes.sweep(self._state.containers)

    async def _pod(self, pod: Pod) -> None:
        pinned = await self._machine.sandboxes.present(pod.id, pod.namespaces)
        match decide_pod(pod, pinned=pinned):
            case Verdict.TEAR_DOWN:
                if not pod.stopping_at:
                    await self._state.update_pod(pod.id, lambda now_: transitions.stopping(now_, now()))
                self._tasks.start(f"tear down pod {pod.id}", self._pods.teardown_leftover(pod.id))
            case Verdict.BREAK:
                why = "its namespaces are gone; the machine was restarted"
                await self._state.update_pod(pod.id, lambda now_: transitions.broken(now_, now(), why))
            case Verdict.KEEP:
                self._init.watch(pod)

    async def _container(self, container: Container) -> None:
        if decide_container(container, pod_known=container.pod_id in self._state.pods) is Verdict.TEAR_DOWN:
            await self._containers.teardown_leftover(container.id)
            return
        if container.init is None:
            return
        if container.state is ContainerState.EXITED:
            self._tasks.start(f"free container {container.id}", self._exits.free(container))
            return
        try:
            if container.state is ContainerState.CREATED:
                await self._containers.adopt_started(container)
        finally:
            self._exits.watch(container)
        # new commands are told from lost ones, so nobody has to wait for this
        self._tasks.start(f"end sessions in {container.id}", self._containers.end_sessions(container))
