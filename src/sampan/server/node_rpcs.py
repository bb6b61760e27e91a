"""The RuntimeService's methods about the runtime itself: version, conditions, handlers, configuration."""

import dataclasses
import json
from importlib.metadata import version
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.server.use_cases import Rpcs

KUBELET_API_VERSION = "0.1.0"  # what VersionResponse.version must say (cri-api)
RUNTIME_API_VERSION = "v1"
VERSION = version("sampan")


class NodeRpcs(Rpcs):
    """What is true of the node, whatever pods it has."""

    async def Version(self, request: cri.VersionRequest, _: Any) -> cri.VersionResponse:
        return cri.VersionResponse(
            version=KUBELET_API_VERSION,
            runtime_name="sampan",
            runtime_version=VERSION,
            runtime_api_version=RUNTIME_API_VERSION,
        )

    async def Status(self, request: cri.StatusRequest, _: Any) -> cri.StatusResponse:
        network = await self._cases.machine.network.status()
        conditions = [
            cri.RuntimeCondition(type="RuntimeReady", status=True),
            cri.RuntimeCondition(
                type="NetworkReady", status=network.ready, reason=network.reason, message=network.message
            ),
            cri.RuntimeCondition(
                type="StateIntact",
                status=not self._cases.damage,
                reason="DatabaseSetAside" if self._cases.damage else "",
                message=self._cases.damage,
            ),
        ]
        handlers = [cri.RuntimeHandler(name=name) for name in sorted({"", *self._cases.config.handlers})]
        return cri.StatusResponse(
            status=cri.RuntimeStatus(conditions=conditions),
            runtime_handlers=handlers,
            features=cri.RuntimeFeatures(supplemental_groups_policy=True, mount_options=True),
            info={"config": json.dumps(dataclasses.asdict(self._cases.config), default=str)}
            if request.verbose
            else {},
        )

    async def RuntimeConfig(self, request: cri.RuntimeConfigRequest, _: Any) -> cri.RuntimeConfigResponse:
        driver = cri.SYSTEMD if self._cases.machine.host.systemd_cgroup else cri.CGROUPFS
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=driver))
