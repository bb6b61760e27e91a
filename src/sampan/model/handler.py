"""A runtime handler: what a RuntimeClass of Kubernetes names, as the configuration describes it.

Whether its programs are there and what they can do is not here (`runtime.ports.HandlerStatus`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Handler:
    """The OCI runtime (with options of its own), its monitor, where the runtime keeps its state, and what
    containers of this handler get: more from the file `base_spec`, the host's devices if privileged."""

    name: str
    path: str
    monitor: str
    root: Path
    args: tuple[str, ...] = ()
    base_spec: str = ""
    privileged_devices: bool = True


class Handlers(dict[str, Handler]):
    """Handlers by name. For a name that is not in it there is still an answer: a container may be older than the
    configuration that dropped its handler, and has to be stopped and removed all the same."""

    def __init__(self, known: Mapping[str, Handler], state: Path) -> None:
        super().__init__(known)
        self._state = state

    def __missing__(self, name: str) -> Handler:
        return Handler(name, name, "conmon", self._state / "runtime" / name)
