"""What the RuntimeService calls, and how it looks up what a request names."""

from dataclasses import dataclass

from sampan.config import Config
from sampan.model import ids
from sampan.model.container import Container
from sampan.model.errors import NotFound
from sampan.model.image import Image
from sampan.model.pod import Pod
from sampan.runtime.containers import Containers
from sampan.runtime.events import Events
from sampan.runtime.exec import Exec
from sampan.runtime.limits import Resources
from sampan.runtime.machine import Machine
from sampan.runtime.pods import Pods
from sampan.runtime.state import State
from sampan.runtime.stats import Stats
from sampan.runtime.streaming import Streaming
from sampan.server.rows import Rows
from sampan.server.streaming.listener import Listener
from sampan.server.streaming.sessions import Sessions


@dataclass(frozen=True, slots=True)
class UseCases:
    """The use cases and what they stand on."""

    config: Config
    state: State
    machine: Machine
    pods: Pods
    containers: Containers
    exec: Exec
    streaming: Streaming
    sessions: Sessions
    listener: Listener
    resources: Resources
    stats: Stats
    events: Events
    damage: str = ""  # what was wrong with the state database when it was opened


class Rpcs:
    """A part of the RuntimeService; the interceptor turns what its methods raise into codes."""

    def __init__(self, cases: UseCases) -> None:
        self._cases = cases
        self._state = cases.state
        self._rows = Rows(cases.state)

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
