"""Runtime handlers as the use cases see them: whether each can be used, and what it can do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sampan.wire.oci_features import Features


@dataclass(frozen=True, slots=True)
class HandlerStatus:
    """A runtime handler on this machine, as it was found when last looked at."""

    name: str
    path: str = ""  # of its OCI runtime
    features: Features = field(default_factory=Features)
    base_spec: Mapping[str, Any] = field(
        default_factory=dict
    )  # what its containers get beside what is asked for
    privileged_devices: bool = True  # privileged containers get those of the host
    problem: str = ""  # why no pod can have it


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with the node. `fatal`: it can run no pod; else it will soon."""

    reason: str  # a CamelCase word
    message: str
    fatal: bool = True


class Handlers(Protocol):
    """The runtime handlers of the configuration on this machine."""

    def of(self, name: str) -> HandlerStatus:
        """What is known of this handler; one that is not configured has a `problem`. Never blocks."""

    async def require(self, name: str) -> HandlerStatus:
        """The same for one that is about to be used. One that had a problem is looked at again; Unavailable if it has
        it still."""

    def trouble(self) -> Trouble | None:
        """What keeps this node from running pods. Never blocks: it is what the last look found, and it starts another
        in the background where that is some time ago."""
