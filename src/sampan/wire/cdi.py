"""CDI files, JSON or YAML → `model.cdi.Spec` (container-device-interface SPEC.md 0.3.0 to 1.1.0).

A file is taken whole or refused whole: an unknown field, a field that its `cdiVersion` does not have yet, or a
name outside the grammar could change what a container gets. Where files are is not here.
"""

import re
from collections.abc import Iterator

from sampan.model import cdi
from sampan.model.cdi import Edits, Spec
from sampan.model.errors import Invalid
from sampan.wire import strict_json, strict_yaml

LIMIT = 1 << 20  # bytes
SUFFIXES = (".json", ".yaml")
VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
HOOKS = frozenset({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"})
NONE = "none"  # permissions that allow nothing (1.0.0)

_VARIABLE = re.compile(r"[^=\0]+=[^\0]*")


def parse(data: bytes, path: str) -> Spec:
    """The file's devices. Raises Invalid naming `path` and what is wrong."""
    loads = strict_json.loads if path.endswith(".json") else strict_yaml.loads
    spec = strict_json.convert(loads(data, path, LIMIT), Spec, path)
    try:
        _check(spec)
    except ValueError as error:
        raise Invalid(f"{path}: {error}") from None
    return spec


def _check(spec: Spec) -> None:
    version = spec.cdi_version.removeprefix("v")
    if version not in VERSIONS:
        raise ValueError(f"cdiVersion {version[:20]!r} is not one of {', '.join(VERSIONS)}")
    if not cdi.is_kind(spec.kind):
        raise ValueError(f"kind {spec.kind[:80]!r} is not like vendor.com/class")
    if not spec.devices:
        raise ValueError("devices is empty")
    seen: set[str] = set()
    for device in spec.devices:
        if not cdi.is_device(device.name):
            raise ValueError(f"{device.name[:80]!r} is no name for a device")
        if device.name in seen:
            raise ValueError(f"device {device.name} occurs twice")
        seen.add(device.name)
    for edits in _all_edits(spec):
        _check_edits(edits)
    for needed, what in _needs(spec):
        if VERSIONS.index(version) < VERSIONS.index(needed):
            raise ValueError(f"{what} needs cdiVersion {needed}, and this is {version}")


def _all_edits(spec: Spec) -> Iterator[Edits]:
    yield spec.container_edits
    yield from (device.container_edits for device in spec.devices)


def _check_edits(edits: Edits) -> None:
    for variable in edits.env:
        _check_variable(variable, "env")
    for node in edits.device_nodes:
        if node.type not in ("", "b", "c", "u", "p"):
            raise ValueError(f"deviceNodes: {node.path!r} has the unknown type {node.type!r}")
        if node.permissions != NONE and not set(node.permissions) <= set("rwm"):
            raise ValueError(
                f"deviceNodes: {node.path!r} has permissions {node.permissions!r}, not of r, w, m"
            )
    for hook in edits.hooks:
        if hook.hook_name not in HOOKS:
            raise ValueError(f"hooks: {hook.hook_name!r} is not one of {', '.join(sorted(HOOKS))}")
        if any("\0" in argument for argument in hook.args):
            raise ValueError(f"hooks: an argument of {hook.path} holds a NUL byte")
        for variable in hook.env:
            _check_variable(variable, f"the env of hook {hook.path}")
    _check_paths(edits)
    if edits.intel_rdt is not None and not is_class(edits.intel_rdt.clos_id or "/"):
        raise ValueError(f"intelRdt: closID {edits.intel_rdt.clos_id[:80]!r} is no name of a class")


def _check_variable(variable: str, where: str) -> None:
    if not _VARIABLE.fullmatch(variable):
        raise ValueError(f"{where}: {variable[:80]!r} is not NAME=VALUE")


def _check_paths(edits: Edits) -> None:
    """All are absolute and stay where they say: what they name is decided by the file alone."""
    paths = [path for node in edits.device_nodes for path in (node.path, node.host_path or node.path)]
    paths += [path for mount in edits.mounts for path in (mount.host_path, mount.container_path)]
    paths += [hook.path for hook in edits.hooks]
    for path in paths:
        if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
            raise ValueError(f"{path[:200]!r} is not an absolute path without '..'")


def is_class(name: str) -> bool:
    """Whether a class of resctrl may be called so: one file name, or "/", the root's."""
    return name == "/" or re.fullmatch(r"(?!\.{1,2}\Z)[^/\x00-\x1f]{1,255}", name) is not None


def _needs(spec: Spec) -> Iterator[tuple[str, str]]:
    """(version, field) for every field that not all versions have (SPEC.md, "Released versions")."""
    for edits in _all_edits(spec):
        yield from _needs_of(edits)
    if spec.annotations or any(device.annotations for device in spec.devices):
        yield "0.6.0", "annotations"
    if "." in spec.kind.partition("/")[2]:
        yield "0.6.0", "a dot in the class of kind"
    if any(device.name[0].isdigit() for device in spec.devices):
        yield "0.5.0", "a device name that begins with a digit"


def _needs_of(edits: Edits) -> Iterator[tuple[str, str]]:
    rdt = edits.intel_rdt
    if edits.net_devices:
        yield "1.1.0", "netDevices"
    if rdt is not None:
        yield "0.7.0", "intelRdt"
        if rdt.schemata or rdt.enable_monitoring:
            yield "1.1.0", "intelRdt.schemata or enableMonitoring"
    if edits.additional_gids:
        yield "0.7.0", "additionalGids"
    if any(node.host_path for node in edits.device_nodes):
        yield "0.5.0", "deviceNodes.hostPath"
    if any(mount.type for mount in edits.mounts):
        yield "0.4.0", "mounts.type"
