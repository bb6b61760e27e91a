"""Capabilities (capabilities(7)): the default set, what the request adds and drops, and what that makes of
each set."""

from collections.abc import Iterable

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec.facts import Host
from sampan.spec.text import shown

# In the kernel's order (linux/capability.h), which is the order of every list we emit.
# fmt: off
KNOWN = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)
DEFAULT = frozenset((
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
    "CAP_SYS_CHROOT",
))
# fmt: on

ALL = "ALL"


def bounding(context: cri.LinuxContainerSecurityContext, host: Host) -> tuple[str, ...]:
    """The capabilities a container may ever have: all of the host's if privileged, else the default set, with
    what is added, without what is dropped; ALL on either side comes before single names. Raises Invalid for
    an unknown name and for one that is added but not this host's to give."""
    asked = context.capabilities
    add, ambient = _names(asked.add_capabilities, host), _names(asked.add_ambient_capabilities, host)
    drop = _names(asked.drop_capabilities, host)
    given = frozenset(host.capabilities)
    if context.privileged:
        return _ordered(given)
    chosen = DEFAULT & given
    if ALL in add:
        chosen = given
    if ALL in drop:
        chosen = frozenset()
    wanted = (add | ambient) - {ALL} - drop
    if missing := wanted - given:
        raise Invalid(f"capabilities.add_capabilities: this host cannot give {', '.join(sorted(missing))}")
    return _ordered((chosen | wanted) - drop)


def sets(context: cri.LinuxContainerSecurityContext, host: Host) -> dict[str, list[str]]:
    """The `process.capabilities` object.

    Inheritable stays empty (CVE-2022-24769), but for ambient capabilities: the kernel raises none that is not
    inheritable, and they are what lets a process that is not root keep a capability across execve.
    """
    chosen = list(bounding(context, host))
    result = {"bounding": chosen, "effective": chosen, "permitted": chosen}
    asked = _names(context.capabilities.add_ambient_capabilities, host)
    ambient = [name for name in chosen if ALL in asked or name in asked]
    if ambient:
        result |= {"inheritable": ambient, "ambient": ambient}
    return result


def _names(names: Iterable[str], host: Host) -> frozenset[str]:
    return frozenset(_name(name, host) for name in names)


def _name(name: str, host: Host) -> str:
    """CRI names have no prefix (NET_ADMIN); people write it all the same, and in any case."""
    upper = name.upper() if name.isascii() else name
    if upper == ALL:
        return ALL
    full = "CAP_" + upper.removeprefix("CAP_")
    if full not in KNOWN and full not in host.capabilities:
        raise Invalid(f"linux.security_context.capabilities: {shown(name)} is not a capability")
    return full


def _ordered(names: frozenset[str]) -> tuple[str, ...]:
    newer = sorted(names.difference(KNOWN))
    return (*(name for name in KNOWN if name in names), *newer)
