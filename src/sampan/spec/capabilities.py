"""Capabilities (capabilities(7)): the default set, what the request adds and drops, and what that makes of each set."""

from collections.abc import Iterable

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec.facts import Host
from sampan.spec.text import shown

# In the kernel's order (linux/capability.h), which is the order of every list we emit.
KNOWN = tuple(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
        "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)

DEFAULT = frozenset(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT "
        "KILL AUDIT_WRITE"
    ).split()
)

ALL = "ALL"


def bounding(context: cri.LinuxContainerSecurityContext, host: Host) -> tuple[str, ...]:
    """The capabilities a container may ever have: all of the host's if privileged, else the default set, with what is
    added, without what is dropped; ALL on either side comes before single names. Raises Invalid for an unknown name
    and for one that is added but not this host's to give."""
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
