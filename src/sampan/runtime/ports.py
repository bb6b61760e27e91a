"""What the use cases may ask of the machine, as protocols.

Each has one real implementation in `host/` and one fake in `tests/fakes.py`; `tests/contracts/` holds both to
the same behaviour. Everything that removes is idempotent, and works after a reboot, when only the record is left.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sampan.config import Handler
from sampan.model.oom import OomKill
from sampan.model.process import ProcessRef
from sampan.spec.facts import DeviceNode, Source
from sampan.spec.userns import Mappings
from sampan.wire.cgroup_stats import Details
from sampan.wire.cgroupfs import Limits
from sampan.wire.net_dev import Interface
from sampan.wire.psi import Pressure

# --- processes: crun under conmon ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    """A container to create: `bundle` holds its config.json; `log` is an existing regular file, or None."""

    id: str
    bundle: Path
    handler: Handler
    log: Path | None = None
    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False
    own_users: bool = False  # the container is in a user namespace


@dataclass(frozen=True, slots=True)
class Launched:
    """The container's init (created, not started) and the conmon that watches it."""

    init: ProcessRef
    monitor: ProcessRef


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended. `code` is 255 with `lost` set where nobody saw it; `at` in ns since the epoch."""

    code: int
    at: int
    oom: bool = False  # the kernel killed some process of it for memory
    lost: bool = False
    kill: OomKill | None = None  # the last of those kills, as far as it is known


@dataclass(frozen=True, slots=True)
class ExecResult:
    """Output (each stream capped) and exit code of a finished exec."""

    code: int
    stdout: bytes
    stderr: bytes


class Oci(Protocol):
    """The OCI runtime and its monitor."""

    async def create(self, launch: Launch) -> Launched:
        """conmon up, container created and waiting. Raises ToolFailed with the runtime's own words."""

    async def start(self, handler: Handler, id: str) -> None:
        """Let the created process run. Raises ToolFailed."""

    async def compiled_filter(self, handler: Handler, id: str) -> bytes:
        """The seccomp filter that the OCI runtime compiled for this container; b"" where it leaves none."""

    async def running(self, handler: Handler, id: str) -> bool:
        """Whether a created container has been started (asked at boot for one whose record does not say so)."""

    async def signal(self, process: ProcessRef, number: int) -> bool:
        """Send a signal to exactly this process; False if it is gone."""

    async def kill_all(self, handler: Handler, id: str) -> None:
        """SIGKILL to every process of the container's cgroup; nothing to kill is fine."""

    async def wait(self, id: str, launched: Launched) -> Exit:
        """Wait until the container has ended and say how (also for one that ended long ago)."""

    async def update(self, handler: Handler, id: str, resources: Mapping[str, Any]) -> None:
        """Give a created or running container these limits (OCI `linux.resources`). Raises ToolFailed with the
        runtime's own words; some of the limits may be in force then."""

    async def adjust_oom_score(self, handler: Handler, id: str, before: int, after: int) -> None:
        """Set the oom_score_adj of the container's processes that have the value `before`: those that chose one for
        themselves keep it. Raises Denied where the kernel does not let us."""

    async def survivors(self, handler: Handler, id: str) -> tuple[str, ...]:
        """The container's processes that are alive, each with its state and where in the kernel it waits, as people
        need it to find out why a process does not die."""

    async def delete(self, handler: Handler, id: str) -> None:
        """Kill what is left; remove the runtime's state, the cgroup, monitor leftovers. Idempotent."""

    async def exec_sync(
        self, handler: Handler, id: str, process: Mapping[str, Any], seconds: float
    ) -> ExecResult:
        """Run `process` (an OCI process object) to its end. `seconds` 0 waits for ever. TimeoutError after killing
        the process and its descendants. Each stream is capped at 16 MiB and drained beyond."""

    async def end_sessions(self, handler: Handler, id: str) -> int:
        """Kill the commands that a daemon which died was running in it for clients, with all that they started; how
        many. What outlived its command, or was to outlive its client, is left alone."""

    async def reopen_log(self, id: str, log: Path) -> None:
        """Make the monitor open its log anew; returns when the new file exists."""


class Bundles(Protocol):
    """Bundles and log files: what the OCI runtime and conmon are pointed at."""

    async def write(self, id: str, spec: Mapping[str, Any]) -> Path:
        """Write the bundle's config.json; returns the bundle."""

    async def read(self, id: str) -> dict[str, Any] | None:
        """The config.json as written; None if there is none."""

    async def process(self, id: str) -> dict[str, Any] | None:
        """The `process` object of it; None if there is none."""

    async def rewrite(self, id: str, spec: Mapping[str, Any]) -> None:
        """Replace the config.json of a bundle, all of it or nothing. NotFound if the bundle is gone."""

    async def remove(self, id: str) -> None:
        """Delete the bundle. Idempotent; refuses while something is mounted beneath."""

    async def make_log(self, directory: str, path: str) -> Path:
        """Create the log file `path` (absolute) beneath `directory`, folders included, following no symlink.
        Returns it. Invalid if something else than a regular file is there."""

    async def make_log_directory(self, directory: str) -> None:
        """Create a pod's log directory (0755) where it is absent."""

    async def read_profile(self, path: str) -> bytes:
        """A Localhost seccomp profile: a regular file of at most 1 MiB. Invalid otherwise."""


class Facts(Protocol):
    """What a request's host paths really are. All of it may block on a dead file system; callers bound it."""

    async def sources(self, paths: Iterable[str]) -> dict[str, Source]:
        """Mount sources by the path asked for; those that do not exist are left out."""

    async def device_nodes(self, paths: Iterable[str]) -> dict[str, tuple[DeviceNode, ...]]:
        """Device files by the path asked for; those that are none are left out."""

    async def all_devices(self) -> tuple[DeviceNode, ...]:
        """What a privileged container gets: every device of the host, as it is now, but terminals and the like."""

    def pid_namespace(self, process: ProcessRef) -> AbstractAsyncContextManager[str]:
        """A path of this process's PID namespace that means no other while the block runs, not even when the process
        ends and its number is used again. WrongState if it is gone."""

    async def host_file(self, path: str) -> bytes:
        """A small file of the host (/etc/resolv.conf, /etc/hosts); b"" if absent."""

    async def apparmor_profiles(self) -> frozenset[str]:
        """The AppArmor profiles that the kernel has loaded now; none where there is no AppArmor."""


# --- a pod's namespaces, files and cgroup -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SandboxPlan:
    """What to make for a pod: pinned namespaces of its own, the files its containers share, its /dev/shm."""

    id: str
    namespaces: frozenset[str]  # of "net", "ipc", "uts", "user": those not the host's
    hostname: str
    sysctls: Mapping[str, str]
    files: Mapping[str, bytes]  # "resolv.conf", "hostname", "hosts"
    shm_size: int = 64 << 20  # bytes; 0: none (host IPC)
    userns: Mappings | None = None  # the ids of "user", which then owns the other namespaces
    label: str = ""  # the SELinux label of the files and of /dev/shm


class Sandboxes(Protocol):
    """Namespaces, shared files and /dev/shm of pods, at the places `config.Paths` names."""

    async def create(self, plan: SandboxPlan) -> None:
        """Make all of it, or raise and leave what `remove` can remove."""

    async def remove(self, id: str) -> None:
        """Unmount and delete all of it. Idempotent."""

    async def present(self, id: str, namespaces: frozenset[str]) -> bool:
        """Whether every one of these namespaces is still pinned (false after a reboot)."""

    async def interfaces(self, ids: Sequence[str]) -> list[tuple[Interface, ...] | None]:
        """The network interfaces in each pod's own namespace, the loopback left out; None for a pod that has none."""


class Cgroups(Protocol):
    """The control groups that containers live in, on v1 and v2. Paths as in the CRI (`/kubepods/...` or a slice)."""

    async def make_parent(self, parent: str) -> bool:
        """Create the parent group where it is absent; True if we made it (somewhere)."""

    async def expect_move(self) -> None:
        """A process is about to be moved into a group: let the kernel get ready for it, meanwhile. Never fails."""

    async def remove_parent(self, parent: str) -> None:
        """Remove a parent group if we made it (made ones are marked), and its empty ancestors that are ours; busy,
        foreign or absent is fine."""

    async def usage_many(self, groups: Sequence[tuple[str, str]]) -> "list[CgroupUsage | None]":
        """Read the groups of containers, given as (cgroup parent, container id); None for one that is gone. An empty
        id names the parent itself."""

    async def details_many(self, groups: Sequence[tuple[str, str, int]]) -> "list[CgroupDetails | None]":
        """What else there is to know of each group, given as (cgroup parent, container id or "", pid of its first
        process). Takes some 0.4 ms a group. With pid 0 the descriptors are not counted."""

    async def read_back(self, parent: str, id: str, files: Sequence[str] = ()) -> Limits:
        """The limits of a container as the kernel has them, and the contents of `files` of its group by name; None, or
        left out, for what is not there. Raises WrongState for a parent that no group of this driver has."""

    def container_path(self, parent: str, id: str) -> str:
        """The `cgroupsPath` that the OCI runtime is given for a container in this parent."""


class CgroupUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of a cgroup. Times in ns, sizes in bytes; None where the kernel does not say."""

    at: int
    cpu_ns: int | None = None
    memory_usage: int | None = None
    memory_working_set: int | None = None
    memory_available: int | None = None
    memory_rss: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    swap_usage: int | None = None
    swap_available: int | None = None
    processes: int | None = None  # and threads: what a limit on pids counts
    cpu_pressure: Pressure | None = None
    memory_pressure: Pressure | None = None
    io_pressure: Pressure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupDetails:
    """What is read of a group only where somebody wants metrics; `at` in ns since the epoch. None: not known."""

    at: int
    stats: Details
    limits: Limits
    processes: int | None = None
    threads: int | None = None
    descriptors: int | None = None
    sockets: int | None = None
    open_files_limit: int | None = None
    devices: Mapping[str, str] = field(default_factory=dict)  # names of those in stats.io: 254:0 → /dev/vda


# --- network ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PortMapping:
    """One published port. `protocol` is tcp, udp or sctp; `host_ip` may be empty."""

    protocol: str
    container_port: int
    host_port: int
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """What CNI is told about a pod. `netns` may be gone ("") on detach. `cached` is the conflist recorded before ADD,
    `result` what ADD returned, if it did."""

    pod_id: str
    netns: str
    name: str
    namespace: str
    uid: str
    conflist: bytes
    result: bytes = b""
    port_mappings: tuple[PortMapping, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    cgroup_path: str = ""
    dns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attached:
    """The addresses of the pod, the preferred one first, and the CNI result as JSON."""

    ips: tuple[str, ...]
    result: bytes


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """Whether pods can get a network now; if not, which directory was read and what is wrong."""

    ready: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class NetworkDetails:
    """The network for people and scripts: its conflist ("" without one) and file, or the `problem`."""

    conflist: bytes
    file: str
    conf_dir: str
    bin_dirs: tuple[str, ...]
    problem: str = ""


class Network(Protocol):
    """The pod network: CNI, executed or built in."""

    async def load(self) -> bytes:
        """The conflist to use now, as JSON. Raises Unavailable naming the directory and what is wrong with it."""

    async def attach(self, attachment: Attachment) -> Attached:
        """ADD the chain. On failure raises; the caller owes a `detach`."""

    async def detach(self, attachment: Attachment) -> None:
        """DEL the chain in reverse. Idempotent; works without a netns or a result."""

    async def status(self) -> NetworkStatus:
        """Never blocks on a plugin."""

    async def details(self) -> NetworkDetails:
        """Which configuration is used, and where the plugins are looked for. Never blocks on a plugin."""

    async def pod_cidrs(self, cidrs: Sequence[str]) -> None:
        """The node's address ranges for pods are known: write the network from the operator's template, if there is
        one, and no usable network yet. Raises Invalid for what is no range, also where there is no template: it is
        the request that is wrong. Unavailable for a template that cannot be used."""
