"""What this machine can do, and the programs we start there; looked up once when the daemon starts."""

import asyncio
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sampan.host.cgroup.cgroups import HostCgroups
from sampan.host.process import run
from sampan.host.threads import in_thread
from sampan.model.errors import Unavailable
from sampan.spec.facts import Host
from sampan.tasks import bounded
from sampan.wire import oci_features
from sampan.wire.cgroup_paths import SYSTEMD, Layout
from sampan.wire.oci_features import Features

# In the order of their numbers (linux/include/uapi/linux/capability.h).
# fmt: off
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
    "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
    "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN",
    "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
# fmt: on
LOWEST_OOM_SCORE = -1000
ANSWER_SECONDS = 20.0  # for a program to say its version and its features
_FIXED_CRUN = (1, 28)
_RRO_KERNEL = (5, 12)  # mount_setattr(2)
_KERNEL = re.compile(r"(\d+)\.(\d+)", re.ASCII)

# --- the programs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tool:
    """A program: its configured name, where it was found, its version and features, warnings for the
    operator."""

    name: str
    path: str
    features: Features
    warnings: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        return ".".join(map(str, self.features.version)) or "unknown"


async def find(name: str) -> str:
    """The path of a program. Raises Unavailable with the Debian package that brings it."""
    path = await in_thread(shutil.which, name)
    if path is None:
        package = Path(name).name
        raise Unavailable(
            f"{name} is not installed, or not in $PATH: apt install {package}, or correct the configuration"
        )
    return path


async def runtime(name: str) -> Tool:
    """An OCI runtime and what it can do. Raises Unavailable if it is not there or does not answer, ToolFailed."""
    path = await find(name)
    async with bounded(ANSWER_SECONDS, f"{path} --version"):
        said, can = await asyncio.gather(run([path, "--version"]), run([path, "features"], check=False))
    features = oci_features.features(said.stdout, can.stdout if can.code == 0 else None)
    warnings = _crun_warnings(features.version) if features.name == "crun" else ()
    return Tool(name, path, features, warnings)


async def tool(name: str) -> Tool:
    """Another program, such as conmon. Raises Unavailable if it is not there or does not answer, ToolFailed."""
    path = await find(name)
    async with bounded(ANSWER_SECONDS, f"{path} --version"):
        said = await run([path, "--version"])
    return Tool(name, path, Features(version=oci_features.version(said.stdout)))


def _crun_warnings(version: tuple[int, ...]) -> tuple[str, ...]:
    if not version or version >= _FIXED_CRUN:
        return ()
    number = ".".join(map(str, version))
    return (
        f"crun {number} is older than 1.28: unless your distribution backported the fix, it follows a /dev "
        f"symlink of an image onto the host (CVE-2026-47766). Such images are refused; upgrade all the same",
    )


# --- the machine ------------------------------------------------------------------------------------------


async def gather(groups: HostCgroups) -> Host:
    """The facts that the spec builders need, of the machine itself: an OCI runtime may be able to do less
    (`Machine.host_of`)."""
    return await in_thread(lambda: _host(groups.driver, groups.layout))


def _host(driver: str, layout: Layout) -> Host:
    status = _status()
    machine = os.uname()
    kernel = kernel_version(machine.release)
    return Host(
        architecture=machine.machine,
        cgroup_v2=layout.unified,
        systemd_cgroup=driver == SYSTEMD,
        controllers=layout.controllers,
        capabilities=_capabilities(
            int(status["CapBnd"], 16), int(_text("/proc/sys/kernel/cap_last_cap") or "40")
        ),
        oom_score_floor=_oom_score_floor(int(status["CapEff"], 16)),
        apparmor=_text("/sys/module/apparmor/parameters/enabled") == "Y",
        selinux=Path("/sys/fs/selinux/enforce").exists(),
        seccomp="Seccomp" in status,
        recursive_read_only=kernel >= _RRO_KERNEL,
        kernel=kernel,
        swap=_accounts_swap(layout),
        last_cpu=_last_cpu(_text("/sys/devices/system/cpu/possible")),
    )


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 12) of `6.12.9-amd64`."""
    found = _KERNEL.match(release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _capabilities(bounding: int, last: int) -> tuple[str, ...]:
    """Those that the kernel knows and that the daemon, and so its children, may have."""
    return tuple(
        name for number, name in enumerate(CAPABILITIES) if number <= last and bounding >> number & 1
    )


def _oom_score_floor(effective: int) -> int:
    """Without CAP_SYS_RESOURCE a process cannot lower its score, and its children start with it
    (proc_pid_oom_score_adj(5))."""
    if effective >> CAPABILITIES.index("CAP_SYS_RESOURCE") & 1:
        return LOWEST_OOM_SCORE
    return int(_text("/proc/self/oom_score_adj") or "0")


def _accounts_swap(layout: Layout) -> bool:
    """Whether a swap limit can be set: asked of the files, for boot parameters and kernel options hide
    them."""
    if memory := layout.v1.get("memory"):
        return Path(memory, "memory.memsw.limit_in_bytes").exists()
    # The root of v2 has no memory.* files; any group that has the controller tells. None: what the kernel
    # does unasked.
    limited = next(Path(layout.v2).glob("*/memory.max"), None) if layout.v2 else None
    return limited.with_name("memory.swap.max").exists() if limited else Path("/proc/swaps").exists()


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _last_cpu(possible: str) -> int:
    """The last of a list such as 0-7 (the kernel's cputopology.rst); where there is none, no bound."""
    last = re.search(r"[0-9]+$", possible)
    return int(last[0]) if last else Host().last_cpu


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
