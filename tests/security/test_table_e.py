# ruff: noqa: E501 - one row of a table, one line
"""What a container can reach of the machine it runs on, a test for each known way, tried from inside.

E1 files that tell too much · E2 system calls · E3 set-uid programs · E4 control groups · E5 keyrings and /dev ·
E6 the runtime's own directory, mounted into a container.
"""

import ctypes
import ctypes.util
import functools
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests.daemon.conftest import Live
from tests.security.conftest import Containers, code_of, linux, process_status

pytestmark = pytest.mark.root

DEFAULT = cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault)
EPERM, EBADF, EFAULT, EINVAL, ENOSYS = 1, 9, 14, 22, 38

# --- E1: a power meter and other files of the machine (GHSA-7ww5-4wqc-m92c) -------------------------------------

KUBELET_MASKED = [  # what the kubelet sends for procMount: Default
    *("/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
    "/sys/devices/virtual/powercap",
]
KUBELET_READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
WRITES = (
    *("/proc/sys/kernel/panic", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness", "/proc/sys/fs/file-max"),
    *("/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/sys/net/ipv4/ip_forward"),
    *("/sys/kernel/mm/ksm/run", "/sys/power/state", "/sys/kernel/profiling", "/sys/module/kernel/parameters/panic"),
    *("/sys/kernel/uevent_helper", "/sys/block/x", "/sys/devices/x", "/sys/x", "/sys/firmware/x", "/proc/kcore", "/proc/x", "/proc/fs/x", "/proc/bus/x"),
)  # fmt: skip


def empty(directory: Path) -> bool:
    return not directory.exists() or not any(directory.iterdir())


def test_e1_masked_files_say_nothing_and_kernel_files_take_nothing(
    containers: Containers, daemon: Live
) -> None:
    id = containers.secured(masked_paths=KUBELET_MASKED, readonly_paths=KUBELET_READONLY)
    script = "; ".join(
        f'echo "{path} $(ls -A {path} 2>/dev/null | wc -l) $(cat {path} 2>/dev/null | wc -c)"'
        for path in KUBELET_MASKED
    )
    said = [line.split() for line in daemon.exec(id, "sh", "-c", script).stdout.decode().splitlines()]
    assert [path for path, _, _ in said] == KUBELET_MASKED
    listed = {path: int(names) for path, names, _ in said if Path(path).is_dir()}
    assert set(listed.values()) <= {0}, listed
    assert {path: int(size) for path, _, size in said if int(size)} == {}
    assert len(KUBELET_MASKED) + len(WRITES) >= 30
    for path in WRITES:
        wrote = daemon.exec(id, "sh", "-c", f"echo 1 >{path}")
        assert wrote.exit_code != 0 and b"can't create" in wrote.stderr, (path, wrote)


def test_e1_empty_lists_hide_nothing_which_is_how_unmasked_is_said(
    containers: Containers, daemon: Live
) -> None:
    id = containers.secured()
    assert daemon.exec(id, "head", "-c", "10", "/proc/interrupts").stdout


def test_e1_a_privileged_container_has_nothing_hidden(containers: Containers, daemon: Live) -> None:
    privileged = cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext(privileged=True))
    pod = daemon.pod("e1", linux=privileged)
    id = containers.secured(
        pod=pod, privileged=True, masked_paths=KUBELET_MASKED, readonly_paths=KUBELET_READONLY
    )
    assert daemon.exec(id, "head", "-c", "10", "/proc/interrupts").stdout
    mounts = {
        line.split()[1]: line.split()[3].split(",")
        for line in daemon.exec(id, "cat", "/proc/mounts").stdout.decode().splitlines()
    }
    assert "rw" in mounts["/sys"] and "rw" in mounts["/proc"] and "/proc/sys" not in mounts
    lines = [line.split() for line in daemon.exec(id, "cat", "/proc/mounts").stdout.decode().splitlines()]
    groups = [line[3].split(",")[0] for line in lines if line[2] in ("cgroup", "cgroup2")]
    assert groups and set(groups) == {"rw"}
    assert process_status(daemon, id)["Seccomp"] == "0"
    host = {f"/dev/{name.name}" for name in Path("/dev").iterdir() if stat.S_ISCHR(name.lstat().st_mode)}
    inside = {f"/dev/{name}" for name in daemon.exec(id, "ls", "/dev").stdout.decode().split()}
    assert host - inside <= {"/dev/console"}


# --- E2: system calls (CVE-2026-31431 and the kernel's other large surfaces) --------------------------------------

NEW_USER, SIGCHLD, NO_RANDOMIZE = 0x10000000, 17, 0x0040000
# Name, arguments, and the answer under RuntimeDefault with the default capabilities. Arguments are such that what the
# filter lets through changes nothing. A name with a dot is the part before it, with other arguments.
CALLS: list[tuple[str, list[int], int]] = [
    *((name, [-1] * 6, EPERM) for name in (
        "acct", "add_key", "bpf", "clock_settime", "delete_module", "fanotify_init", "finit_module", "fsconfig", "fsmount",
        "fsopen", "fspick", "get_mempolicy", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "kcmp",
        "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind", "migrate_pages", "mount", "mount_setattr",
        "move_mount", "move_pages", "open_by_handle_at", "open_tree", "perf_event_open", "pidfd_getfd", "pivot_root",
        "process_madvise", "quotactl", "reboot", "request_key", "set_mempolicy", "setdomainname", "sethostname", "setns",
        "settimeofday", "swapoff", "swapon", "syslog", "umount2", "userfaultfd", "vhangup",
    )),
    ("unshare", [NEW_USER, 0, 0, 0, 0, 0], EPERM),
    ("unshare.nothing", [0] * 6, EPERM),
    ("clone", [NEW_USER | SIGCHLD, 0, 0, 0, 0, 0], EPERM),
    ("clone3", [0] * 6, ENOSYS),
    ("personality.no-aslr", [NO_RANDOMIZE, 0, 0, 0, 0, 0], ENOSYS),
    ("socket.alg", [38, 5, 0, 0, 0, 0], EPERM),
    ("socket.vsock", [40, 1, 0, 0, 0, 0], EPERM),
    ("socket.alg-with-a-high-bit", [(1 << 32) + 38, 5, 0, 0, 0, 0], ENOSYS),
    ("socket.vsock-with-a-high-bit", [(1 << 63) + 40 - (1 << 64), 1, 0, 0, 0, 0], ENOSYS),
    ("socket.beyond", [46, 1, 0, 0, 0, 0], ENOSYS),
    # what programs need
    ("socket.unix", [1, 1, 0, 0, 0, 0], 0),
    ("socket.inet", [2, 1, 0, 0, 0, 0], 0),
    ("socket.netlink", [16, 3, 0, 0, 0, 0], 0),
    ("personality", [0xFFFFFFFF, 0, 0, 0, 0, 0], 0),
    ("ptrace", [0] * 6, 0),
    ("chroot", [0] * 6, EFAULT),
    ("mknodat", [-1, 0, 0, 0, 0, 0], EFAULT),
    ("memfd_create", [0] * 6, EFAULT),
    ("capget", [0] * 6, EFAULT),
    ("openat2", [-100, 0, 0, 0, 0, 0], EINVAL),
    ("pidfd_open", [-1, 0, 0, 0, 0, 0], EINVAL),
    ("close_range", [100000, 100001, 0, 0, 0, 0], 0),
    ("inotify_init1", [0] * 6, 0),
    ("eventfd2", [0] * 6, 0),
    ("setpriority", [0] * 6, 0),
    ("getpid", [0] * 6, 0),
]  # fmt: skip
ON_X86 = [("iopl", [0] * 6, EPERM), ("ioperm", [0] * 6, EPERM), ("uselib", [-1] * 6, EPERM)]
ON_X86 += [(f"socketcall.{family}", [family], EPERM) for family in (1, 38, 40)]
NOBODY_KNOWS = 5000  # a number that no kernel has yet


@functools.cache
def resolver() -> Any:
    library = ctypes.CDLL(ctypes.util.find_library("seccomp") or "libseccomp.so.2")
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    return library.seccomp_syscall_resolve_name


def number(name: str) -> int:
    """Of a system call on this machine, as libseccomp has it."""
    return int(resolver()(name.partition(".")[0].encode()))


def libraries(*more: str) -> list[cri.Mount]:
    """The host's libraries and programs, read-only."""
    return [
        cri.Mount(host_path=path, container_path=path, readonly=True)
        for path in sorted({"/usr", "/lib", "/lib64", *more})
        if Path(path).exists() and not path.startswith("/usr/")
    ]


def with_python() -> list[cri.Mount]:
    """The host's Python and what it needs."""
    return libraries(os.path.realpath(sys.base_prefix))


def probed(daemon: Live, id: str, calls: list[tuple[str, list[int], int]]) -> dict[str, int]:
    """How these calls are answered in a container that has Python."""
    wanted = [
        (name, number(name), arguments)
        for name, arguments, _ in calls
        if number(name) >= 0 or "socketcall" in name
    ]
    source = Path(__file__).with_name("syscall_probe.py").read_text()
    python = os.path.realpath(sys.executable)
    asked = daemon.exec(
        id, python, "-c", source, json.dumps([*wanted, ("unheard-of", NOBODY_KNOWS, [0] * 6)])
    )
    assert asked.exit_code == 0, asked.stderr.decode()
    answers: dict[str, int] = json.loads(asked.stdout)
    return answers


def test_e2_each_system_call_is_answered_as_listed(containers: Containers, daemon: Live) -> None:
    calls = CALLS + (ON_X86 if os.uname().machine == "x86_64" else [])
    assert len(calls) >= 60
    id = containers(mounts=with_python(), linux=linux(seccomp=DEFAULT))
    answers = probed(daemon, id, calls)
    wrong = {
        name: (answers[name], expected)
        for name, _, expected in calls
        if name in answers and answers[name] != expected
    }
    assert wrong == {}
    assert len(answers) >= 60 and answers["unheard-of"] == ENOSYS


def test_e2_an_administrator_gets_what_the_capability_is_for_and_no_kernel_crypto(
    containers: Containers, daemon: Live
) -> None:
    able = cri.Capability(add_capabilities=["SYS_ADMIN"])
    id = containers(mounts=with_python(), linux=linux(seccomp=DEFAULT, capabilities=able))
    gained = ("mount", "unshare.nothing", "clone3", "setns", "fsopen")
    answers = probed(daemon, id, CALLS)
    assert {name: answers[name] for name in gained} == {
        "mount": EFAULT, "unshare.nothing": 0, "clone3": EINVAL, "setns": EBADF, "fsopen": EINVAL,
    }  # fmt: skip
    for name in ("socket.alg", "socket.vsock", "keyctl", "io_uring_setup", "reboot", "init_module"):
        assert answers[name] == EPERM, name


def test_e2_the_filter_binds_the_first_process_and_an_exec(containers: Containers, daemon: Live) -> None:
    id = containers.secured(seccomp=DEFAULT)
    assert [process_status(daemon, id, pid)["Seccomp"] for pid in ("1", "self")] == ["2", "2"]


# --- E3: set-uid programs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("no_new_privs", "uid"), [(True, "33"), (False, "0")])
def test_e3_a_set_uid_program_gains_nothing_under_no_new_privs(
    containers: Containers, daemon: Live, no_new_privs: bool, uid: str
) -> None:
    """In the first process and in an exec; without the flag it does, so the probe can tell."""
    context = linux(run_as_user=cri.Int64Value(value=33), no_new_privs=no_new_privs)
    id = containers("sh", "-c", "/suid/id -u; exec sleep 1000", mounts=libraries(), linux=context)
    assert daemon.exec(id, "/suid/id", "-u").stdout.decode() == uid + "\n"
    assert daemon.logged(id) == [uid]
    for pid in ("1", "self"):
        assert process_status(daemon, id, pid)["NoNewPrivs"] == str(int(no_new_privs))


def test_e3_a_privileged_container_is_not_held_by_seccomp_though_it_asks(
    containers: Containers, daemon: Live
) -> None:
    privileged = cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext(privileged=True))
    pod = daemon.pod("e3", linux=privileged)
    id = containers.secured(pod=pod, privileged=True, seccomp=DEFAULT)
    assert process_status(daemon, id)["Seccomp"] == "0"


# --- E4: control groups (CVE-2022-0492, CVE-2023-25809) -----------------------------------------------------------


def test_e4_no_control_group_can_be_written_or_mounted(containers: Containers, daemon: Live) -> None:
    id = containers.secured(seccomp=DEFAULT)
    mounts = [line.split() for line in daemon.exec(id, "cat", "/proc/mounts").stdout.decode().splitlines()]
    groups = [mount for mount in mounts if mount[2] in ("cgroup", "cgroup2")]
    assert groups and all("ro" in mount[3].split(",") for mount in groups), groups
    for path in (mount[1] for mount in groups):
        for file in ("release_agent", "cgroup.procs", "notify_on_release"):
            assert daemon.exec(id, "sh", "-c", f"echo 1 >{path}/{file}").exit_code != 0
        assert daemon.exec(id, "mkdir", f"{path}/mine").exit_code != 0
    for kind in ("cgroup", "cgroup2"):
        mounted = daemon.exec(id, "mount", "-t", kind, "none", "/tmp")
        assert mounted.exit_code != 0 and re.search(b"denied|not permitted", mounted.stderr)


# --- E5: keyrings and /dev -----------------------------------------------------------------------------------------

OWN_DEVICES = {"full", "null", "ptmx", "random", "tty", "urandom", "zero"}
LINKS = {"fd", "stdin", "stdout", "stderr", "core", "ptmx"}
DIRECTORIES = {"mqueue", "pts", "shm"}


def test_e5_each_container_has_a_session_keyring_of_its_own(containers: Containers, daemon: Live) -> None:
    """KEYCTL_GET_KEYRING_ID of the session's keyring, by a raw system call."""
    source = (
        "import ctypes; libc = ctypes.CDLL(None); libc.syscall.restype = ctypes.c_long; "
        f"print(libc.syscall({number('keyctl')}, 0, -3, 0))"
    )
    python = os.path.realpath(sys.executable)
    ids = [containers(mounts=with_python()) for _ in range(2)]
    libc = ctypes.CDLL(None)
    ours = libc.syscall(number("keyctl"), 0, -3, 0)
    if ours == -1:
        pytest.skip("this kernel has no keyrings, or refuses them here")
    keyrings = [int(daemon.exec(id, python, "-c", source).stdout) for id in ids]
    assert len({*keyrings, ours}) == 3 and -1 not in keyrings


def test_e5_dev_holds_the_standard_devices_and_nothing_else(containers: Containers, daemon: Live) -> None:
    id = containers()
    names = set(daemon.exec(id, "ls", "/dev").stdout.decode().split())
    assert names - {"console"} == OWN_DEVICES | DIRECTORIES | LINKS - ({"core"} - names)
    nodes = {name for name in names if daemon.exec(id, "test", "-c", f"/dev/{name}").exit_code == 0}
    assert nodes <= OWN_DEVICES | {"console", "stdin", "stdout", "stderr"}
    assert not any(daemon.exec(id, "test", "-b", f"/dev/{name}").exit_code == 0 for name in names)


@pytest.mark.parametrize("node", ["b 8 0", "b 7 0", "c 1 1", "c 10 237", "c 1 2"])
def test_e5_a_device_that_was_not_given_can_be_made_but_not_opened(
    containers: Containers, daemon: Live, node: str
) -> None:
    """MKNOD is a default capability; the device cgroup is what counts."""
    id = containers()
    kind, major, minor = node.split()
    made = daemon.exec(id, "/bin/busybox", "mknod", "/tmp/node", kind, major, minor)
    opened = daemon.exec(id, "head", "-c", "1", "/tmp/node")
    assert opened.exit_code != 0
    if made.exit_code == 0:
        assert b"not permitted" in opened.stderr


# --- E6: the runtime's own directory inside a container ------------------------------------------------------------


def mounts_of(root: Path) -> set[str]:
    return {
        line.split()[1]
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if line.split()[1].startswith(f"{root}/")
    }


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("propagation", [cri.PROPAGATION_PRIVATE, cri.PROPAGATION_HOST_TO_CONTAINER])
def test_e6_a_container_that_holds_our_directory_keeps_no_other_alive(
    containers: Containers,
    daemon: Live,
    pod: str,
    readonly: bool,
    propagation: "cri.MountPropagation.ValueType",
) -> None:
    held = [
        cri.Mount(
            host_path=str(path), container_path=f"/held{number}", readonly=readonly, propagation=propagation
        )
        for number, path in enumerate((daemon.own.root, daemon.own.state))
    ]
    before = mounts_of(daemon.own.directory)
    other = daemon.started(pod, name=f"other-{propagation}-{readonly}")
    code, words = code_of(containers, mounts=held)
    # on a host whose / is private there is no HOST_TO_CONTAINER
    assert code is grpc.StatusCode.OK or "PROPAGATION_HOST_TO_CONTAINER needs a slave" in words, words
    daemon.runtime.StopContainer(cri.StopContainerRequest(container_id=other, timeout=0), timeout=20)
    daemon.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=other), timeout=20)
    left = {path for path in mounts_of(daemon.own.directory) - before if other in path}
    assert left == set()
    found = {
        str(Path(at, name))
        for at, folders, files in os.walk(daemon.own.directory)
        for name in (*folders, *files)
    }
    assert not [path for path in found if other in path and "/trash/" not in path]
