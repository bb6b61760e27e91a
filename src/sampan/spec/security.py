"""A container's confinement: seccomp, AppArmor, SELinux, masked and read-only paths."""

from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.spec.facts import ContainerFacts


def localhost_seccomp(config: cri.ContainerConfig) -> str:
    """The absolute path of the profile to read into `ContainerFacts.seccomp_localhost`; "" if none is asked for."""
    raise NotImplementedError


def seccomp(facts: ContainerFacts) -> dict[str, Any] | None:
    """The `linux.seccomp` object; None where the container runs unconfined."""
    raise NotImplementedError
