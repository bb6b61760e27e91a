"""A pod's sysctls: those asked for, if they are the pod's own namespaces' (CVE-2022-0811, CVE-2022-0532), and ours."""

from sampan.api import cri_pb2 as cri


def resolved(config: cri.PodSandboxConfig) -> dict[str, str]:
    """Dotted name to value, defaults included. Raises Invalid for one that is malformed or not namespaced."""
    raise NotImplementedError
