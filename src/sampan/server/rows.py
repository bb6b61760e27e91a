"""ListPodSandbox and ListContainers, the calls that the kubelet makes most: each row is packed once for each record.

Rows lie here as they go over the wire: one after the other they are the list (in protobuf, messages that follow each
other are merged, their repeated fields joined). A commit drops the row of its record, so none is older than its record.
"""

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container
from sampan.model.pod import Pod
from sampan.runtime.state import Gone, Record, State
from sampan.server import convert


class Rows:
    """The lists, and their rows by id."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._packed: dict[str, bytes] = {}
        state.watch(self._changed)

    def pods(self, filter: cri.PodSandboxFilter) -> cri.ListPodSandboxResponse:
        """Those that the filter lets through, the newest first."""
        matches = convert.selecting_pods(filter)
        found = convert.newest_first(pod for pod in self._state.pods.values() if matches(pod))
        return cri.ListPodSandboxResponse.FromString(b"".join([self._pod(pod) for pod in found]))

    def containers(self, filter: cri.ContainerFilter) -> cri.ListContainersResponse:
        """Those that the filter lets through, the newest first."""
        matches = convert.selecting_containers(filter)
        found = convert.newest_first(one for one in self._state.containers.values() if matches(one))
        return cri.ListContainersResponse.FromString(b"".join([self._container(one) for one in found]))

    def _pod(self, pod: Pod) -> bytes:
        row = self._packed.get(pod.id)
        if row is None:
            row = cri.ListPodSandboxResponse(items=[convert.pod_item(pod)]).SerializeToString()
            self._packed[pod.id] = row
        return row

    def _container(self, container: Container) -> bytes:
        row = self._packed.get(container.id)
        if row is None:
            item = convert.container_item(container, self._state.images.get(container.image_id))
            row = self._packed[container.id] = cri.ListContainersResponse(
                containers=[item]
            ).SerializeToString()
        return row

    def _changed(self, change: Record | Gone) -> None:
        if isinstance(change, Pod | Container) or (isinstance(change, Gone) and change.kind != "image"):
            self._packed.pop(change.id, None)
        else:  # containers show the names of their images
            self._packed.clear()
