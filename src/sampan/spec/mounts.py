"""A container's mounts: the default ones, the pod's shared files, and those of the request."""

from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.spec.facts import ContainerFacts, Host


def host_paths(config: cri.ContainerConfig) -> tuple[str, ...]:
    """The host paths whose `Source` the builder needs in `ContainerFacts.sources`."""
    raise NotImplementedError


def check(config: cri.ContainerConfig, host: Host) -> None:
    """Raise for what is wrong with the request's mounts whatever the host's directories are."""
    raise NotImplementedError


def build(facts: ContainerFacts) -> list[dict[str, Any]]:
    """The `mounts` array, in the order they are to be mounted."""
    raise NotImplementedError
