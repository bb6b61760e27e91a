"""A pod's sysctls: those asked for, if they are the pod's own namespaces' (CVE-2022-0811, CVE-2022-0532), and
ours."""

import re

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec import namespaces, userns
from sampan.spec.text import shown

# So that a pod's process needs no capability to listen on port 80 or to ping; both touch the pod's own
# network only.
DEFAULTS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}

MAX_SYSCTLS = 256
MAX_VALUE = 1024  # bytes

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_/-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_PART}(?:\.{_PART})+")
# No '+', '=' or '|': no number, list or name that a namespaced sysctl takes has them.
_VALUE = re.compile(r"[0-9A-Za-z_.,:/-]+(?:[ \t]+[0-9A-Za-z_.,:/-]+)*")
_OF_IPC = re.compile(r"kernel\.(?:sem|sem_next_id|(?:shm|msg)[a-z_]*)|fs\.mqueue\.[a-z_]+")
_OF_NET = re.compile(r"net\..+")


def resolved(config: cri.PodSandboxConfig) -> dict[str, str]:
    """Name to value, our defaults included. Names are dotted, a slash standing for a dot within a part, as
    sysctl(8) has it (net.ipv4.conf.eth0/1.forwarding). Raises Invalid for one that is malformed or not the
    pod's own."""
    owned = namespaces.owned(config.linux.security_context.namespace_options)
    asked = config.linux.sysctls
    if len(asked) > MAX_SYSCTLS:
        raise Invalid(f"linux.sysctls has {len(asked)} entries; the limit is {MAX_SYSCTLS}")
    result = dict(DEFAULTS) if "net" in owned else {}
    seen: set[str] = set()
    for given, value in sorted(asked.items()):
        name = _dotted(given)
        if name in seen:
            raise Invalid(f"linux.sysctls: {name} is given twice, with dots and with slashes")
        seen.add(name)
        _check_owner(name, owned)
        if len(value) > MAX_VALUE or not _VALUE.fullmatch(value):
            raise Invalid(f"linux.sysctls: {shown(value)} is no value for {name}")
        result[name] = value
    return userns.sysctls(result, seen, userns.mappings(config.linux.security_context.namespace_options))


def _dotted(name: str) -> str:
    """Whichever of dot and slash comes first separates, the other is part of a name (sysctl(8))."""
    first = next((letter for letter in name if letter in "./"), "")
    dotted = name.translate(str.maketrans("./", "/.")) if first == "/" else name
    if not _NAME.fullmatch(dotted) or len(name) > MAX_VALUE:
        raise Invalid(f"linux.sysctls: {shown(name)} is not the name of a sysctl")
    return dotted


def _check_owner(name: str, owned: frozenset[str]) -> None:
    for pattern, namespace, mode in ((_OF_IPC, "ipc", "ipc"), (_OF_NET, "net", "network")):
        if pattern.fullmatch(name):
            if namespace not in owned:
                raise Invalid(
                    f"linux.sysctls: {name} would change the host: the pod has the host's {mode} namespace"
                )
            return
    raise Invalid(f"linux.sysctls: {name} is not namespaced; it would change the whole host")
