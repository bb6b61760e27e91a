"""A pod's resolv.conf (resolv.conf(5)) from CRI's DNSConfig."""

from sampan.api import cri_pb2 as cri


def check(config: cri.DNSConfig) -> None:
    """Raise Invalid for anything that would add a line or a directive to resolv.conf."""
    raise NotImplementedError


def resolv_conf(config: cri.DNSConfig) -> bytes:
    """The file; b"" for an empty config, where the host's own file is what the pod gets."""
    raise NotImplementedError
