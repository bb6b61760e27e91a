"""The RuntimeService's methods that return where a session is served."""

from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.server.use_cases import Rpcs
from sampan.wire.remotecommand.channels import Wanted


class SessionRpcs(Rpcs):
    """Exec, attach, port-forward: what is wrong with a request is told now, not to the client that comes for it."""

    async def Exec(self, request: cri.ExecRequest, _: Any) -> cri.ExecResponse:
        operation = await self._cases.streaming.exec(request.container_id, request.cmd, _wanted(request))
        return cri.ExecResponse(url=self._cases.listener.url(operation))

    async def Attach(self, request: cri.AttachRequest, _: Any) -> cri.AttachResponse:
        operation = await self._cases.streaming.attach(request.container_id, _wanted(request))
        return cri.AttachResponse(url=self._cases.listener.url(operation))

    async def PortForward(self, request: cri.PortForwardRequest, _: Any) -> cri.PortForwardResponse:
        operation = await self._cases.streaming.port_forward(request.pod_sandbox_id, request.port)
        return cri.PortForwardResponse(url=self._cases.listener.url(operation))


def _wanted(request: cri.ExecRequest | cri.AttachRequest) -> Wanted:
    return Wanted(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, tty=request.tty)
