"""The port `Attachments`: clients beside containers, from their creation on. `attach_session` is a client's side,
`attach_connections` that of the container's conmon."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from sampan.config import Paths
from sampan.host.oci import monitor
from sampan.host.oci.attach_connections import Container
from sampan.host.oci.attach_session import Session
from sampan.host.threads import in_thread
from sampan.model.errors import NotFound
from sampan.runtime.stream_ports import Running
from sampan.wire.remotecommand.channels import Wanted


class ConmonAttachments:
    """The port `Attachments` for containers that `OciConmon` has made, also those of a daemon before us. `close` at
    the end."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._containers: dict[str, Container] = {}

    @asynccontextmanager
    async def attach(self, id: str, wanted: Wanted) -> AsyncIterator[Running]:
        container = await self._container(id)
        session = Session(container, await container.connect(), wanted)
        try:
            if wanted.stdin:
                await container.watch_input()
            yield session
        finally:
            session.leave()

    async def _container(self, id: str) -> Container:
        bundle = self._paths.bundle(id)
        watched = await in_thread(monitor.command_line, bundle, id)
        if watched is None:
            raise NotFound(f"nothing watches container {id} any more: it has ended, or its conmon was killed")
        known = self._containers.get(id)
        if known is None:
            forget = partial(self._containers.pop, id, None)
            known = self._containers[id] = Container(id, bundle, watched, forget)
        return known

    def close(self) -> None:
        """Let go of connections that nobody uses."""
        for container in list(self._containers.values()):
            container.drop()
