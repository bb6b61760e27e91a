"""The RuntimeService's methods about usage: answered from the collector's samples."""

from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container
from sampan.server import convert, stats_convert
from sampan.server.use_cases import Rpcs


class StatsRpcs(Rpcs):
    """Usage of containers."""

    async def ContainerStats(self, request: cri.ContainerStatsRequest, _: Any) -> cri.ContainerStatsResponse:
        container = self._container(request.container_id)
        return cri.ContainerStatsResponse(stats=(await self._stats_of([container]))[0])

    async def ListContainerStats(
        self, request: cri.ListContainerStatsRequest, _: Any
    ) -> cri.ListContainerStatsResponse:
        found = [
            one for one in self._state.containers.values() if stats_convert.stats_match(one, request.filter)
        ]
        return cri.ListContainerStatsResponse(stats=await self._stats_of(convert.newest_first(found)))

    async def _stats_of(self, containers: list[Container]) -> list[cri.ContainerStats]:
        samples = await self._cases.stats.of(containers)
        root = str(self._cases.config.paths.root)
        return [
            stats_convert.container_stats(one, samples.get(one.id), self._cases.stats.layer(one), root)
            for one in containers
        ]
