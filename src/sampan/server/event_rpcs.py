"""GetContainerEvents: the stream that the kubelet's Evented PLEG lives on. Always there, for any number of clients."""

from collections.abc import AsyncIterator
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.runtime.events import Event, Kind
from sampan.server import convert
from sampan.server.use_cases import Rpcs

KINDS = {
    Kind.CREATED: cri.CONTAINER_CREATED_EVENT,
    Kind.STARTED: cri.CONTAINER_STARTED_EVENT,
    Kind.STOPPED: cri.CONTAINER_STOPPED_EVENT,
    Kind.DELETED: cri.CONTAINER_DELETED_EVENT,
}


class EventRpcs(Rpcs):
    """Events of pods and containers. A pod's event has the pod's id as `container_id`."""

    async def GetContainerEvents(
        self, request: cri.GetEventsRequest, context: Any
    ) -> AsyncIterator[cri.ContainerEventResponse]:
        with self._cases.events.subscribe() as subscription:
            # the client may rely on it: what it lists after the headers have come misses nothing of the stream
            await context.send_initial_metadata(())
            async for event in subscription:
                yield self._event(event)

    def _event(self, event: Event) -> cri.ContainerEventResponse:
        return cri.ContainerEventResponse(
            container_id=event.id,
            container_event_type=KINDS[event.kind],
            created_at=event.at,
            pod_sandbox_status=convert.pod_status(event.pod) if event.pod else None,
            containers_statuses=[convert.container_status(one, self._image(one)) for one in event.containers],
        )
