"""Everything that can be refused before any effect; every message names the field at fault.

What a builder of this package would refuse it refuses here too, by the same code; the rest is checked only
here. Enum values that this version of the CRI does not know are refused, never taken for the default.
"""

import ipaddress
import re
from collections.abc import Mapping

from sampan.api import cri_pb2 as cri
from sampan.model import signals, user
from sampan.model.errors import Invalid
from sampan.spec import (
    capabilities,
    devices,
    dns,
    io_classes,
    mounts,
    namespaces,
    process,
    resources,
    security,
    sysctls,
    text,
    userns,
)
from sampan.spec.facts import Host
from sampan.spec.security import localhost_profile as localhost_profile

MAX_HOSTNAME = 64  # bytes, uname(2)
MAX_METADATA = 1 << 20  # bytes of all labels and annotations; Kubernetes allows 256 KiB of annotations
MAX_FILE_NAME = 255

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")  # RFC 1123
# Names become CNI arguments ("K8S_POD_NAME=x;K8S_POD_UID=y") and words of log lines, never paths.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,252}")
_UID = re.compile(r"[A-Za-z0-9_.:-]{0,253}")
_SLICE = re.compile(r"[A-Za-z0-9:_.\\@-]{1,249}\.slice")


# --- pods -----------------------------------------------------------------------------------------


def check_pod(config: cri.PodSandboxConfig, host: Host) -> None:
    """Raise Invalid if no pod can be made of this config on this host."""
    _check_metadata(config)
    _check_hostname(config.hostname)
    _check_log_directory(config.log_directory)
    dns.check(config.dns_config)
    for number, mapping in enumerate(config.port_mappings):
        _check_port(mapping, f"port_mappings[{number}]")
    _check_size(config.labels, config.annotations)
    if config.HasField("windows"):
        raise Invalid("windows is set; this runtime runs Linux pods")
    _check_cgroup_parent(config.linux.cgroup_parent, host)
    context = config.linux.security_context
    namespaces.check_pod(context.namespace_options)
    userns.check_host(context.namespace_options, host)
    user.check(context)
    security.check_pod(context)
    sysctls.resolved(config)


def hostname(config: cri.PodSandboxConfig, node: str) -> str:
    """The pod's host name: the node's with the host's network, else the one asked for, else the node's."""
    if config.linux.security_context.namespace_options.network == cri.NODE:
        return node
    return config.hostname or node


def _check_metadata(config: cri.PodSandboxConfig) -> None:
    if not config.HasField("metadata"):
        raise Invalid("metadata is missing")
    _matches(_NAME, config.metadata.name, "metadata.name")
    _matches(_UID, config.metadata.namespace, "metadata.namespace")
    _matches(_UID, config.metadata.uid, "metadata.uid")


def _check_hostname(name: str) -> None:
    if name and (len(name) > MAX_HOSTNAME or not _HOSTNAME.fullmatch(name)):
        raise Invalid(
            f"hostname {text.shown(name)} is not a host name of at most {MAX_HOSTNAME} bytes (RFC 1123)"
        )


def _check_log_directory(directory: str) -> None:
    """conmon cuts a log path at a colon."""
    if directory and (text.path(directory, "log_directory") == "/" or ":" in directory):
        raise Invalid(f"log_directory {text.shown(directory)} cannot hold logs")


def _check_port(mapping: cri.PortMapping, field: str) -> None:
    if mapping.protocol not in cri.Protocol.values():
        raise Invalid(f"{field}.protocol {mapping.protocol} is unknown")
    if not 1 <= mapping.container_port <= 65535:
        raise Invalid(f"{field}.container_port {mapping.container_port} is not in 1 to 65535")
    if not 0 <= mapping.host_port <= 65535:
        raise Invalid(f"{field}.host_port {mapping.host_port} is not in 0 to 65535")
    try:
        if mapping.host_ip:
            if "%" in mapping.host_ip:  # a zone, which ipaddress does not look into
                raise ValueError
            ipaddress.ip_address(mapping.host_ip)
    except ValueError:
        raise Invalid(f"{field}.host_ip {text.shown(mapping.host_ip)} is not an IP address") from None


def _check_cgroup_parent(parent: str, host: Host) -> None:
    """A path (/kubepods/burstable/pod1) or, for systemd, a slice, alone or at the end of its path."""
    if not parent:
        return
    field = "linux.cgroup_parent"
    text.word(parent, field)
    if "/" in parent:
        text.path(parent, field)
    elif not _SLICE.fullmatch(parent):
        raise Invalid(f"{field} {text.shown(parent)} is neither an absolute path nor a systemd slice")
    if host.systemd_cgroup and not _SLICE.fullmatch(parent.rstrip("/").rpartition("/")[2]):
        raise Invalid(
            f"{field} {text.shown(parent)} must end in a .slice: the cgroup driver of this node is systemd"
        )


# --- containers -----------------------------------------------------------------------------------


def check_container(config: cri.ContainerConfig, pod: cri.PodSandboxConfig, host: Host) -> None:
    """Raise Invalid (or RROUnsupported) if no container can be made of this config in this pod on this
    host."""
    if not config.HasField("metadata"):
        raise Invalid("metadata is missing")
    _matches(_NAME, config.metadata.name, "metadata.name")
    if not config.image.image:
        raise Invalid("image.image is empty")
    if config.HasField("windows"):
        raise Invalid("windows is set; this runtime runs Linux containers")
    _check_size(config.labels, config.annotations)
    log_path(config, pod)
    signals.number(config.stop_signal, "")
    process.requested_environment(config)
    process.directory(config.working_dir)
    process.oom_score_adj(config.linux.resources, host)
    mounts.check(config, pod, host)
    devices.check(config)
    io_classes.block_io_class(config, pod)
    io_classes.rdt_class(config, pod)
    resources.build(config.linux.resources, host)
    _check_security(config, pod, host)


def _check_security(config: cri.ContainerConfig, pod: cri.PodSandboxConfig, host: Host) -> None:
    context, of_pod = config.linux.security_context, pod.linux.security_context
    if context.privileged and not of_pod.privileged:
        raise Invalid("linux.security_context.privileged: a privileged container needs a privileged pod")
    user.check(context)
    namespaces.check_container(context.namespace_options, of_pod.namespace_options)
    capabilities.sets(context, host)
    security.check(config, host)


def log_path(config: cri.ContainerConfig, pod: cri.PodSandboxConfig) -> str:
    """The container's absolute log path, checked; "" if it has none (no log_directory or no log_path)."""
    if not config.log_path:
        return ""
    relative = config.log_path
    text.word(relative, "log_path")
    parts = relative.split("/")
    if ":" in relative or any(
        part in ("", ".", "..") or len(part.encode()) > MAX_FILE_NAME for part in parts
    ):
        raise Invalid(f"log_path {text.shown(relative)} is not a plain relative path")
    if not pod.log_directory:
        return ""
    return f"{text.path(pod.log_directory, 'log_directory')}/{relative}"


def _matches(pattern: re.Pattern[str], value: str, field: str) -> None:
    if not pattern.fullmatch(value):
        raise Invalid(
            f"{field} {text.shown(value)} is empty, too long or has characters other than A-Z a-z 0-9 _ . : -"
        )


def _check_size(labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
    size = sum(len(key) + len(value) for table in (labels, annotations) for key, value in table.items())
    if size > MAX_METADATA:
        raise Invalid(f"labels and annotations have {size} bytes in all; the limit is {MAX_METADATA}")
