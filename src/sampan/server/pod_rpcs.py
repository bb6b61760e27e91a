"""The RuntimeService's methods about pods: unpack, one use case, pack."""

from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container
from sampan.model.pod import Pod
from sampan.server import convert, info
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

    async def UpdatePodSandboxResources(
        self, request: cri.UpdatePodSandboxResourcesRequest, _: Any
    ) -> cri.UpdatePodSandboxResourcesResponse:
        await self._cases.resources.update_pod(
            self._pod(request.pod_sandbox_id).id,
            request.overhead if request.HasField("overhead") else None,
            request.resources if request.HasField("resources") else None,
        )
        return cri.UpdatePodSandboxResourcesResponse()

    async def PodSandboxStatus(
        self, request: cri.PodSandboxStatusRequest, _: Any
    ) -> cri.PodSandboxStatusResponse:
        pod = self._pod(request.pod_sandbox_id)
        containers = [one for one in self._state.containers_of(pod.id) if one.visible]
        return cri.PodSandboxStatusResponse(
            status=convert.pod_status(pod),
            info=await self._info(pod, containers) if request.verbose else {},
            containers_statuses=[convert.container_status(one, self._image(one)) for one in containers],
            timestamp=self._cases.events.clock.stamp(),  # no later event, of an older state, has it
        )

    async def _info(self, pod: Pod, containers: list[Container]) -> dict[str, str]:
        config, machine = self._cases.config, self._cases.machine
        view = info.PodView(
            pod=pod,
            handler=config.handlers[pod.handler],
            containers=containers,
            namespaces={kind: str(config.paths.namespace(pod.id, kind)) for kind in pod.namespaces},
            present=await machine.sandboxes.present(pod.id, pod.namespaces),
            systemd_cgroup=machine.host.systemd_cgroup,
        )
        return info.pod(view)

    async def ListPodSandbox(self, request: cri.ListPodSandboxRequest, _: Any) -> cri.ListPodSandboxResponse:
        return self._rows.pods(request.filter)
