"""A container's mounts: the default ones, the pod's shared files, those of the request, and its image's VOLUMEs.

The OCI runtime does the mounting, in the order of the list. Shallow paths come first, so that no mount hides
another; what the request mounts replaces what we would have mounted there. VOLUMEs come before the request's
mounts whatever their depth: a link in the image cannot make one of them cover a user's data.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid, RROUnsupported
from sampan.spec import namespaces, text, userns, volumes
from sampan.spec.facts import ContainerFacts, Host, Source

Mount = dict[str, Any]

PROPAGATION = {
    cri.PROPAGATION_PRIVATE: "rprivate",
    cri.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    cri.PROPAGATION_BIDIRECTIONAL: "rshared",
}
# What the mount that a source lies on must be for that (mount_namespaces(7)).
NEEDS = {
    cri.PROPAGATION_PRIVATE: ("private", "slave", "shared"),
    cri.PROPAGATION_HOST_TO_CONTAINER: ("slave", "shared"),
    cri.PROPAGATION_BIDIRECTIONAL: ("shared",),
}
OPTIONS = ("nodev", "noexec", "nosuid")  # all that `mount_options` may hold: each only takes away
IMAGE_FLAGS = (
    "nodev",
    "nosuid",
)  # of every image volume; its programs may run, unless `mount_options` say noexec
MAX_RANGES = 340  # lines of an id map, user_namespaces(7)

# Files in /proc that may be replaced in an unprivileged container (lxcfs does); any other could blind a check
# of ours or of the kernel's (CVE-2019-16884, CVE-2019-19921).
PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime")
)


def host_paths(config: cri.ContainerConfig) -> tuple[str, ...]:
    """The host paths whose `Source` the builder needs in `ContainerFacts.sources`."""
    return tuple(sorted({mount.host_path for mount in config.mounts if mount.host_path}))


def check(config: cri.ContainerConfig, pod: cri.PodSandboxConfig, host: Host) -> None:
    """Raise for what is wrong with the request's mounts whatever the host's directories are."""
    privileged = config.linux.security_context.privileged
    maps = userns.mappings(pod.linux.security_context.namespace_options)
    seen: set[str] = set()
    for number, mount in enumerate(config.mounts):
        field = f"mounts[{number}]"
        target = _target(mount, field, privileged)
        if target in seen:
            raise Invalid(f"{field}.container_path {text.shown(target)} is mounted twice")
        seen.add(target)
        _source_path(mount, field)
        _idmaps(mount, field, maps)
        _options(mount, field, host)


def build(facts: ContainerFacts) -> list[Mount]:
    """The `mounts` array. Raises Invalid naming the host path that is missing or has the wrong
    propagation."""
    check(facts.config, facts.pod.config, facts.host)
    asked = [_bind(mount, number, facts) for number, mount in enumerate(facts.config.mounts)]
    taken = {mount["destination"] for mount in asked}
    shared = [mount for mount in _pod_files(facts) if mount["destination"] not in taken]
    return [*_defaults(facts, taken), *_shallow_first(_declared(facts)), *_shallow_first([*shared, *asked])]


def rootfs_propagation(config: cri.ContainerConfig) -> str:
    """`linux.rootfsPropagation`: as open as the most open mount needs it; "" where none does."""
    asked = {mount.propagation for mount in config.mounts}
    if cri.PROPAGATION_BIDIRECTIONAL in asked:
        return "rshared"
    return "rslave" if cri.PROPAGATION_HOST_TO_CONTAINER in asked else ""


# --- ours -----------------------------------------------------------------------------------------


def _defaults(facts: ContainerFacts, taken: set[str]) -> list[Mount]:
    """Those of the OCI (config-linux.md#default-filesystems), but where the request mounts there or over
    it."""
    roots = taken & {"/proc", "/dev", "/sys"}
    return [
        mount
        for mount in _file_systems(facts)
        if mount["destination"] not in taken
        and not any(text.beneath(mount["destination"], root) for root in roots)
    ]


def _file_systems(facts: ContainerFacts) -> list[Mount]:
    access = "rw" if facts.config.linux.security_context.privileged else "ro"
    tight = ["nosuid", "noexec", "nodev"]
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    return [
        _mount("/proc", "proc", "proc", tight),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", terminals),
        _mount("/dev/mqueue", "mqueue", "mqueue", tight),
        _mount("/sys", "sysfs", "sysfs", [*tight, access]),
        _cgroups(facts, [*tight, "relatime", access]),
    ]


def _cgroups(facts: ContainerFacts, options: list[str]) -> Mount:
    """A privileged container on cgroup v2 is in the host's cgroup namespace. Mounting cgroup2 anew there
    would set the options of the host's one superblock (and lose nsdelegate), so it gets the host's mount
    itself."""
    if facts.host.cgroup_v2 and facts.config.linux.security_context.privileged:
        return _mount("/sys/fs/cgroup", "bind", "/sys/fs/cgroup", ["rbind", "rprivate", *options])
    return _mount("/sys/fs/cgroup", "cgroup", "cgroup", options)


def _pod_files(facts: ContainerFacts) -> list[Mount]:
    """What the containers of a pod share. An absent file ("") is not mounted; /dev/shm is the host's with its
    IPC."""
    pod = facts.pod
    access = "ro" if facts.config.linux.security_context.readonly_rootfs else "rw"
    files = (
        ("/etc/resolv.conf", pod.resolv_conf),
        ("/etc/hostname", pod.hostname_file),
        ("/etc/hosts", pod.hosts_file),
    )
    tight = ["rprivate", "nosuid", "noexec", "nodev"]
    mounts = [_mount(path, "bind", source, ["bind", *tight, access]) for path, source in files if source]
    mounts.append(_mount("/dev/shm", "bind", pod.shm or "/dev/shm", ["rbind", *tight, "rw"]))
    return mounts


def _declared(facts: ContainerFacts) -> list[Mount]:
    """The image's VOLUMEs, each a directory of the container's own: writable whatever the root is."""
    for target in facts.volumes:
        volumes.check_destination(target)
    return [
        _mount(target, "bind", source, ["rbind", "rprivate", "rw"])
        for target, source in facts.volumes.items()
    ]


# --- the request's --------------------------------------------------------------------------------


def _bind(mount: cri.Mount, number: int, facts: ContainerFacts) -> Mount:
    field = f"mounts[{number}]"
    target = _target(mount, field, facts.config.linux.security_context.privileged)
    if volumes.is_image(mount):
        return _image(mount, number, target, facts)
    source = facts.sources.get(mount.host_path)
    if source is None:
        raise Invalid(f"{field}.host_path {text.shown(mount.host_path)} does not exist on this host")
    _check_propagation(mount, field, source)
    check_submounts(f"{field}.host_path {text.shown(mount.host_path)}", source, facts)
    options = ["rbind", PROPAGATION[mount.propagation], *_options(mount, field, facts.host)]
    # The OCI runtime's remount would clear the flags that hold on the source, such as nosuid.
    options += [flag for flag in source.locked_flags if flag not in options]
    return _mount(target, "bind", source.path, options) | _mapped(mount, field, facts)


def _mapped(mount: cri.Mount, field: str, facts: ContainerFacts) -> dict[str, Any]:
    """Where the ids are the container's own, crun 1.8 maps the mount by the user namespace of a process that it
    started; in a PID namespace that others made it takes that too early, and for the host's. For any other list it
    makes a namespace of just those ids, so such containers get the same ids in two ranges."""
    own = facts.config.linux.security_context.namespace_options
    pods = facts.pod.config.linux.security_context.namespace_options
    ids = _idmaps(mount, field, userns.mappings(pods))
    if not namespaces.joins_pid(own, pods):
        return ids
    return {kind: _in_two(*ranges) for kind, ranges in ids.items()}


def _in_two(first: dict[str, int], *others: dict[str, int]) -> list[dict[str, int]]:
    """The same ids in more than one range, but for a single id."""
    if others or first["size"] == 1:
        return [first, *others]
    half = first["size"] // 2
    start = {name: id + half for name, id in first.items() if name != "size"}
    return [{**first, "size": half}, {**start, "size": first["size"] - half}]


def _image(mount: cri.Mount, number: int, target: str, facts: ContainerFacts) -> Mount:
    """What the image shows is mounted on the host already, with its ids mapped where the pod has a user
    namespace: the flags of that mount are said again, because the OCI runtime's remount would clear them."""
    options = ["rbind", "rprivate", *_options(mount, f"mounts[{number}]", facts.host)]
    options += [flag for flag in IMAGE_FLAGS if flag not in options]
    return _mount(target, "bind", facts.image_mounts[number], options)


def check_submounts(what: str, source: Source, facts: ContainerFacts) -> None:
    """Raise Invalid where the OCI runtime would leave out what is mounted beneath a source, and tell nobody: what
    the container wrote there would be hidden under the host's mount."""
    options = facts.pod.config.linux.security_context.namespace_options
    if source.submounts and not facts.host.keeps_submounts and userns.mappings(options):
        raise Invalid(
            f"{what} has other mounts beneath it, which crun of this version would leave out in a pod with a user "
            "namespace: use crun 1.21 or newer, or mount a directory without any, and what is beneath it apart"
        )


def _check_propagation(mount: cri.Mount, field: str, source: Source) -> None:
    if source.propagation not in NEEDS[mount.propagation]:
        needed = " or ".join(NEEDS[mount.propagation])
        name = cri.MountPropagation.Name(mount.propagation)
        raise Invalid(
            f"{field}.host_path {text.shown(mount.host_path)} lies on a {source.propagation} mount, and "
            f"{name} needs a {needed} one; on the host: mount --make-rshared <that mount>"
        )


def _target(mount: cri.Mount, field: str, privileged: bool) -> str:
    """The canonical container path. /proc stays the container's own, and /sys may only be replaced
    read-only."""
    field += ".container_path"
    if not mount.container_path:
        raise Invalid(f"{field} is empty")
    target = text.path(mount.container_path, field)
    if target == "/":
        raise Invalid(f"{field}: the root itself cannot be mounted over")
    if privileged or target in PROC_FILES:
        return target
    in_proc = target == "/proc" or text.beneath(target, "/proc")
    read_only = mount.readonly and mount.propagation == cri.PROPAGATION_PRIVATE
    if in_proc or (target == "/sys" and not read_only):
        raise Invalid(f"{field} {text.shown(target)} may only be mounted over in a privileged container")
    return target


def _source_path(mount: cri.Mount, field: str) -> None:
    if volumes.is_image(mount):
        volumes.check_image(mount, field)
        return
    if mount.image_sub_path:
        raise Invalid(f"{field}.image_sub_path is given without an image")
    if not mount.host_path:
        raise Invalid(f"{field}.host_path is empty")
    text.path(mount.host_path, f"{field}.host_path")


def _idmaps(mount: cri.Mount, field: str, maps: userns.Mappings | None) -> dict[str, Any]:
    """`uidMappings` and `gidMappings` of the OCI mount, which must say what the pod's user namespace says, or
    part of it: other ids nobody in the pod could have. The kubelet sends the pod's own with every mount."""
    if not mount.uidMappings and not mount.gidMappings:
        return {}
    if maps is None:
        raise Invalid(
            f"{field}: uidMappings and gidMappings need a pod with a user namespace of its own, and this one "
            "has the host's"
        )
    if not mount.uidMappings or not mount.gidMappings:
        raise Invalid(f"{field} has only one of uidMappings and gidMappings; it takes both")
    return {
        "uidMappings": _ranges(mount.uidMappings, f"{field}.uidMappings", maps.uids),
        "gidMappings": _ranges(mount.gidMappings, f"{field}.gidMappings", maps.gids),
    }


def _ranges(given: Sequence[cri.IDMapping], field: str, pod: userns.Range) -> list[dict[str, int]]:
    """The ranges in the order of their ids. Within the pod's one range, what overlaps on the host does so inside."""
    end = 0
    for mapping in sorted(given, key=lambda mapping: mapping.container_id):
        first, last = mapping.container_id, mapping.container_id + mapping.length - 1
        shown = f"{field}: {first} to {last} on {mapping.host_id}"
        if mapping.length < 1:
            raise Invalid(f"{field} has a mapping of length 0")
        if last >= pod.length or mapping.host_id != pod.outside(first):
            raise Invalid(f"{shown} is not part of the pod's mapping, 0 to {pod.length - 1} on {pod.host}")
        if first < end:
            raise Invalid(f"{shown} overlaps another mapping")
        end = last + 1
    if len(given) > MAX_RANGES:
        raise Invalid(f"{field} has {len(given)} mappings; the kernel takes {MAX_RANGES}")
    return [
        {"containerID": one.container_id, "hostID": one.host_id, "size": one.length}
        for one in sorted(given, key=lambda mapping: mapping.container_id)
    ]


def _options(mount: cri.Mount, field: str, host: Host) -> list[str]:
    """Access and the extra flags. `ro` alone leaves submounts writable, as the CRI wants it; `rro` does
    not."""
    if mount.propagation not in PROPAGATION:
        raise Invalid(f"{field}.propagation {mount.propagation} is unknown")
    for option in mount.mount_options:
        if option not in OPTIONS:
            raise Invalid(f"{field}.mount_options: {text.shown(option)} is not one of {', '.join(OPTIONS)}")
    extra = sorted(set(mount.mount_options))
    if not mount.recursive_read_only:
        return ["ro" if mount.readonly else "rw", *extra]
    where = f"{field} ({text.shown(mount.container_path)}): recursive_read_only"
    if not mount.readonly:
        raise RROUnsupported(f"{where} needs readonly")
    if mount.propagation != cri.PROPAGATION_PRIVATE:
        raise RROUnsupported(f"{where} needs PROPAGATION_PRIVATE")
    if not host.recursive_read_only:
        raise RROUnsupported(
            f"{where} is not possible on this host; it takes Linux 5.12 and an OCI runtime with rro"
        )
    return ["rro", *extra]


def insert(mounts: list[Mount], added: Mount) -> None:
    """Put a mount before the first that lies beneath it, which it would hide."""
    place = added["destination"].rstrip("/") + "/"
    beneath = (number for number, other in enumerate(mounts) if other["destination"].startswith(place))
    mounts.insert(next(beneath, len(mounts)), added)


def _shallow_first(mounts: Iterable[Mount]) -> list[Mount]:
    return sorted(mounts, key=lambda mount: mount["destination"].count("/"))


def _mount(destination: str, kind: str, source: str, options: list[str]) -> Mount:
    return {"destination": destination, "type": kind, "source": source, "options": options}
