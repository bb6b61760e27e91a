"""CDI: the devices that a request names, and what their edits do to a config.json (container-device-interface
SPEC.md, "OCI Edits").

The edits come from files that only root writes; even so each is checked again where it enters the config.
"""

from collections.abc import Iterable
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model import cdi
from sampan.model.cdi import Edits, Given, Hook, Mount, Node, Rdt
from sampan.model.errors import Invalid
from sampan.spec import mounts, text, userns
from sampan.spec.facts import ContainerFacts, DeviceNode

ANNOTATION = "cdi.k8s.io/"  # prefix; the value is names with commas between
# A hook without an environment of its own would get the OCI runtime's, which some have mixed with the
# container's by then (CVE-2025-23266).
HOOK_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_BIND = frozenset({"bind", "rbind"})
_PROPAGATION = frozenset(
    f"{depth}{kind}" for depth in ("", "r") for kind in ("private", "slave", "shared", "unbindable")
)


def names(config: cri.ContainerConfig) -> tuple[str, ...]:
    """The devices asked for, by field and by annotation, each once. Raises Invalid for what is no full name."""
    found: dict[str, None] = {}
    for number, device in enumerate(config.CDI_devices):
        found[_checked(device.name, f"CDI_devices[{number}].name")] = None
    for key, value in sorted(config.annotations.items()):
        if key.startswith(ANNOTATION):
            found |= dict.fromkeys(_checked(name, f"annotation {key}") for name in value.split(","))
    return tuple(found)


def _checked(name: str, field: str) -> str:
    if not cdi.qualified(name):
        raise Invalid(f"{field}: {text.shown(name)} is not a CDI device's full name, vendor.com/class=name")
    return name


def host_devices(given: Iterable[Given]) -> tuple[str, ...]:
    """The host paths whose nodes `apply` needs in `ContainerFacts.device_nodes`."""
    return tuple(sorted({node.host_path or node.path for each in given for node in each.edits.device_nodes}))


def host_mounts(given: Iterable[Given]) -> tuple[str, ...]:
    """The host paths whose `Source` it needs in `ContainerFacts.sources`."""
    mounts = [mount for each in given for mount in each.edits.mounts]
    return tuple(sorted({mount.host_path for mount in mounts if _binds(mount)}))


def wants_rdt(given: Iterable[Given]) -> bool:
    """Whether any of it is about Resource Director Technology."""
    return any(each.edits.intel_rdt is not None for each in given)


def apply(spec: dict[str, Any], facts: ContainerFacts) -> None:
    """Make the edits of `facts.cdi` in this config.json. Raises Invalid naming the file whose wish cannot be met."""
    for given in facts.cdi:
        try:
            _Editor(spec, facts).apply(given.edits)
        except Invalid as error:
            raise Invalid(f"CDI file {given.origin}: {error}") from None


class _Editor:
    def __init__(self, spec: dict[str, Any], facts: ContainerFacts) -> None:
        self._spec = spec
        self._linux = spec["linux"]
        self._facts = facts
        self._user = spec["process"]["user"]
        self._maps = userns.mappings(facts.pod.config.linux.security_context.namespace_options)

    def apply(self, edits: Edits) -> None:
        if edits.net_devices:
            raise Invalid("netDevices: moving network interfaces into a container is not available")
        self._environment(edits.env)
        for node in edits.device_nodes:
            self._device(node)
        for mount in edits.mounts:
            self._mount(mount)
        for hook in edits.hooks:
            self._hook(hook)
        self._groups(edits.additional_gids)
        if edits.intel_rdt is not None:
            self._rdt(edits.intel_rdt)

    def _environment(self, variables: tuple[str, ...]) -> None:
        env: list[str] = self._spec["process"]["env"]
        for variable in variables:
            name = variable.partition("=")[0] + "="
            env[:] = [other for other in env if not other.startswith(name)]
            env.append(variable)

    def _groups(self, added: tuple[int, ...]) -> None:
        for gid in added:
            userns.check_id("group", gid, self._maps, f"additionalGids: group {gid}")
        groups = self._user["additionalGids"]
        groups += [gid for gid in dict.fromkeys(added) if gid and gid not in groups]

    # --- devices ----------------------------------------------------------------------------------

    def _device(self, node: Node) -> None:
        path = text.path(node.path, "deviceNodes.path")
        if path in ("/", "/dev"):
            raise Invalid(f"deviceNodes.path {path} is no place for a device")
        entry = {"path": path, "hostPath": node.host_path or path, **self._kind(node), **self._owner(node)}
        devices: list[dict[str, Any]] = self._linux.setdefault("devices", [])
        devices[:] = [other for other in devices if other["path"] != path]
        devices.append(entry)
        rules: list[dict[str, Any]] = self._linux["resources"]["devices"]
        all_allowed = rules[0]["allow"]  # the first says what holds for every device
        if entry["type"] != "p" and node.permissions != "none" and not all_allowed:
            rule = {key: entry[key] for key in ("type", "major", "minor")}
            rules.append({"allow": True, **rule, "access": node.permissions or "rwm"})

    def _kind(self, node: Node) -> dict[str, Any]:
        """type, numbers and mode: as the file says, else as the device on the host is."""
        kind = "c" if node.type == "u" else node.type
        host = self._on_host(node)
        mode = node.file_mode if node.file_mode is not None else host.mode if host else None
        told = {} if mode is None else {"fileMode": mode}
        if kind == "p":
            return {"type": kind, **told}
        if kind and node.major:
            return {"type": kind, "major": node.major, "minor": node.minor or 0, **told}
        if host is None:
            raise Invalid(f"deviceNodes: {node.host_path or node.path} is not a device on this host")
        if kind not in ("", host.kind):
            raise Invalid(f"deviceNodes: {host.path} is of type {host.kind} on this host, not {kind}")
        return {"type": host.kind, "major": host.major, "minor": host.minor, **told}

    def _on_host(self, node: Node) -> DeviceNode | None:
        path = node.host_path or node.path
        return next((each for each in self._facts.device_nodes.get(path, ()) if each.path == path), None)

    def _owner(self, node: Node) -> dict[str, int]:
        """The container's user, where the file names no other: the device is there to be used by it."""
        userns.check_id("user", node.uid or 0, self._maps, f"deviceNodes.uid {node.uid}")
        userns.check_id("group", node.gid or 0, self._maps, f"deviceNodes.gid {node.gid}")
        return {
            "uid": self._user["uid"] if node.uid is None else node.uid,
            "gid": self._user["gid"] if node.gid is None else node.gid,
        }

    # --- mounts, hooks, RDT -----------------------------------------------------------------------

    def _mount(self, mount: Mount) -> None:
        target = text.path(mount.container_path, "mounts.containerPath")
        if target == "/":
            raise Invalid("mounts.containerPath: the root itself cannot be mounted over")
        options = [text.word(option, "mounts.options") for option in mount.options]
        kind, path = text.word(mount.type, "mounts.type"), mount.host_path
        if _binds(mount):
            source = self._facts.sources.get(path)
            if source is None:
                raise Invalid(f"mounts.hostPath {text.shown(path)} does not exist on this host")
            kind, path = "bind", source.path
            if "rbind" in options:
                mounts.check_submounts(f"mounts.hostPath {text.shown(mount.host_path)}", source, self._facts)
            options += [] if _BIND & set(options) else ["bind"]
            options += [] if _PROPAGATION & set(options) else ["rprivate"]
            options += [flag for flag in source.locked_flags if flag not in options]
        _put(self._spec["mounts"], {"destination": target, "type": kind, "source": path, "options": options})

    def _hook(self, hook: Hook) -> None:
        entry: dict[str, Any] = {
            "path": text.path(hook.path, "hooks.path"),
            "args": list(hook.args or (hook.path,)),
            "env": list(hook.env or (HOOK_ENV,)),
        }
        if hook.timeout is not None:
            entry["timeout"] = hook.timeout
        self._spec.setdefault("hooks", {}).setdefault(hook.hook_name, []).append(entry)

    def _rdt(self, rdt: Rdt) -> None:
        if not self._facts.resctrl:
            raise Invalid(
                "intelRdt: resctrl is not mounted on this host (mount -t resctrl resctrl /sys/fs/resctrl)"
            )
        if rdt.schemata or rdt.enable_monitoring:
            raise Invalid("intelRdt: schemata and enableMonitoring are not available")
        wanted = {
            "closID": rdt.clos_id,
            "l3CacheSchema": rdt.l3_cache_schema,
            "memBwSchema": rdt.mem_bw_schema,
        }
        section = {name: value for name, value in wanted.items() if value}
        there = self._linux.get("intelRdt", section)
        if there != section:
            raise Invalid(
                f"intelRdt: {section} is wanted where {there} is already; a container has one class"
            )
        if section:
            self._linux["intelRdt"] = section


def _put(built: list[dict[str, Any]], added: dict[str, Any]) -> None:
    """In place of the one that is there, else before those that it would hide."""
    places = [mount["destination"] for mount in built]
    if added["destination"] in places:
        built[places.index(added["destination"])] = added
    else:
        mounts.insert(built, added)


def _binds(mount: Mount) -> bool:
    return mount.type in ("", "bind", "none") or bool(_BIND & set(mount.options))
