"""Usage of containers and pods, gathered in the background; requests are answered from the last sample.

One that has no sample yet (it has just started) is read at once: one thread hop for all of them. What only metrics
need (`CgroupDetails`) is gathered only while somebody asks for metrics.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from sampan.model.container import Container, ContainerState
from sampan.model.pod import Pod, PodState
from sampan.runtime.image_ports import Filesystem, Usage
from sampan.runtime.machine import Machine
from sampan.runtime.pod_usage import Ended, PodSample, Sample, following, has_group
from sampan.runtime.ports import CgroupDetails, CgroupUsage
from sampan.runtime.state import Gone, Record, State, now
from sampan.wire.cgroup_stats import with_peaks

log = logging.getLogger("sampan.stats")
PERIOD = 10.0  # seconds between sweeps that nobody asks for, the kubelet's own housekeeping interval
FRESH = 0.9  # seconds for which a sample is as good as new; `crictl stats` asks twice within one
LAYER_PERIODS = 10.0, 300.0  # seconds between walks over all writable layers, at least and at most:
LAYER_SHARE = 0.005  # in between, so many that walking takes this share of the time
FIRST_WALK_WAIT = 0.5  # seconds that a request for metrics waits for the first walk over a layer
METRICS_PERIOD = 10.0  # seconds between looks at details
METRICS_WANTED = 300.0  # seconds after a request for metrics for which details go on being gathered


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
        self._samples: dict[str, Sample] = {}  # of containers
        self._pods: dict[str, PodSample] = {}
        self._details: dict[str, CgroupDetails] = {}  # of containers, and of pods with a group of their own
        self._layers: dict[str, Layer] = {}
        self._ended: dict[str, Ended] = {}  # by pod
        self._filesystem: Filesystem | None = None
        self._wanted = asyncio.Event()  # a container has started, or somebody was given a sample
        self._started = asyncio.Event()  # a container, whose layer was not walked yet
        self._hurry = asyncio.Event()  # somebody waits for such a walk
        self._walked = asyncio.Event()  # one has ended since somebody began to wait
        self._metrics_wanted = asyncio.Event()  # somebody was given details
        self._metrics_asked = 0.0
        self._idle = True  # nobody was: what details there are are old
        self._swept = -FRESH
        state.watch(self._noticed)

    # --- in the background ----------------------------------------------------------------------------------

    async def collect(self) -> None:
        """Sweep, look at details and walk for ever, each at its own pace: a walk over large layers or a container with
        very much open must not make samples old."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_sweeping(), name="stats sweeps")
            group.create_task(self._keep_detailing(), name="stats details")
            group.create_task(self._keep_walking(), name="stats walks")

    async def _keep_sweeping(self) -> None:
        """From time to time, and soon when it is wanted, but never more than once in FRESH seconds."""
        clock = asyncio.get_running_loop().time
        while True:
            await _set_within(self._wanted, PERIOD)
            await asyncio.sleep(max(0.0, self._swept + FRESH - clock()))
            self._wanted.clear()
            self._swept = clock()
            try:
                await self._sweep(self._running(), self._ready())
            except Exception:
                log.exception("the stats sweep failed; trying again in %d s", PERIOD)

    async def _keep_detailing(self) -> None:
        """Again and again while somebody asks for metrics; who asks first was given new ones."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._metrics_wanted.wait()
            await asyncio.sleep(METRICS_PERIOD)
            if clock() - self._metrics_asked >= METRICS_WANTED:
                self._metrics_wanted.clear()
                self._idle = True
                continue
            try:
                await self._detail(self._running(), self._ready())
            except Exception:
                log.exception("reading details for metrics failed; trying again in %d s", METRICS_PERIOD)

    async def _keep_walking(self) -> None:
        """Over all layers as often as LAYER_SHARE allows; meanwhile over those of containers that have just started."""
        clock = asyncio.get_running_loop().time
        again = 0.0
        while True:
            begin = clock()
            try:
                await self._walk(
                    one for one in self._running() if begin >= again or one.id not in self._layers
                )
            except Exception:
                log.exception("measuring writable layers failed; trying again in %d s", LAYER_PERIODS[0])
            if begin >= again:
                again = clock() + _pause(clock() - begin)
            await _set_within(self._started, again - clock())
            await _set_within(self._hurry, FRESH)  # not while it has the most to do, unless somebody waits
            self._started.clear()
            self._hurry.clear()

    async def _sweep(self, containers: Collection[Container], pods: Collection[Pod]) -> None:
        """Read these anew: all groups in one thread hop, all networks in another."""
        containers = self._placed(containers)
        grouped = [pod for pod in pods if has_group(pod)]
        groups = [(self._state.pods[one.pod_id].cgroup_parent, one.id) for one in containers]
        groups += [(pod.cgroup_parent, "") for pod in grouped]
        usages = await self._machine.cgroups.usage_many(groups)
        for container, usage in zip(containers, usages[: len(containers)], strict=True):
            if usage is not None and self._runs(container.id):
                self._samples[container.id] = following(self._samples.get(container.id), usage)
        await self._sweep_pods(
            pods, dict(zip((pod.id for pod in grouped), usages[len(containers) :], strict=True))
        )

    async def _sweep_pods(self, pods: Collection[Pod], groups: dict[str, CgroupUsage | None]) -> None:
        networked = [pod.id for pod in pods if "net" in pod.namespaces]
        interfaces = await self._machine.sandboxes.interfaces(networked)
        networks = dict(zip(networked, interfaces, strict=True))
        at = now()
        for pod in pods:
            if not self._is_ready(pod.id):
                continue
            usage, before = groups.get(pod.id), self._pods.get(pod.id)
            group = before.group if before else None
            if usage is not None:
                group = following(group, usage)
            self._pods[pod.id] = PodSample(at, group, networks.get(pod.id) or ())

    async def _detail(self, containers: Collection[Container], pods: Collection[Pod]) -> None:
        """Read the details of these anew, and how large the file system is."""
        self._filesystem = await self._machine.rootfs.filesystem()
        containers = self._placed(containers)
        grouped = [pod for pod in pods if has_group(pod)]
        groups = [
            (self._state.pods[one.pod_id].cgroup_parent, one.id, one.init.pid if one.init else 0)
            for one in containers
        ]
        groups += [(pod.cgroup_parent, "", 0) for pod in grouped]
        read = await self._machine.cgroups.details_many(groups)
        ids = [*(one.id for one in containers), *(pod.id for pod in grouped)]
        for id, details in zip(ids, read, strict=True):
            if details is not None and (self._runs(id) or self._is_ready(id)):
                before = self._details.get(id)
                stats = with_peaks(details.stats, before.stats if before else None)
                self._details[id] = replace(details, stats=stats)

    async def _walk(self, containers: Iterable[Container]) -> None:
        for container in containers:
            usage = await self._machine.rootfs.usage(container.id)
            if container.id in self._state.containers:
                self._layers[container.id] = Layer(usage, now())
            self._walked.set()

    # --- answers --------------------------------------------------------------------------------------------

    async def of(self, containers: Sequence[Container]) -> dict[str, Sample]:
        """The samples of those of the containers that run; one without is read now, in one hop for all of them. Each
        request causes new samples, for who asks a second later."""
        running = [container for container in containers if container.state is ContainerState.RUNNING]
        missing = [container for container in running if container.id not in self._samples]
        if missing:
            await self._sweep(missing, ())
        self._wanted.set()
        return {one.id: self._samples[one.id] for one in running if one.id in self._samples}

    async def of_pods(self, pods: Sequence[Pod]) -> dict[str, PodSample]:
        """The same for those of the pods that are ready."""
        ready = [pod for pod in pods if pod.state is PodState.READY]
        missing = [pod for pod in ready if pod.id not in self._pods]
        if missing:
            await self._sweep((), missing)
        self._wanted.set()
        return {pod.id: self._pods[pod.id] for pod in ready if pod.id in self._pods}

    async def details_of(
        self, pods: Sequence[Pod], containers: Sequence[Container]
    ) -> dict[str, CgroupDetails]:
        """What metrics tell beyond the samples, by id of the container, or of the pod with a group of its own. It is
        gathered from now on, every METRICS_PERIOD seconds, as long as somebody asks."""
        self._metrics_asked = asyncio.get_running_loop().time()
        known, idle = self._details, self._idle
        running = [one for one in containers if one.state is ContainerState.RUNNING]
        new_pods = [pod for pod in pods if has_group(pod) and (idle or pod.id not in known)]
        new = [one for one in running if idle or one.id not in known]
        if new or new_pods or self._filesystem is None:
            await self._detail(new, new_pods)
        if new:
            await self._first_walks(new)
        self._idle = False
        self._metrics_wanted.set()
        self._wanted.set()
        ids = {*(pod.id for pod in pods), *(one.id for one in running)}
        return {id: details for id, details in known.items() if id in ids}

    async def _first_walks(self, new: Sequence[Container]) -> None:
        """Containers that have just started are walked a moment later, in the background. Who asks for metrics of them
        waits for that moment, and no longer: a walk can take for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_WALK_WAIT):
                while any(one.id not in self._layers and self._runs(one.id) for one in new):
                    self._walked.clear()
                    self._hurry.set()
                    await self._walked.wait()

    def ended(self, pod: Pod) -> Ended:
        """What the containers that ended had counted, in a pod that is ready, since we started."""
        return self._ended.get(pod.id, Ended())

    def layer(self, container: Container) -> Layer | None:
        """What the container has written to its own layer, as of the last walk; None before the first."""
        return self._layers.get(container.id)

    def filesystem(self) -> Filesystem | None:
        """Where containers write, as of the last look for metrics."""
        return self._filesystem

    def written(self) -> Usage:
        """What all containers have written, as of the last walk."""
        layers = self._layers.values()
        return Usage(sum(one.usage.bytes for one in layers), sum(one.usage.inodes for one in layers))

    # --- what there is --------------------------------------------------------------------------------------

    def _running(self) -> list[Container]:
        return [one for one in self._state.containers.values() if one.state is ContainerState.RUNNING]

    def _ready(self) -> list[Pod]:
        return [pod for pod in self._state.pods.values() if pod.state is PodState.READY]

    def _placed(self, containers: Iterable[Container]) -> list[Container]:
        """Those whose pod was not removed while somebody waited."""
        return [one for one in containers if one.pod_id in self._state.pods]

    def _runs(self, id: str) -> bool:
        container = self._state.containers.get(id)
        return container is not None and container.state is ContainerState.RUNNING

    def _is_ready(self, id: str) -> bool:
        pod = self._state.pods.get(id)
        return pod is not None and pod.state is PodState.READY

    def _noticed(self, change: Record | Gone) -> None:
        if isinstance(change, Gone):
            self._forget(change.id)
            self._layers.pop(change.id, None)
        elif isinstance(change, Container):
            if change.state is ContainerState.RUNNING:
                self._wanted.set()
                self._started.set()
            else:
                self._remember_end(change)
                self._forget(change.id)  # what it wrote is still there
        elif isinstance(change, Pod) and change.state is not PodState.READY:
            self._forget(change.id)

    def _remember_end(self, container: Container) -> None:
        sample = self._samples.get(container.id)
        if sample is not None:
            self._ended[container.pod_id] = self._ended.get(container.pod_id, Ended()).plus(sample.usage)

    def _forget(self, id: str) -> None:
        self._samples.pop(id, None)
        self._details.pop(id, None)
        self._pods.pop(id, None)
        self._ended.pop(id, None)


def _pause(took: float) -> float:
    """Seconds from one walk over all layers to the next."""
    return min(max(took / LAYER_SHARE, LAYER_PERIODS[0]), LAYER_PERIODS[1])


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, but no longer than this."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
