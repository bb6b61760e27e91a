"""Lists in parts, for nodes where one message would be too large: every Stream method that has a List of the same.

The items are those of the List with the same filter, each once, as of the moment of the request; none is no message
at all. Between parts, and within one, other requests have their turn.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, Protocol, TypeVar

from sampan.api import cri_pb2 as cri
from sampan.server import convert
from sampan.server.stats_rpcs import StatsRpcs

PART_ITEMS = 3000
PART_BYTES = 3 << 20  # a client that sets no limit of its own takes 4 MiB
TURN_BYTES = 32 << 10  # made in 1 to 2 ms


class Sized(Protocol):
    """A message."""

    def ByteSize(self) -> int: ...


M = TypeVar("M", bound=Sized)


async def in_parts(items: Iterable[M] | AsyncIterable[M]) -> AsyncIterator[list[M]]:
    """Lists of at most PART_ITEMS items and, but for a single item that is larger, PART_BYTES bytes."""
    part: list[M] = []
    size = made = 0
    async for item in items if isinstance(items, AsyncIterable) else _each(items):
        length = item.ByteSize() + 6  # its tag and its length
        if part and (len(part) == PART_ITEMS or size + length > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(item)
        size, made = size + length, made + length
        if made > TURN_BYTES:
            made = 0
            await asyncio.sleep(0)
    if part:
        yield part


async def _each(items: Iterable[M]) -> AsyncIterator[M]:
    for item in items:
        yield item


class StreamRpcs(StatsRpcs):
    """The RuntimeService's lists in parts."""

    async def StreamPodSandboxes(
        self, request: cri.StreamPodSandboxesRequest, _: Any
    ) -> AsyncIterator[cri.StreamPodSandboxesResponse]:
        found = filter(convert.selecting_pods(request.filter), self._state.pods.values())
        items = (convert.pod_item(pod) for pod in convert.newest_first(found))
        async for part in in_parts(items):
            yield cri.StreamPodSandboxesResponse(pod_sandboxes=part)

    async def StreamContainers(
        self, request: cri.StreamContainersRequest, _: Any
    ) -> AsyncIterator[cri.StreamContainersResponse]:
        found = filter(convert.selecting_containers(request.filter), self._state.containers.values())
        items = (convert.container_item(one, self._image(one)) for one in convert.newest_first(found))
        async for part in in_parts(items):
            yield cri.StreamContainersResponse(containers=part)

    async def StreamContainerStats(
        self, request: cri.StreamContainerStatsRequest, _: Any
    ) -> AsyncIterator[cri.StreamContainerStatsResponse]:
        found = self._measured(request.filter)
        async for part in in_parts(await self._container_stats(found, cri.ContainerStats)):
            yield cri.StreamContainerStatsResponse(container_stats=part)

    async def StreamPodSandboxStats(
        self, request: cri.StreamPodSandboxStatsRequest, _: Any
    ) -> AsyncIterator[cri.StreamPodSandboxStatsResponse]:
        found = self._measured_pods(request.filter)
        async for part in in_parts(await self._pod_stats(found, cri.PodSandboxStats)):
            yield cri.StreamPodSandboxStatsResponse(pod_sandbox_stats=part)

    async def StreamPodSandboxMetrics(
        self, request: cri.StreamPodSandboxMetricsRequest, _: Any
    ) -> AsyncIterator[cri.StreamPodSandboxMetricsResponse]:
        async for part in in_parts(self._pod_metrics(cri.PodSandboxMetrics)):
            yield cri.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=part)
