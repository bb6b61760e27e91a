"""Classes of block I/O and of Resource Director Technology: which one a container asks for, and what that is in
OCI terms (runtime-spec config-linux.md#block-io, #intelrdt).

A class is asked for by annotations of the pod, the only field that Kubernetes has for it:
`blockio.resources.beta.kubernetes.io/pod` or `/container.NAME`, and the same of `rdt.`; the container's own goes
first. A class is only ever a name: what it stands for the administrator decides.
"""

import re
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.model.io_classes import DeviceLimits
from sampan.spec.text import shown

BLOCK_IO = "blockio.resources.beta.kubernetes.io"
RDT = "rdt.resources.beta.kubernetes.io"
RDT_ROOT = "system/default"  # how pods spell the class of everything that has none

_NAME = re.compile(r"(?!\.{1,2}\Z)[^/\x00-\x1f\x7f]{1,255}")
_RATES = (
    ("throttleReadBpsDevice", "read_bps"),
    ("throttleWriteBpsDevice", "write_bps"),
    ("throttleReadIOPSDevice", "read_iops"),
    ("throttleWriteIOPSDevice", "write_iops"),
)


def block_io_class(config: cri.ContainerConfig, pod: cri.PodSandboxConfig) -> str:
    """The class of block I/O; "" for none. Raises Invalid for what is no name."""
    return _class(BLOCK_IO, config, pod)


def rdt_class(config: cri.ContainerConfig, pod: cri.PodSandboxConfig) -> str:
    """The RDT class; "" for none and for the root's. Raises Invalid for what is no name."""
    return _class(RDT, config, pod, RDT_ROOT)


def block_io(limits: tuple[DeviceLimits, ...]) -> dict[str, Any]:
    """`linux.resources.blockIO`; {} without limits. Of two entries for one device the later counts."""
    section: dict[str, Any] = {}
    weights: dict[tuple[int, int], int] = {}
    for each in limits:
        if each.limits.weight is not None:
            if not each.limits.devices:
                section["weight"] = each.limits.weight
            weights |= dict.fromkeys(each.numbers, each.limits.weight)
    if weights:
        section["weightDevice"] = _listed(weights, "weight")
    for name, attribute in _RATES:
        rates: dict[tuple[int, int], int] = {}
        for each in limits:
            if (rate := getattr(each.limits, attribute)) is not None:
                rates |= dict.fromkeys(each.numbers, rate)
        if rates:
            section[name] = _listed(rates, "rate")
    return section


def _listed(values: dict[tuple[int, int], int], key: str) -> list[dict[str, int]]:
    return [{"major": major, "minor": minor, key: value} for (major, minor), value in sorted(values.items())]


def _class(prefix: str, config: cri.ContainerConfig, pod: cri.PodSandboxConfig, none: str = "") -> str:
    for key in (f"{prefix}/container.{config.metadata.name}", f"{prefix}/pod"):
        for annotations in (config.annotations, pod.annotations):
            if key in annotations:
                name = annotations[key]
                if name in ("", none):
                    return ""
                if not _NAME.fullmatch(name):
                    raise Invalid(f"annotation {key}: {shown(name)} is no name of a class")
                return name
    return ""
