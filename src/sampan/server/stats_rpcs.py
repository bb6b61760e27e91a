"""The RuntimeService's methods about usage: answered from the collector's samples.

The lists are also what the Stream methods give in parts (`stream_rpcs`), so they are made one item at a time.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container
from sampan.model.errors import Unavailable
from sampan.model.pod import Pod, PodState
from sampan.runtime import pod_usage
from sampan.server import convert, metrics_convert, stats_convert
from sampan.server.metrics_convert import Measured
from sampan.server.use_cases import Rpcs
from sampan.wire import cgroup_paths


class StatsRpcs(Rpcs):
    """Usage of containers and pods."""

    async def ContainerStats(self, request: cri.ContainerStatsRequest, _: Any) -> cri.ContainerStatsResponse:
        container = self._container(request.container_id)
        return cri.ContainerStatsResponse(
            stats=next(await self._container_stats([container], cri.ContainerStats))
        )

    async def ListContainerStats(
        self, request: cri.ListContainerStatsRequest, _: Any
    ) -> cri.ListContainerStatsResponse:
        response = cri.ListContainerStatsResponse()
        deque(await self._container_stats(self._measured(request.filter), response.stats.add), maxlen=0)
        return response

    async def PodSandboxStats(
        self, request: cri.PodSandboxStatsRequest, _: Any
    ) -> cri.PodSandboxStatsResponse:
        pod = self._pod(request.pod_sandbox_id)
        response = cri.PodSandboxStatsResponse()
        if not list(await self._pod_stats([pod], lambda: response.stats)):
            why = "not ready" if pod.state is not PodState.READY else "being stopped"
            raise Unavailable(f"pod {pod.id} is {why}: it uses nothing that could be measured")
        return response

    async def ListPodSandboxStats(
        self, request: cri.ListPodSandboxStatsRequest, _: Any
    ) -> cri.ListPodSandboxStatsResponse:
        response = cri.ListPodSandboxStatsResponse()
        deque(await self._pod_stats(self._measured_pods(request.filter), response.stats.add), maxlen=0)
        return response

    async def ListMetricDescriptors(
        self, request: cri.ListMetricDescriptorsRequest, _: Any
    ) -> cri.ListMetricDescriptorsResponse:
        return cri.ListMetricDescriptorsResponse(descriptors=metrics_convert.descriptors())

    async def ListPodSandboxMetrics(
        self, request: cri.ListPodSandboxMetricsRequest, _: Any
    ) -> cri.ListPodSandboxMetricsResponse:
        response = cri.ListPodSandboxMetricsResponse()
        async for _pod in self._pod_metrics(response.pod_metrics.add):
            await asyncio.sleep(0)  # a pod has some hundred values: others get their turn after each
        return response

    # --- what they list, newest first -----------------------------------------------------------------------

    def _measured(self, filter: cri.ContainerStatsFilter) -> list[Container]:
        found = (one for one in self._state.containers.values() if stats_convert.stats_match(one, filter))
        return convert.newest_first(found)

    def _measured_pods(self, filter: cri.PodSandboxStatsFilter) -> list[Pod]:
        found = (one for one in self._state.pods.values() if stats_convert.pod_stats_match(one, filter))
        return convert.newest_first(found)

    async def _container_stats(
        self, containers: list[Container], make: Callable[[], cri.ContainerStats]
    ) -> Iterator[cri.ContainerStats]:
        """Everything is read when this returns; the messages, each from `make`, are filled in as they are taken."""
        samples = await self._cases.stats.of(containers)
        root = str(self._cases.config.paths.root)
        layer = self._cases.stats.layer
        return (
            stats_convert.container_stats(make(), one, samples.get(one.id), layer(one), root)
            for one in containers
        )

    async def _pod_stats(
        self, pods: list[Pod], make: Callable[[], cri.PodSandboxStats]
    ) -> Iterator[cri.PodSandboxStats]:
        """The same for pods; those that have ended meanwhile are left out."""
        stats, root = self._cases.stats, str(self._cases.config.paths.root)
        samples, inside = await stats.of_pods(pods), self._running_in(pods)
        each = await stats.of([one for running in inside.values() for one in running])
        ended = {pod.id: stats.ended(pod) for pod in pods}  # at once: each container is in one of the two

        def message(pod: Pod) -> cri.PodSandboxStats:
            running = [one for one in inside[pod.id] if one.id in each]
            sample = samples[pod.id]
            whole = pod_usage.whole(sample, [each[one.id] for one in running], ended[pod.id])
            found = stats_convert.pod_stats(make(), pod, sample, whole)
            for one in running:
                inner = found.linux.containers.add()
                stats_convert.container_stats(inner, one, each[one.id], stats.layer(one), root)
            return found

        return (message(pod) for pod in pods if pod.id in samples)

    async def _pod_metrics(
        self, make: Callable[[], cri.PodSandboxMetrics]
    ) -> AsyncIterator[cri.PodSandboxMetrics]:
        """Each pod's metrics, in a message from `make`."""
        pods, stats = self._measured_pods(cri.PodSandboxStatsFilter()), self._cases.stats
        inside = self._running_in(pods)
        containers = [one for running in inside.values() for one in running]
        details = await stats.details_of(pods, containers)
        samples, each = await stats.of_pods(pods), await stats.of(containers)
        systemd = self._cases.machine.host.systemd_cgroup
        driver = cgroup_paths.SYSTEMD if systemd else cgroup_paths.CGROUPFS
        for pod in pods:
            if pod.id not in samples:
                continue
            found = make()
            metrics_convert.pod_metrics(found, pod, samples[pod.id], details.get(pod.id), driver)
            for one in (one for one in inside[pod.id] if one.id in each):
                measured = Measured(
                    one, self._image(one), each[one.id], details.get(one.id), stats.layer(one)
                )
                metrics_convert.container_metrics(
                    found.container_metrics.add(), pod, measured, stats.filesystem(), driver
                )
            yield found

    def _running_in(self, pods: list[Pod]) -> dict[str, list[Container]]:
        inside: dict[str, list[Container]] = {pod.id: [] for pod in pods}
        for container in self._measured(cri.ContainerStatsFilter()):
            if container.pod_id in inside:
                inside[container.pod_id].append(container)
        return inside
