"""What the spec builders know of the machine, the pod and the image: values only, gathered by `host`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.cdi import Given
from sampan.model.image import ImageConfig
from sampan.model.io_classes import DeviceLimits
from sampan.model.user import User as User


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device file on the host. `kind` is "c" or "b"; `mode` the permission bits."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """A mount source on the host, symlinks resolved. `propagation` of the mount it lies on:
    private|shared|slave."""

    path: str
    is_directory: bool
    propagation: str
    locked_flags: tuple[str, ...] = ()  # nodev, nosuid, noexec that hold on that mount
    submounts: bool = False  # something is mounted beneath the path


@dataclass(frozen=True, slots=True)
class Host:
    """Facts of this machine that do not change while the daemon runs."""

    architecture: str = "x86_64"  # uname -m
    cgroup_v2: bool = True
    systemd_cgroup: bool = False
    controllers: frozenset[str] = frozenset()
    capabilities: tuple[str, ...] = ()  # every CAP_* the kernel knows and the daemon may give
    oom_score_floor: int = -1000  # the lowest oom_score_adj this daemon may set
    apparmor: bool = False
    selinux: bool = False
    seccomp: bool = True
    recursive_read_only: bool = True
    privileged_devices: bool = True  # privileged containers get the devices of the host
    kernel: tuple[int, int] = (5, 10)
    # The memory controller accounts swap: memory.memsw.* (v1) or memory.swap.max (v2) is there.
    swap: bool = True
    last_cpu: int = 99_999  # the highest number that a processor can ever have here, plugged in or not
    # Pods with a user namespace of their own work here: the kernel makes them, and shows layers with ids mapped.
    user_namespaces: bool = False
    # In such pods the OCI runtime binds the host's device of the same path, whatever numbers and owner it is told.
    binds_devices: bool = False
    # In such pods the OCI runtime's bind mounts take along what is mounted beneath their source.
    keeps_submounts: bool = True
    # (RLIMIT_*, soft, hard) of every container; those not named are the daemon's own.
    rlimits: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PodFacts:
    """Where a pod's shared things are. A namespace path of "" means the host's; `pid` "" with pid mode
    CONTAINER means a new one."""

    id: str
    config: cri.PodSandboxConfig
    hostname: str
    network_namespace: str = ""
    ipc_namespace: str = ""
    uts_namespace: str = ""
    user_namespace: str = ""
    pid_namespace: str = ""  # the pod's shared one, for pid mode POD
    resolv_conf: str = ""
    hostname_file: str = ""
    hosts_file: str = ""
    shm: str = ""
    selinux_level: str = ""  # the pod's own, where its config names none


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """Everything `spec.container.build` is a function of."""

    id: str
    config: cri.ContainerConfig
    image: ImageConfig
    pod: PodFacts
    host: Host
    user: User
    rootfs: str
    cgroups_path: str
    target_pid_namespace: str = ""  # for pid mode TARGET
    sources: Mapping[str, Source] = field(default_factory=dict)  # by the host_path in the request
    # Where the images are shown that the request mounts, by the number of the mount.
    image_mounts: Mapping[int, str] = field(default_factory=dict)
    # Directories of its own for the image's VOLUMEs, by where they are in the container.
    volumes: Mapping[str, str] = field(default_factory=dict)
    device_nodes: Mapping[str, tuple[DeviceNode, ...]] = field(default_factory=dict)  # likewise
    host_devices: tuple[DeviceNode, ...] = ()  # those there are just now, for a privileged container
    seccomp_localhost: bytes = b""  # the file a Localhost profile names
    apparmor_profiles: frozenset[str] = frozenset()  # those loaded in the kernel just now
    base_spec: Mapping[str, Any] = field(
        default_factory=dict
    )  # what the handler adds, as `base_spec.parse` took it
    # Compiled filters by `seccomp.fingerprint`.
    seccomp_programs: Mapping[str, bytes] = field(default_factory=dict)
    cdi: tuple[Given, ...] = ()  # the edits that give the CDI devices asked for, in order
    resctrl: bool = False  # it is mounted; known where one of those edits is about RDT
    rdt_class: str = ""
    block_io: tuple[DeviceLimits, ...] = ()  # of the class of block I/O that is asked for
    device_ownership: bool = False  # requested devices belong to the request's user and group
