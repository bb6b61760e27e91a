"""The CRI RuntimeService: one short method per RPC: unpack, one use case, pack.

An RPC that is not here is answered UNIMPLEMENTED: its generated body raises, and the interceptor names it.
"""

import dataclasses
import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.api import cri_pb2_grpc as rpc
from sampan.config import Config
from sampan.model import ids
from sampan.model.container import Container
from sampan.model.errors import NotFound
from sampan.model.image import Image
from sampan.model.pod import Pod
from sampan.runtime.containers import Containers
from sampan.runtime.exec import Exec
from sampan.runtime.machine import Machine
from sampan.runtime.pods import Pods
from sampan.runtime.state import State, now
from sampan.runtime.stats import Stats
from sampan.server import convert

KUBELET_API_VERSION = "0.1.0"  # what VersionResponse.version must say (cri-api)
RUNTIME_API_VERSION = "v1"
VERSION = version("sampan")


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the service calls."""

    config: Config
    state: State
    machine: Machine
    pods: Pods
    containers: Containers
    exec: Exec
    stats: Stats
    damage: str = ""  # what was wrong with the state database when it was opened


class RuntimeService(rpc.RuntimeServiceServicer):
    """One method per RPC; the interceptor turns what they raise into codes."""

    def __init__(self, cases: UseCases) -> None:
        self._config = cases.config
        self._state = cases.state
        self._machine = cases.machine
        self._pods = cases.pods
        self._containers = cases.containers
        self._exec = cases.exec
        self._stats = cases.stats
        self._damage = cases.damage

    # --- pods -------------------------------------------------------------------------------------------------

    async def RunPodSandbox(self, request: cri.RunPodSandboxRequest, _: Any) -> cri.RunPodSandboxResponse:
        convert.require_config(request.HasField("config"), "config")
        return cri.RunPodSandboxResponse(
            pod_sandbox_id=await self._pods.run(request.config, request.runtime_handler)
        )

    async def StopPodSandbox(self, request: cri.StopPodSandboxRequest, _: Any) -> cri.StopPodSandboxResponse:
        await self._pods.stop(request.pod_sandbox_id)
        return cri.StopPodSandboxResponse()

    async def RemovePodSandbox(
        self, request: cri.RemovePodSandboxRequest, _: Any
    ) -> cri.RemovePodSandboxResponse:
        await self._pods.remove(request.pod_sandbox_id)
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

    # --- containers -------------------------------------------------------------------------------------------

    async def CreateContainer(
        self, request: cri.CreateContainerRequest, _: Any
    ) -> cri.CreateContainerResponse:
        convert.require_config(request.HasField("config"), "config")
        return cri.CreateContainerResponse(
            container_id=await self._containers.create(request.pod_sandbox_id, request.config)
        )

    async def StartContainer(self, request: cri.StartContainerRequest, _: Any) -> cri.StartContainerResponse:
        await self._containers.start(request.container_id)
        return cri.StartContainerResponse()

    async def StopContainer(self, request: cri.StopContainerRequest, _: Any) -> cri.StopContainerResponse:
        await self._containers.stop(request.container_id, request.timeout)
        return cri.StopContainerResponse()

    async def RemoveContainer(
        self, request: cri.RemoveContainerRequest, _: Any
    ) -> cri.RemoveContainerResponse:
        await self._containers.remove(request.container_id)
        return cri.RemoveContainerResponse()

    async def ListContainers(self, request: cri.ListContainersRequest, _: Any) -> cri.ListContainersResponse:
        found = (
            one for one in self._state.containers.values() if convert.container_matches(one, request.filter)
        )
        return cri.ListContainersResponse(
            containers=[convert.container_item(one, self._image(one)) for one in convert.newest_first(found)]
        )

    async def ContainerStatus(
        self, request: cri.ContainerStatusRequest, _: Any
    ) -> cri.ContainerStatusResponse:
        container = self._container(request.container_id)
        response = cri.ContainerStatusResponse(
            status=convert.container_status(container, self._image(container))
        )
        if request.verbose:
            spec = await self._machine.bundles.read(container.id)
            response.info.update(convert.container_info(container, spec))
        return response

    async def ReopenContainerLog(
        self, request: cri.ReopenContainerLogRequest, _: Any
    ) -> cri.ReopenContainerLogResponse:
        await self._containers.reopen_log(request.container_id)
        return cri.ReopenContainerLogResponse()

    async def ExecSync(self, request: cri.ExecSyncRequest, _: Any) -> cri.ExecSyncResponse:
        result = await self._exec.sync(request.container_id, request.cmd, request.timeout)
        return cri.ExecSyncResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.code)

    # --- stats ------------------------------------------------------------------------------------------------

    async def ContainerStats(self, request: cri.ContainerStatsRequest, _: Any) -> cri.ContainerStatsResponse:
        container = self._container(request.container_id)
        return cri.ContainerStatsResponse(stats=(await self._stats_of([container]))[0])

    async def ListContainerStats(
        self, request: cri.ListContainerStatsRequest, _: Any
    ) -> cri.ListContainerStatsResponse:
        found = [one for one in self._state.containers.values() if convert.stats_match(one, request.filter)]
        return cri.ListContainerStatsResponse(stats=await self._stats_of(convert.newest_first(found)))

    async def _stats_of(self, containers: list[Container]) -> list[cri.ContainerStats]:
        samples = await self._stats.of(containers)
        root = str(self._config.paths.root)
        return [
            convert.container_stats(one, samples.get(one.id), self._stats.layer(one), root)
            for one in containers
        ]

    # --- the runtime itself -------------------------------------------------------------------------------------

    async def Version(self, request: cri.VersionRequest, _: Any) -> cri.VersionResponse:
        return cri.VersionResponse(
            version=KUBELET_API_VERSION,
            runtime_name="sampan",
            runtime_version=VERSION,
            runtime_api_version=RUNTIME_API_VERSION,
        )

    async def Status(self, request: cri.StatusRequest, _: Any) -> cri.StatusResponse:
        network = await self._machine.network.status()
        conditions = [
            cri.RuntimeCondition(type="RuntimeReady", status=True),
            cri.RuntimeCondition(
                type="NetworkReady", status=network.ready, reason=network.reason, message=network.message
            ),
            cri.RuntimeCondition(
                type="StateIntact",
                status=not self._damage,
                reason="DatabaseSetAside" if self._damage else "",
                message=self._damage,
            ),
        ]
        handlers = [cri.RuntimeHandler(name=name) for name in sorted({"", *self._config.handlers})]
        return cri.StatusResponse(
            status=cri.RuntimeStatus(conditions=conditions),
            runtime_handlers=handlers,
            features=cri.RuntimeFeatures(supplemental_groups_policy=True, mount_options=True),
            info={"config": json.dumps(dataclasses.asdict(self._config), default=str)}
            if request.verbose
            else {},
        )

    async def RuntimeConfig(self, request: cri.RuntimeConfigRequest, _: Any) -> cri.RuntimeConfigResponse:
        driver = cri.SYSTEMD if self._machine.host.systemd_cgroup else cri.CGROUPFS
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=driver))

    # --- lookups ------------------------------------------------------------------------------------------------

    def _pod(self, id: str) -> Pod:
        pod = ids.resolve("pod", self._state.pods, id)
        if not pod.visible:
            raise NotFound(f"pod {pod.id} is still being made")
        return pod

    def _container(self, id: str) -> Container:
        container = ids.resolve("container", self._state.containers, id)
        if not container.visible:
            raise NotFound(f"container {container.id} is still being created")
        return container

    def _image(self, container: Container) -> Image | None:
        return self._state.images.get(container.image_id)
