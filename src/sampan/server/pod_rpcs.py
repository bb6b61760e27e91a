"""The RuntimeService's methods about pods: unpack, one use case, pack."""

from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.runtime.state import now
from sampan.server import convert
from sampan.server.use_cases import Rpcs


class PodRpcs(Rpcs):
    """Run, stop, remove, status, list."""

    async def RunPodSandbox(self, request: cri.RunPodSandboxRequest, _: Any) -> cri.RunPodSandboxResponse:
        convert.require_config(request.HasField("config"), "config")
        return cri.RunPodSandboxResponse(
            pod_sandbox_id=await self._cases.pods.run(request.config, request.runtime_handler)
        )

    async def StopPodSandbox(self, request: cri.StopPodSandboxRequest, _: Any) -> cri.StopPodSandboxResponse:
        await self._cases.pods.stop(request.pod_sandbox_id)
        return cri.StopPodSandboxResponse()

    async def RemovePodSandbox(
        self, request: cri.RemovePodSandboxRequest, _: Any
    ) -> cri.RemovePodSandboxResponse:
        await self._cases.pods.remove(request.pod_sandbox_id)
        return cri.RemovePodSandboxResponse()

    async def PodSandboxStatus(
        self, request: cri.PodSandboxStatusRequest, _: Any
    ) -> cri.PodSandboxStatusResponse:
        pod = self._pod(request.pod_sandbox_id)
        containers = [one for one in self._state.containers_of(pod.id) if one.visible]
        return cri.PodSandboxStatusResponse(
            status=convert.pod_status(pod),
            info=convert.pod_info(pod) if request.verbose else {},
            containers_statuses=[convert.container_status(one, self._image(one)) for one in containers],
            timestamp=now(),
        )

    async def ListPodSandbox(self, request: cri.ListPodSandboxRequest, _: Any) -> cri.ListPodSandboxResponse:
        pods = (pod for pod in self._state.pods.values() if convert.pod_matches(pod, request.filter))
        return cri.ListPodSandboxResponse(items=[convert.pod_item(pod) for pod in convert.newest_first(pods)])
