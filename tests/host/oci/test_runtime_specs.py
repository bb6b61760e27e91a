"""What the built config.json does under the real OCI runtime: probes from inside the container."""

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.model.image import ImageConfig
from sampan.spec import capabilities, container, sandbox, seccomp
from sampan.spec.facts import ContainerFacts, DeviceNode, Host, PodFacts, Source
from sampan.wire import passwd

pytestmark = pytest.mark.root

PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"
GROUP = b"root:x:0:\napp:x:1000:\nstaff:x:50000:app\n"
SYSTEM = ("/usr", "/lib", "/lib64")  # what the host's Python needs in a container


@dataclass
class Bench:
    """A root with busybox in it, a pod that shares the host's network and IPC, and crun."""

    root: Path
    bundle: Path
    state: Path
    group: str
    host: Host
    pod: PodFacts
    stack: ExitStack = field(default_factory=ExitStack)

    def facts(self, *command: str, image_user: str = "", **changes: Any) -> ContainerFacts:
        config = cri.ContainerConfig(command=command)
        for name, value in changes.pop("config", {}).items():
            if isinstance(value, list):
                getattr(config, name).extend(value)
            elif isinstance(value, str | bool | int):
                setattr(config, name, value)
            else:
                getattr(config, name).CopyFrom(value)
        context = config.linux.security_context
        context.MergeFrom(changes.pop("context", cri.LinuxContainerSecurityContext()))
        context.namespace_options.MergeFrom(self.pod.config.linux.security_context.namespace_options)
        made = ContainerFacts(
            id="c",
            config=config,
            image=ImageConfig(),
            pod=self.pod,
            host=self.host,
            user=passwd.resolve(image_user, context, PASSWD, GROUP),
            rootfs=str(self.root),
            cgroups_path=f"{self.group}/c",
            sources={mount.host_path: source(mount.host_path) for mount in config.mounts},
        )
        return replace(made, **changes)

    def crun(self, *args: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["crun", "--root", str(self.state), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=check,
            timeout=60,
            env={"PATH": os.environ["PATH"], "SECRET_CANARY": "1"},
        )

    def write(self, spec: dict[str, Any]) -> None:
        self.bundle.mkdir(exist_ok=True)
        (self.bundle / "config.json").write_bytes(msgspec.json.encode(spec))

    def run(self, facts: ContainerFacts) -> str:
        """What the container says; its standard error counts as a failure."""
        self.write(container.build(facts))
        done = self.crun("run", "--bundle", str(self.bundle), f"c{secrets.token_hex(4)}", check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def sh(self, script: str, **changes: Any) -> str:
        return self.run(self.facts("/bin/sh", "-c", script, **changes))


def source(path: str) -> Source:
    """The facts of a host path, read without our own host code."""
    found = subprocess.run(
        ["findmnt", "--noheadings", "--output", "PROPAGATION,VFS-OPTIONS", "--target", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    flags = tuple(flag for flag in ("nodev", "nosuid", "noexec") if flag in found[1].split(","))
    return Source(str(Path(path).resolve()), Path(path).is_dir(), found[0].partition(",")[0], flags)


def this_host() -> Host:
    status = Path("/proc/self/status").read_text()
    bounding = int(re.findall(r"CapBnd:\s*(\w+)", status)[0], 16)
    given = tuple(name for number, name in enumerate(capabilities.KNOWN) if bounding >> number & 1)
    return Host(
        architecture=os.uname().machine,
        cgroup_v2=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        capabilities=given,
        oom_score_floor=int(Path("/proc/self/oom_score_adj").read_text()),
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    root = tmp_path / "rootfs"
    for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "usr", "lib", "lib64"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in (
        "sh",
        "cat",
        "ls",
        "id",
        "env",
        "grep",
        "mkdir",
        "mknod",
        "mount",
        "seq",
        "touch",
        "sleep",
        "head",
    ):
        (root / "bin" / applet).symlink_to("busybox")
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    options = cri.NamespaceOption(network=cri.NODE, ipc=cri.NODE, pid=cri.CONTAINER)
    pod = cri.PodSandboxConfig()
    pod.linux.security_context.namespace_options.CopyFrom(options)
    facts = PodFacts("p", pod, "node", resolv_conf=str(tmp_path / "resolv.conf"))
    group = f"/sampan-test-{secrets.token_hex(4)}"
    bench = Bench(root, tmp_path / "bundle", tmp_path / "state", group, this_host(), facts)
    try:
        yield bench
    finally:
        for id in bench.state.iterdir() if bench.state.exists() else ():
            bench.crun("delete", "--force", id.name, check=False)
        bench.stack.close()
        for left in [*Path("/sys/fs/cgroup").glob(f"*{group}"), Path(f"/sys/fs/cgroup{group}")]:
            for directory in (*left.glob("*/"), left):
                with suppress(OSError):
                    directory.rmdir()


def mask(names: Sequence[str]) -> int:
    return sum(1 << capabilities.KNOWN.index(name) for name in names)


def status(text: str) -> dict[str, str]:
    """/proc/PID/status as a table."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def context(**fields: Any) -> cri.LinuxContainerSecurityContext:
    return cri.LinuxContainerSecurityContext(**fields)


def test_a_plain_container_has_the_default_capabilities_and_no_inheritable_ones(bench: Bench) -> None:
    said = status(bench.sh("cat /proc/1/status"))
    expected = mask(sorted(capabilities.DEFAULT & set(bench.host.capabilities)))
    assert {name: int(said[name], 16) for name in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")} == {
        "CapBnd": expected,
        "CapEff": expected,
        "CapPrm": expected,
        "CapInh": 0,
        "CapAmb": 0,
    }


def test_an_unprivileged_user_keeps_an_ambient_capability(bench: Bench) -> None:
    asked = context(run_as_user=cri.Int64Value(value=1000))
    asked.capabilities.drop_capabilities.append("ALL")
    asked.capabilities.add_ambient_capabilities.append("NET_BIND_SERVICE")
    said = status(bench.sh("cat /proc/1/status", context=asked))
    assert {int(said[name], 16) for name in ("CapEff", "CapBnd", "CapAmb", "CapInh")} == {1 << 10}


def test_a_privileged_container_has_everything_and_no_filter(bench: Bench) -> None:
    asked = context(privileged=True, seccomp=cri.SecurityProfile(), masked_paths=["/proc/version"])
    said = bench.sh("cat /proc/1/status; head -n 1 /proc/version", context=asked)
    assert int(status(said)["CapEff"], 16) == mask(bench.host.capabilities)
    assert status(said)["Seccomp"] == "0"
    assert "Linux version" in said


@pytest.mark.parametrize(
    ("profile", "mode"), [(None, "0"), (cri.SecurityProfile(), "2")], ids=["nil", "default"]
)
def test_seccomp_is_on_only_where_it_is_asked_for(
    bench: Bench, profile: cri.SecurityProfile | None, mode: str
) -> None:
    said = bench.sh("cat /proc/1/status", context=context(seccomp=profile))
    assert status(said)["Seccomp"] == mode


PROBE = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    ctypes.set_errno(0)
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(*[ctypes.c_long(arg) for arg in args])
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def clone(flags):
    if os.uname().machine != "x86_64":
        return "skipped"
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(56), ctypes.c_long(flags | 17), *[ctypes.c_long(0)] * 4)
    if result == 0:
        os._exit(0)
    if result > 0:
        os.waitpid(result, 0)
    return "ok" if result > 0 else errno.errorcode[ctypes.get_errno()]
for name, args in TABLE.items():
    print(name, clone(args[0]) if name.startswith("clone_") else call(*args))
"""
# x86_64 numbers. What the kernel itself would answer proves nothing, so arguments are such that it says
# otherwise.
SYSCALLS = {
    "getpid": (39,),
    "socket_unix": (41, 1, 1, 0),
    "socket_alg": (41, 38, 5, 0),
    "socket_vsock": (41, 40, 1, 0),
    "socket_alg_in_the_low_half": (41, (1 << 32) + 38, 5, 0),
    "clone_plain": (0,),
    "clone_user": (0x10000000,),
    "clone_mount_and_net": (0x40020000,),
    "clone3": (435, 0, 0),
    "unshare": (272, 0),
    "setns": (308, -1, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "fsopen": (430, 0, 0),
    "open_tree": (428, -1, 0, 0),
    "bpf": (321, 99, 0, 0),
    "perf_event_open": (298, 0, 0, 0, 0, 0),
    "io_uring_setup": (425, 0, 0),
    "userfaultfd": (323, 0),
    "keyctl": (250, 99),
    "add_key": (248, 0, 0, 0, 0, 0),
    "request_key": (249, 0, 0, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "pivot_root": (155, 0, 0),
    "swapon": (167, 0, 0),
    "reboot": (169, 0, 0, 0),
    "acct": (163, 1),
    "quotactl": (179, 0, 0, 0, 0),
    "open_by_handle_at": (304, -1, 0, 0),
    "name_to_handle_at": (303, -1, 0, 0, 0, 0),
    "settimeofday": (164, 0, 1),
    "clock_settime": (227, 99, 0),
    "mbind": (237, 0, 0, 99, 0, 0, 0),
    "move_pages": (279, 0, 0, 0, 0, 0, 0),
    "process_madvise": (440, -1, 0, 0, 0, 0),
    "personality_query": (135, 0xFFFFFFFF),
    "personality_no_aslr": (135, 0x40000),
    "chroot": (161, 0),
    "ptrace": (101, 99, 0, 0, 0),
    "openat2": (437, -1, 0, 0, 0),
    "newer_than_us": (999,),
}
ALLOWED = {"getpid": "ok", "socket_unix": "ok", "clone_plain": "ok", "personality_query": "ok"}
FALL_BACK = {"clone3", "newer_than_us", "socket_alg_in_the_low_half", "personality_no_aslr"}
THE_KERNELS_OWN = {"name_to_handle_at": "EFAULT", "chroot": "EFAULT", "ptrace": "ESRCH", "openat2": "EINVAL"}
EXPECTED = {
    name: ALLOWED.get(name) or THE_KERNELS_OWN.get(name) or ("ENOSYS" if name in FALL_BACK else "EPERM")
    for name in SYSCALLS
}


def system_mounts() -> list[cri.Mount]:
    """The host's Python, read-only, in its place."""
    places = dict.fromkeys([*SYSTEM, sys.base_prefix])
    return [
        cri.Mount(container_path=path, host_path=path, readonly=True)
        for path in places
        if Path(path).is_dir() and not any(Path(other) in Path(path).parents for other in places)
    ]


def probe(bench: Bench, **changes: Any) -> dict[str, str]:
    interpreter = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    facts = bench.facts(
        *(interpreter, "-I", "-S", "-c", f"TABLE = {SYSCALLS!r}\n{PROBE}"),
        config={"mounts": system_mounts()},
        context=context(seccomp=cri.SecurityProfile()),
        **changes,
    )
    return dict(line.split() for line in bench.run(facts).splitlines())


on_x86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the table holds x86_64 numbers")


@on_x86_64
def test_the_default_profile_refuses_what_it_should_and_nothing_else(bench: Bench) -> None:
    assert probe(bench) == EXPECTED


@on_x86_64
def test_a_filter_compiled_once_acts_like_the_profile_it_came_from(bench: Bench) -> None:
    first = container.build(bench.facts("/bin/sleep", "60", context=context(seccomp=cri.SecurityProfile())))
    bench.write(first)
    create(bench, "first")
    program = (bench.state / "first" / "seccomp.bpf").read_bytes()
    bench.crun("delete", "--force", "first")
    known = {seccomp.fingerprint(first["linux"]["seccomp"]): program}
    assert probe(bench, seccomp_programs=known) == EXPECTED


def create(bench: Bench, id: str) -> None:
    """`crun create` without a pipe that the container would hold open."""
    subprocess.run(
        ["crun", "--root", str(bench.state), "create", "--bundle", str(bench.bundle), id],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )


def test_masked_paths_are_empty_and_read_only_ones_cannot_be_written(bench: Bench) -> None:
    asked = context(masked_paths=["/proc/version", "/sys/firmware"], readonly_paths=["/proc/sys"])
    script = (
        "cat /proc/version; ls /sys/firmware; "
        "(echo 1 > /proc/sys/kernel/core_pattern) 2>/dev/null || echo kept"
    )
    assert bench.sh(script, context=asked) == "kept\n"


def test_no_new_privileges_reaches_the_process(bench: Bench) -> None:
    assert status(bench.sh("cat /proc/1/status", context=context(no_new_privs=True)))["NoNewPrivs"] == "1"
    assert status(bench.sh("cat /proc/1/status"))["NoNewPrivs"] == "0"


def test_only_the_three_standard_descriptors_are_open(bench: Bench) -> None:
    assert bench.sh("ls /proc/1/fd; true").split() == ["0", "1", "2"]


def test_the_largest_id_runs_as_itself_and_the_next_is_refused(bench: Bench) -> None:
    said = status(bench.sh("cat /proc/1/status", image_user="2147483647:2147483647"))
    assert said["Uid"].split() == said["Gid"].split() == ["2147483647"] * 4
    for user in ("2147483648", "4294967295", "4294967296", "0:4294967295"):
        with pytest.raises(Invalid, match="out of range"):
            bench.facts("/bin/id", image_user=user)


def test_groups_come_from_the_image_and_the_request(bench: Bench) -> None:
    assert bench.sh("id -u; id -g; id -G", image_user="app").split() == ["1000", "1000", "1000", "50000"]
    strict = context(supplemental_groups=[7], supplemental_groups_policy=cri.Strict)
    assert set(bench.sh("id -G", image_user="app", context=strict).split()) == {"1000", "7"}


def test_the_environment_is_ours_alone(bench: Bench) -> None:
    said = bench.sh(
        "env", image_user="app", config={"tty": False, "envs": [cri.KeyValue(key="A", value=b"1")]}
    )
    shell = {"PWD=/", "SHLVL=1", "OLDPWD=/", "_=/bin/env"}
    assert set(said.splitlines()) - shell == {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=node",
        "HOME=/home/app",
        "A=1",
    }


def test_a_missing_working_directory_is_made(bench: Bench) -> None:
    assert bench.sh("pwd", config={"working_dir": "/not/there"}) == "/not/there\n"


def test_shared_files_and_the_default_devices_are_there(bench: Bench) -> None:
    assert bench.sh("cat /etc/resolv.conf") == "nameserver 192.0.2.1\n"
    devices = {
        "core",
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
    }
    assert set(bench.sh("ls /dev").split()) - {"console"} == devices | {"tty", "urandom", "zero"}


@pytest.fixture
def layered(tmp_path: Path) -> Iterator[Path]:
    """A directory on a nosuid mount with another mount beneath it."""
    top = tmp_path / "volume"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid", "test", str(top)], check=True)
    try:
        (top / "sub").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "test", str(top / "sub")], check=True)
        yield top
    finally:
        subprocess.run(["umount", "--recursive", str(top)], check=True)


WRITE_BOTH = "for d in /v /v/sub; do touch $d/x 2>/dev/null && echo $d; done; true"


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({}, ["/v", "/v/sub"]),
        ({"readonly": True}, ["/v/sub"]),
        ({"readonly": True, "recursive_read_only": True}, []),
    ],
    ids=["rw", "ro", "rro"],
)
def test_how_deep_read_only_goes(
    bench: Bench, layered: Path, options: dict[str, Any], written: list[str]
) -> None:
    mount = cri.Mount(container_path="/v", host_path=str(layered), **options)
    assert bench.sh(WRITE_BOTH, config={"mounts": [mount]}).split() == written


def test_flags_of_the_source_and_of_the_request_hold_inside(bench: Bench, layered: Path) -> None:
    mount = cri.Mount(container_path="/v", host_path=str(layered), readonly=True, mount_options=["noexec"])
    said = bench.sh("grep ' /v ' /proc/self/mounts", config={"mounts": [mount]})
    assert {"ro", "nosuid", "noexec"} <= set(said.split()[3].split(","))


@pytest.mark.parametrize(
    ("propagation", "arrives"),
    [(cri.PROPAGATION_BIDIRECTIONAL, True), (cri.PROPAGATION_HOST_TO_CONTAINER, False)],
    ids=["bidirectional", "host to container"],
)
def test_what_a_container_mounts_reaches_the_host_only_if_it_should(
    bench: Bench, layered: Path, propagation: Any, arrives: bool
) -> None:
    subprocess.run(["mount", "--make-rshared", str(layered)], check=True)
    ours = bench.root.parent
    before = mount_points(ours)
    mount = cri.Mount(container_path="/v", host_path=str(layered), propagation=propagation)
    privileged = context(privileged=True)
    bench.sh("mkdir /v/in; mount -t tmpfs t /v/in", config={"mounts": [mount]}, context=privileged)
    assert mount_points(ours) - before == ({str(layered / "in")} if arrives else set())


def mount_points(directory: Path) -> set[str]:
    points = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return {point for point in points if point.startswith(f"{directory}/")}


def test_a_device_that_was_not_asked_for_cannot_be_opened(bench: Bench) -> None:
    zero = DeviceNode("/dev/zero", "c", 1, 5, 0o666)
    device = cri.Device(host_path="/dev/zero", container_path="/dev/mine", permissions="r")
    script = """
        ls -l /dev/mine >/dev/null && head -c 1 /dev/mine >/dev/null && echo asked
        mknod /tmp/mem c 1 1 && (head -c 1 /tmp/mem) 2>&1 | grep -o 'not permitted'
    """
    said = bench.sh(script, config={"devices": [device]}, device_nodes={"/dev/zero": (zero,)})
    assert said == "asked\nnot permitted\n"


def test_limits_reach_the_cgroup(bench: Bench) -> None:
    linux = cri.LinuxContainerConfig()
    linux.resources.memory_limit_in_bytes = 64 << 20
    linux.resources.oom_score_adj = 900
    if bench.host.cgroup_v2:
        script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max /proc/1/oom_score_adj"
        assert bench.sh(script, config={"linux": linux}).split() == ["67108864", "0", "900"]
    else:
        files = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        script = f"cd /sys/fs/cgroup/memory; cat {' '.join(files)} /proc/1/oom_score_adj"
        assert bench.sh(script, config={"linux": linux}).split() == ["67108864", "67108864", "900"]


def test_the_cgroup_mount_cannot_be_written(bench: Bench) -> None:
    """Neither the unified group nor that of any controller (CVE-2022-0492)."""
    groups = "/sys/fs/cgroup" if bench.host.cgroup_v2 else "/sys/fs/cgroup/*/"
    # On v1 crun makes a mere folder, on the container's own tmpfs, for a hierarchy that is mounted nowhere, such as
    # that of `host.cgroup.exec_places`.
    mounted = "test -e $d/cgroup.procs || continue"
    script = f"for d in {groups}; do {mounted}; ls $d; mkdir $d/x 2>/dev/null && echo made $d; done; true"
    said = bench.sh(script)
    assert "cgroup.procs" in said
    assert "made" not in said


@pytest.fixture
def shared(bench: Bench) -> Iterator[int]:
    """A pod with namespaces of its own, held by the process whose id this is, and a running init."""
    holder = subprocess.Popen(["unshare", "--net", "--ipc", "--uts", "sleep", "infinity"])
    try:
        wait_for_other_namespace(holder.pid)
        joined = PodFacts(
            "p",
            cri.PodSandboxConfig(),
            "web",
            network_namespace=f"/proc/{holder.pid}/ns/net",
            ipc_namespace=f"/proc/{holder.pid}/ns/ipc",
            uts_namespace=f"/proc/{holder.pid}/ns/uts",
        )
        empty = bench.root.parent / "empty"
        empty.mkdir()
        bench.write(sandbox.build(joined, bench.host, rootfs=str(empty), cgroups_path=f"{bench.group}/p"))
        create(bench, "init")
        bench.crun("start", "init")
        pid = int(re.findall(r'"pid": (\d+)', bench.crun("state", "init").stdout)[0])
        bench.pod = replace(joined, pid_namespace=f"/proc/{pid}/ns/pid")
        yield holder.pid
    finally:
        bench.crun("delete", "--force", "init", check=False)
        holder.kill()
        holder.wait()


def test_containers_join_the_pods_namespaces_and_its_init(bench: Bench, shared: int) -> None:
    said = bench.sh("cat /proc/1/comm; cat /proc/1/status; ls -l /proc/self/ns")
    assert said.startswith("init\n")
    facts = status(said)
    assert facts["Uid"].split()[0] == "65534"
    assert (int(facts["CapBnd"], 16), facts["NoNewPrivs"], facts["Seccomp"]) == (0, "1", "2")
    for kind in ("net", "ipc", "uts"):
        assert str(Path(f"/proc/{shared}/ns/{kind}").readlink()) in said


def test_the_init_reaps_what_a_container_orphans(bench: Bench, shared: int) -> None:
    """The orphan's parent becomes the init; once ended, no entry of it stays."""
    orphan = "(sh -c 'sleep 0.05 & echo $!' > /tmp/pid); pid=$(cat /tmp/pid); grep PPid /proc/$pid/status"
    gone = "for i in $(seq 100); do test -d /proc/$pid || break; sleep 0.02; done; ls -d /proc/$pid 2>&1"
    said = bench.sh(f"{orphan}; {gone}; true")
    assert said.split("\n")[0].split() == ["PPid:", "1"]
    assert "No such file" in said


def wait_for_other_namespace(pid: int) -> None:
    """Until unshare(1) has done it."""
    ours = Path("/proc/self/ns/uts").readlink()
    while Path(f"/proc/{pid}/ns/uts").readlink() == ours:
        os.sched_yield()
