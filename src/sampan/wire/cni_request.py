"""What a CNI plugin is told: its environment and its standard input, for each command.

Pure. The caller runs the plugins and feeds results forward. Source: CNI specification 1.1, sections 2 and
3, and its CONVENTIONS.md for the capability arguments.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import Any

import msgspec

from sampan.model.errors import Invalid
from sampan.wire.cni import Conflist, Plugin

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VALID_ATTACHMENTS = "cni.dev/valid-attachments"
MAX_BURST = (1 << 32) - 1  # bits; the widest that the bandwidth plugin takes

_SAFE = re.compile(r"[A-Za-z0-9._-]*")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_QUANTITY = re.compile(r"(?P<number>\+?\d{1,24}(?:\.\d{0,24})?)(?P<unit>[kMGTPE]|[KMGTPE]i|m|[eE]\d{1,2})?")
_UNITS = {
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("", "k", "M", "G", "T", "P", "E"))},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    "m": Decimal("0.001"),
}
_MIN_RATE, _MAX_RATE = 1000, 10**15  # 1k and 1P bit/s, the bounds of the annotations


@dataclass(frozen=True, slots=True)
class Target:
    """One attachment: who is attached, where, and the capability arguments the runtime has for it."""

    container_id: str
    netns: str  # "" when it is gone
    ifname: str
    args: str  # CNI_ARGS
    capabilities: Mapping[str, Any] = field(default_factory=dict)


def pod_args(namespace: str, name: str, container_id: str, uid: str) -> str:
    """CNI_ARGS as the plugins of the field expect it. Invalid if a value could add a pair of its own."""
    pairs = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": namespace,
        "K8S_POD_NAME": name,
        "K8S_POD_INFRA_CONTAINER_ID": container_id,
        "K8S_POD_UID": uid,
    }
    for key, value in pairs.items():
        if not _SAFE.fullmatch(value) or len(value) > 253:
            raise Invalid(
                f"{key} {value!r} cannot be passed to a CNI plugin: letters, digits, '.', '_' and '-' only"
            )
    if not _ID.fullmatch(container_id):
        raise Invalid(f"container id {container_id!r} cannot be passed to a CNI plugin")
    return ";".join(f"{key}={value}" for key, value in pairs.items())


def bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    """The `bandwidth` capability, in bit/s, from the kubernetes.io/{ingress,egress}-bandwidth annotations."""
    limits: dict[str, int] = {}
    for direction in ("ingress", "egress"):
        key = f"kubernetes.io/{direction}-bandwidth"
        if key in annotations:
            limits[f"{direction}Rate"] = _rate(key, annotations[key])
            limits[f"{direction}Burst"] = MAX_BURST
    return limits


def _rate(key: str, text: str) -> int:
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise Invalid(f"annotation {key} is {text!r}; it must be a quantity such as 10M")
    unit = match["unit"] or ""
    scale = (
        Decimal(10) ** int(unit[1:])
        if unit[:1] in "eE" and len(unit) > 1 and unit[1:].isdigit()
        else _UNITS[unit]
    )
    rate = int((Decimal(match["number"]) * scale).to_integral_value(ROUND_CEILING))
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise Invalid(f"annotation {key} is {text!r}; it must lie between 1k and 1P")
    return rate


def runtime_config(plugin: Plugin, target: Target) -> dict[str, Any]:
    """The capability arguments that this plugin declares and we have."""
    return {
        name: target.capabilities[name] for name in sorted(plugin.capabilities & target.capabilities.keys())
    }


def configuration(
    conflist: Conflist, plugin: Plugin, target: Target | None = None, previous: bytes | None = None
) -> dict[str, Any]:
    """The request configuration of one plugin; `previous` is the result before it, as JSON."""
    conf = {key: value for key, value in plugin.conf.items() if key != "capabilities"}
    conf |= {"cniVersion": conflist.version, "name": conflist.name}
    for reserved in ("cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "prevResult"):
        conf.pop(reserved, None)
    if target is not None and (offered := runtime_config(plugin, target)):
        conf["runtimeConfig"] = offered
    if previous:
        conf["prevResult"] = msgspec.Raw(previous)
    return conf


def gc_configuration(conflist: Conflist, plugin: Plugin, valid: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The request configuration for GC; `valid` are the (container id, ifname) pairs that live."""
    attachments = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in valid]
    return configuration(conflist, plugin) | {VALID_ATTACHMENTS: attachments}


def environment(command: str, path: Sequence[str], target: Target | None = None) -> dict[str, str]:
    """The whole environment of the plugin: nothing of the daemon's own leaks into it."""
    env = {"PATH": PATH, "CNI_COMMAND": command, "CNI_PATH": ":".join(path)}
    if target is not None:
        env |= {
            "CNI_CONTAINERID": target.container_id,
            "CNI_NETNS": target.netns,
            "CNI_IFNAME": target.ifname,
            "CNI_ARGS": target.args,
        }
    return env
