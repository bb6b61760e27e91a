"""Everything that can be refused before any effect; every message names the field at fault."""

from sampan.api import cri_pb2 as cri
from sampan.spec.facts import Host


def check_pod(config: cri.PodSandboxConfig, host: Host) -> None:
    """Raise Invalid if no pod can be made of this config on this host."""
    raise NotImplementedError


def check_container(config: cri.ContainerConfig, pod: cri.PodSandboxConfig, host: Host) -> None:
    """Raise Invalid (or RROUnsupported) if no container can be made of this config in this pod on this host."""
    raise NotImplementedError


def log_path(config: cri.ContainerConfig, pod: cri.PodSandboxConfig) -> str:
    """The container's absolute log path, checked; "" if it has none (no log_directory or no log_path)."""
    raise NotImplementedError


def hostname(config: cri.PodSandboxConfig, node: str) -> str:
    """The pod's host name: the node's with the host's network, else the one asked for, else the node's."""
    raise NotImplementedError
