"""The RuntimeService's methods about containers: unpack, one use case, pack."""

from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.server import convert, info
from sampan.server.use_cases import Rpcs


class ContainerRpcs(Rpcs):
    """Create, start, stop, remove, status, list, logs, exec."""

    async def CreateContainer(
        self, request: cri.CreateContainerRequest, _: Any
    ) -> cri.CreateContainerResponse:
        convert.require_config(request.HasField("config"), "config")
        return cri.CreateContainerResponse(
            container_id=await self._cases.containers.create(request.pod_sandbox_id, request.config)
        )

    async def StartContainer(self, request: cri.StartContainerRequest, _: Any) -> cri.StartContainerResponse:
        await self._cases.containers.start(request.container_id)
        return cri.StartContainerResponse()

    async def StopContainer(self, request: cri.StopContainerRequest, _: Any) -> cri.StopContainerResponse:
        await self._cases.containers.stop(request.container_id, request.timeout)
        return cri.StopContainerResponse()

    async def RemoveContainer(
        self, request: cri.RemoveContainerRequest, _: Any
    ) -> cri.RemoveContainerResponse:
        await self._cases.containers.remove(request.container_id)
        return cri.RemoveContainerResponse()

    async def ListContainers(self, request: cri.ListContainersRequest, _: Any) -> cri.ListContainersResponse:
        return self._rows.containers(request.filter)

    async def ContainerStatus(
        self, request: cri.ContainerStatusRequest, _: Any
    ) -> cri.ContainerStatusResponse:
        container = self._container(request.container_id)
        response = cri.ContainerStatusResponse(
            status=convert.container_status(container, self._image(container))
        )
        if request.verbose:
            view = info.ContainerView(
                container=container,
                handler=self._cases.config.handlers[container.handler],
                spec=await self._cases.machine.bundles.read(container.id),
                removing=self._cases.containers.removing(container.id),
                systemd_cgroup=self._cases.machine.host.systemd_cgroup,
                differences=await self._cases.resources.differences(container),
            )
            response.info.update(info.container(view))
        return response

    async def UpdateContainerResources(
        self, request: cri.UpdateContainerResourcesRequest, _: Any
    ) -> cri.UpdateContainerResourcesResponse:
        """`annotations` are for NRI plugins; nothing of them changes a limit."""
        await self._cases.resources.update(request.container_id, request.linux)
        return cri.UpdateContainerResourcesResponse()

    async def ReopenContainerLog(
        self, request: cri.ReopenContainerLogRequest, _: Any
    ) -> cri.ReopenContainerLogResponse:
        await self._cases.containers.reopen_log(request.container_id)
        return cri.ReopenContainerLogResponse()

    async def ExecSync(self, request: cri.ExecSyncRequest, _: Any) -> cri.ExecSyncResponse:
        result = await self._cases.exec.sync(request.container_id, request.cmd, request.timeout)
        return cri.ExecSyncResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.code)
