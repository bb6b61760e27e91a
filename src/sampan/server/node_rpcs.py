"""The RuntimeService's methods about the runtime itself: version, conditions, handlers, configuration."""

from importlib.metadata import version
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.server import info
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
        """The kubelet's health probe: nothing here waits for a plugin, a container or a disk."""
        machine, config = self._cases.machine, self._cases.config
        response = cri.StatusResponse(
            status=cri.RuntimeStatus(conditions=await self._conditions()),
            runtime_handlers=self._handlers(),
            features=cri.RuntimeFeatures(
                supplemental_groups_policy=True,
                user_namespaces_host_network=machine.host.user_namespaces,
                mount_options=True,
            ),
        )
        if request.verbose:
            handlers = [machine.handlers.of(name) for name in sorted(config.handlers)]
            details = await machine.network.details()
            sessions = self._cases.sessions.open()
            systemd = machine.host.systemd_cgroup
            found = info.node(config, details, handlers, sessions, systemd_cgroup=systemd)
            response.info.update(found)
        return response

    async def _conditions(self) -> list[cri.RuntimeCondition]:
        trouble = self._cases.machine.handlers.trouble()
        network = await self._cases.machine.network.status()
        damage = self._cases.damage
        return [
            cri.RuntimeCondition(
                type="RuntimeReady",
                status=trouble is None or not trouble.fatal,
                reason=trouble.reason if trouble else "",
                message=trouble.message if trouble else "",
            ),
            cri.RuntimeCondition(
                type="NetworkReady", status=network.ready, reason=network.reason, message=network.message
            ),
            cri.RuntimeCondition(
                type="StateIntact",
                status=not damage,
                reason="DatabaseSetAside" if damage else "",
                message=damage,
            ),
        ]

    def _handlers(self) -> list[cri.RuntimeHandler]:
        """By name, "" (the default) first. One that cannot be used now is there, and can do nothing."""
        config, machine = self._cases.config, self._cases.machine
        rows = []
        for name in sorted({"", *config.handlers}):
            handler = name or config.runtime.default_handler
            host = None if machine.handlers.of(handler).problem else machine.host_of(handler)
            rro, user_namespaces = (
                (host.recursive_read_only, host.user_namespaces) if host else (False, False)
            )
            rows.append(info.runtime_handler(name, rro, user_namespaces))
        return rows

    async def UpdateRuntimeConfig(
        self, request: cri.UpdateRuntimeConfigRequest, _: Any
    ) -> cri.UpdateRuntimeConfigResponse:
        """The kubelet tells the node's pod CIDRs, a comma between; an empty request is one that tells nothing."""
        told = request.runtime_config.network_config.pod_cidr
        if told:
            await self._cases.machine.network.pod_cidrs([cidr.strip() for cidr in told.split(",")])
        return cri.UpdateRuntimeConfigResponse()

    async def RuntimeConfig(self, request: cri.RuntimeConfigRequest, _: Any) -> cri.RuntimeConfigResponse:
        driver = cri.SYSTEMD if self._cases.machine.host.systemd_cgroup else cri.CGROUPFS
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=driver))
