"""A container's device nodes and its device cgroup rules.

/dev/null, zero, full, random, urandom, tty, ptmx and console come from the OCI runtime (runtime-spec
config-linux.md#default-devices), with the rules that allow them.
"""

from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec import cdi, text, userns
from sampan.spec.facts import ContainerFacts, DeviceNode

DENY_ALL = {"allow": False, "access": "rwm"}
ALLOW_ALL = {"allow": True, "access": "rwm"}

# Of a device on its way into config.json: what the OCI has no fields for.
HOST_PATH = "hostPath"
_SHARED = "shared"  # it has to be the host's own file

# Of a privileged container too: mounts of its own, or what the OCI runtime makes.
_DEFAULTS = frozenset(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty"))
_OWN = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx")


def host_paths(config: cri.ContainerConfig) -> tuple[str, ...]:
    """The host paths whose nodes the builder needs in `ContainerFacts.device_nodes` (a directory: all beneath
    it)."""
    return tuple(sorted({device.host_path for device in config.devices}))


def check(config: cri.ContainerConfig) -> None:
    """Raise Invalid for what is wrong with the devices whatever the host has."""
    for number, device in enumerate(config.devices):
        _places(device, f"devices[{number}]")
    cdi.names(config)


def build(facts: ContainerFacts) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(`linux.devices`, `linux.resources.devices`); `place` has to go over the config when all devices are in it."""
    check(facts.config)
    nodes, rules = _brought_along(facts)
    all_allowed = rules[0]["allow"]
    asked: set[str] = set()
    for number, device in enumerate(facts.config.devices):
        for node, path in _resolved(device, f"devices[{number}]", facts):
            if path in asked:
                raise Invalid(f"devices[{number}]: two devices would be {text.shown(path)} in the container")
            asked.add(path)
            nodes[path] = _node(node, path) | _owner(facts)
            if not all_allowed:
                rules.append(_rule(node, device.permissions))
    return list(nodes.values()), rules


def _brought_along(facts: ContainerFacts) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The devices that nobody named, by path, and the rules to begin with: a privileged container has all.

    In a user namespace its root must not be more than anybody else on the host: a device of its own making would be
    its own, so it gets the host's files, of those that all users of the host may open.
    """
    if not (facts.config.linux.security_context.privileged and facts.host.privileged_devices):
        return {}, [DENY_ALL]
    found = [node for node in facts.host_devices if not _is_own(node.path)]
    if userns.mappings(facts.pod.config.linux.security_context.namespace_options) is None:
        return {node.path: _node(node, node.path) for node in found}, [ALLOW_ALL]
    open_to_all = [node for node in found if _everybodys(node) and node.path not in _DEFAULTS]
    nodes = {node.path: _node(node, node.path) | {_SHARED: True} for node in open_to_all}
    return nodes, [DENY_ALL, *(_rule(node, _everybodys(node)) for node in open_to_all)]


def _everybodys(node: DeviceNode) -> str:
    """How users who are neither the owner nor in the group may open it."""
    return "r" * bool(node.mode & 0o004) + "w" * bool(node.mode & 0o002)


def place(spec: dict[str, Any], facts: ContainerFacts) -> None:
    """Take what is not the OCI's out of every device of a config.json.

    Nobody can make devices in a user namespace, but crun has a process outside it make them as it is told. For runc,
    which binds the host's device of the same path, one whose path is another becomes a mount of the right one.
    """
    own_users = userns.mappings(facts.pod.config.linux.security_context.namespace_options) is not None
    devices: list[dict[str, Any]] = spec["linux"].get("devices", [])
    for device in list(devices):
        host, shared = device.pop(HOST_PATH), device.pop(_SHARED, False)
        elsewhere = facts.host.binds_devices and host != device["path"]
        if own_users and (shared or elsewhere) and device["type"] != "p":
            devices.remove(device)
            mount = {"destination": device["path"], "type": "bind", "source": host}
            spec["mounts"].append({**mount, "options": ["bind", "rprivate", "nosuid", "noexec"]})
    if not devices:
        spec["linux"].pop("devices", None)


def _places(device: cri.Device, field: str) -> tuple[str, str]:
    """The device's canonical paths on the host and in the container."""
    host = text.path(device.host_path, f"{field}.host_path")
    inside = text.path(device.container_path or device.host_path, f"{field}.container_path")
    if inside in ("/", "/dev") or any(text.beneath(inside + "/", root) for root in ("/proc", "/sys")):
        raise Invalid(f"{field}.container_path {text.shown(inside)} is no place for a device")
    permissions = device.permissions
    if not permissions or not set(permissions) <= set("rwm") or len(set(permissions)) != len(permissions):
        raise Invalid(f"{field}.permissions {text.shown(permissions)}: give one or more of r, w and m")
    return host, inside


def _resolved(device: cri.Device, field: str, facts: ContainerFacts) -> list[tuple[DeviceNode, str]]:
    """The nodes of one requested device, each with its path in the container; several if it is a
    directory."""
    host, inside = _places(device, field)
    nodes = facts.device_nodes.get(device.host_path, ())
    if not nodes:
        raise Invalid(
            f"{field}.host_path {text.shown(host)} is not a device on this host, nor a directory of devices in /dev"
        )
    return [
        (node, inside + node.path.removeprefix(host) if text.beneath(node.path, host) else inside)
        for node in nodes
    ]


def _node(node: DeviceNode, path: str) -> dict[str, Any]:
    return {
        "path": path,
        HOST_PATH: node.path,
        "type": node.kind,
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    }


def _owner(facts: ContainerFacts) -> dict[str, int]:
    """Whom a requested device belongs to if not to the host's owner: the request's user and group, where the
    node is configured so. Both peers leave 0 as it is."""
    context = facts.config.linux.security_context
    ids = {"uid": context.run_as_user.value, "gid": context.run_as_group.value}
    return {name: id for name, id in ids.items() if id} if facts.device_ownership else {}


def _rule(node: DeviceNode, access: str) -> dict[str, Any]:
    return {"allow": True, "type": node.kind, "major": node.major, "minor": node.minor, "access": access}


def _is_own(path: str) -> bool:
    return any(path == own or text.beneath(path, own) for own in _OWN)
