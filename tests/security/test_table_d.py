# ruff: noqa: E501 - one row of a table, one line
"""What a command that is run in a container brings along from the host, by each way into it, tried from inside.

D1 the OCI runtime's own binary · D2 descriptors, working directories, environment · D7 an exec when the first process
has died. Besides: that such a command is its container and nothing more (identity, groups, limits), and what is seen
of the processes that bring it there.

Not here: races of mounts (D3), files that we manage (D4, D5) and teardown (D6).
"""

import asyncio
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests.daemon.conftest import Live
from tests.daemon.test_userns import USERS
from tests.security import ways
from tests.security.conftest import SECRET, linux
from tests.security.test_table_e import DEFAULT, with_python
from tests.security.ways import each_handler, each_way

pytestmark = pytest.mark.root

PYTHON = os.path.realpath(sys.executable)


def first_process(id: str) -> int:
    """The host's number of a container's first process."""
    found = [
        int(name)
        for group in Path("/proc").glob("[0-9]*/cgroup")
        if id in read(group) and "conmon" not in read(group.parent / "comm")
        for name in [group.parent.name]
        if read(group.parent / "status").partition("NSpid:")[2].split("\n")[0].split()[-1] == "1"
    ]
    assert len(found) == 1, found
    return found[0]


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """Of all its threads."""
    return [int(each) for task in Path(f"/proc/{pid}/task").glob("*/children") for each in read(task).split()]


def conmon_of(id: str) -> int:
    found = [
        int(entry.parent.name)
        for entry in Path("/proc").glob("[0-9]*/cmdline")
        if id in (words := read(entry)) and "conmon" in words.partition("\0")[0]
    ]
    assert len(found) == 1, found
    return found[0]


# --- D1: the runtime's binary (CVE-2019-5736) ---------------------------------------------------------------------


def digests(daemon: Live) -> dict[str, str]:
    """Of everything that is executed for a command."""
    tools = [*filter(None, map(shutil.which, ("crun", "runc", "conmon", "busybox"))), PYTHON]
    tools += map(str, daemon.own.directory.glob("bin/*"))
    return {tool: hashlib.sha256(Path(tool).read_bytes()).hexdigest() for tool in tools}


def raced(daemon: Live, id: str, identities: dict[str, str]) -> int:
    """How many processes the racer met. What it could hold of the host's binaries must not be writable, and not only
    because it was busy: once nobody runs it any more, the file system it is seen on is read-only."""
    deadline = time.monotonic() + 10
    while True:
        found = json.loads(daemon.exec(id, "cat", "/tmp/found").stdout)
        answers = {identities[key]: set(errors) for key, errors in found["held"].items() if key in identities}
        assert all(errors <= {errno.ETXTBSY, errno.EROFS} for errors in answers.values()), answers
        if all(errno.EROFS in errors for errors in answers.values()):
            return int(found["met"])
        assert time.monotonic() < deadline, answers


@pytest.mark.limit(90)
async def test_d1_no_command_gives_the_runtime_away(daemon: Live) -> None:
    """200 commands, most of which make the runtime run itself, in containers whose first process goes for it."""
    before = digests(daemon)
    identities = {f"{found.st_dev} {found.st_ino}": tool for tool in before if (found := Path(tool).stat())}
    source = Path(__file__).with_name("exe_racer.py").read_text()
    more = cri.Capability(
        add_capabilities=["SYS_PTRACE"]
    )  # with it, what is not dumpable is no secret either
    gate = asyncio.Semaphore(4)

    async def one(id: str, number: int) -> str:
        async with gate:
            words = ("/again",) if number % 4 else ("/bin/busybox", "true")
            done = await ways.run(daemon, ways.WAYS[number % 3], id, *words)
            return "done" if done.code == 0 and not done.failure else "not done"

    for handler in ways.HANDLERS:
        pod = ways.pod(daemon, f"own-{handler}", f"d1-{handler}")
        id = daemon.started(
            pod, PYTHON, "-S", "-c", source, mounts=with_python(), linux=linux(capabilities=more)
        )
        count = 140 if handler == "crun" else 60
        outcomes = await asyncio.gather(*(one(id, number) for number in range(count)))
        assert outcomes.count("done") >= count // 8  # it opens its own busybox for writing as well
        assert raced(daemon, id, identities) > count // 4
        ways.remove(daemon, pod)
    assert digests(daemon) == before


# --- D2: descriptors, working directories, environment (CVE-2024-21626) -------------------------------------------

HANDED = "ls /proc/self/fd; for n in 0 1 2; do readlink /proc/self/fd/$n; done; echo; env"


@each_handler
@each_way
async def test_d2_a_command_has_three_descriptors_and_its_containers_environment(
    daemon: Live, way: str, handler: str
) -> None:
    """The daemon was started with a LISTEN_FDS that tells OCI runtimes to pass on sixty more, and with a secret."""
    pod = ways.pod(daemon, handler, f"d2-{way}-{handler}")
    id = daemon.started(pod, envs=[cri.KeyValue(key="MINE", value=b"1")])
    done = await ways.run(daemon, way, id, "sh", "-c", HANDED)
    assert done.code == 0, done
    given, environment = done.said.decode().split("\n\n")
    numbers, links = given.split()[:4], given.split()[4:]
    assert numbers == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
    pattern = r"/dev/pts/\d+" if way == ways.TERMINAL else r"pipe:\[\d+\]"
    assert len(links) == 3 and all(re.fullmatch(pattern, link) for link in links), links
    names = {line.partition("=")[0] for line in environment.splitlines()}
    assert "MINE" in names and names <= {"MINE", "PATH", "HOME", "HOSTNAME", "SHLVL", "PWD", "TERM"}, names
    assert SECRET not in environment
    ways.remove(daemon, pod)


@each_handler
async def test_d2_a_working_directory_that_turns_into_a_descriptor_of_the_runtime_leads_nowhere(
    daemon: Live, tmp_path: Path, handler: str
) -> None:
    """A container makes its working directory a link to what a runtime may have open, before somebody runs a command."""
    (tmp_path / "canary").write_text(SECRET)
    shared = tmp_path / "shared"
    (shared / "w").mkdir(parents=True)
    pod = ways.pod(daemon, handler, f"d2-cwd-{handler}")
    mounts = [cri.Mount(host_path=str(shared), container_path="/v")]
    id = daemon.started(pod, mounts=mounts, working_dir="/v/w")
    read_out = f"echo began; cat {'../' * 20}{tmp_path}/canary; cat {tmp_path.name}/canary canary"
    assert b"began" in (await ways.run(daemon, ways.PIPES, id, "sh", "-c", read_out)).said
    (shared / "w").rmdir()
    refused = 0
    for number in range(3, 24):
        (shared / "w").symlink_to(f"/proc/self/fd/{number}")
        for way in ways.WAYS:
            done = await ways.run(daemon, way, id, "sh", "-c", read_out)
            assert SECRET.encode() not in done.said, (number, way)
            refused += bool(done.failure)
        (shared / "w").unlink()
    assert refused
    ways.remove(daemon, pod)


# --- D7: an exec in what has died ---------------------------------------------------------------------------------


@each_handler
async def test_d7_a_command_for_a_container_whose_first_process_is_dead_never_runs_elsewhere(
    daemon: Live, handler: str
) -> None:
    """At the moment of its death, before anybody may have noticed, and after. A command on the host would tell its name."""
    pod = ways.pod(daemon, handler, f"d7-{handler}")
    for number in range(9):
        way = ways.WAYS[number % 3]
        id = daemon.started(pod, name=f"mortal{number}")
        os.kill(first_process(id), signal.SIGKILL)
        for _ in range(2):
            done = await ways.run(daemon, way, id, "cat", "/proc/sys/kernel/hostname")
            assert done.failure or done.code, (way, done)
            assert os.uname().nodename.encode() not in done.said
        daemon.until_exited(id)
        done = await ways.run(daemon, way, id, "true")
        assert "not running" in done.failure or "FAILED_PRECONDITION" in done.failure, done
    ways.remove(daemon, pod)


# --- A command is its container -----------------------------------------------------------------------------------

FACTS = """
grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Umask|THP_enabled|CoreDumping)' /proc/self/status
for file in oom_score_adj limits uid_map gid_map setgroups personality attr/current timerslack_ns; do
  echo "$file: $(cat /proc/self/$file 2>&1)"; done
for kind in cgroup ipc mnt net pid user uts time; do readlink /proc/self/ns/$kind; done
/bin/busybox cut -d ' ' -f 18,19,40,41 /proc/self/stat
echo "$(/bin/busybox stat -c %i /) $(pwd)"
grep -v name= /proc/self/cgroup
"""
USERS_OF_ITS_OWN = cri.NamespaceOption(pid=cri.CONTAINER, userns_options=USERS)
IDENTITIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "a user": ({}, {"run_as_user": cri.Int64Value(value=33), "run_as_group": cri.Int64Value(value=7), "supplemental_groups": [5, 6],
                    "capabilities": cri.Capability(add_ambient_capabilities=["NET_BIND_SERVICE"])}),
    "confined": ({}, {"no_new_privs": True, "seccomp": DEFAULT, "capabilities": cri.Capability(drop_capabilities=["ALL"])}),
    "privileged": ({"privileged": True}, {"privileged": True}),
    "a user namespace": ({"namespace_options": USERS_OF_ITS_OWN}, {"namespace_options": USERS_OF_ITS_OWN, "seccomp": DEFAULT}),
}  # fmt: skip


@each_handler
@pytest.mark.parametrize("name", IDENTITIES)
async def test_a_command_is_what_its_containers_first_process_is(
    daemon: Live, name: str, handler: str
) -> None:
    """Ids, groups, capabilities, filters, limits, scores, namespaces: the first process says them, then each command."""
    of_pod, of_container = IDENTITIES[name]
    sandbox = cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext(**of_pod))
    try:
        pod = ways.pod(daemon, handler, f"is-{handler}-{[*IDENTITIES].index(name)}", linux=sandbox)
    except grpc.RpcError as error:
        assert "cannot make user namespaces" in str(error.details()) and handler != "crun"
        pytest.skip(f"this {handler} cannot make user namespaces")
    resources = cri.LinuxContainerResources(oom_score_adj=456)
    config = cri.LinuxContainerConfig(
        security_context=cri.LinuxContainerSecurityContext(**of_container), resources=resources
    )
    id = daemon.started(
        pod, "sh", "-c", f"({FACTS}) 2>&1; echo said; exec sleep 100000", linux=config, working_dir="/etc"
    )
    first = until_said(daemon, id)
    assert "oom_score_adj: 456" in first and len(first) > 40
    for way in ways.WAYS:
        done = await ways.run(daemon, way, id, "sh", "-c", f"({FACTS}) 2>&1; echo said")
        assert done.lines == first, way
    ways.remove(daemon, pod)


def until_said(daemon: Live, id: str) -> list[str]:
    deadline = time.monotonic() + 10
    while "said" not in (lines := daemon.logged(id)):
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
    return lines


@each_handler
@each_way
async def test_a_command_is_in_its_containers_groups_and_sees_no_others(
    daemon: Live, way: str, handler: str
) -> None:
    """As the host sees it, in each hierarchy that limits anything; from inside there is nothing above or beside it."""
    pod = ways.pod(daemon, handler, f"groups-{way}-{handler}")
    id, other = daemon.started(pod, name="a"), daemon.started(pod, name="b")
    script = "cat /proc/self/cgroup; find /sys/fs/cgroup -maxdepth 4; echo said; sleep 45.678"
    running = asyncio.create_task(ways.run(daemon, way, id, "sh", "-c", script))
    pid = await until(
        lambda: next(
            (
                int(e.parent.name)
                for e in Path("/proc").glob("[0-9]*/cmdline")
                if read(e) == "sleep\00045.678\0"
            ),
            0,
        )
    )
    assert pid not in (first_process(id), first_process(other))
    limiting = [
        {
            line
            for line in read(Path(f"/proc/{each}/cgroup")).splitlines()
            if "name=" not in line and not line.startswith("0::")
        }
        for each in (pid, first_process(id))
    ]
    assert limiting[0] == limiting[1] and id in str(limiting[0])
    unified = [
        read(Path(f"/proc/{each}/cgroup")).partition("0::")[2].strip() for each in (pid, first_process(id))
    ]
    assert unified[0].startswith(unified[1]) or way == ways.SYNC
    os.kill(pid, signal.SIGKILL)
    said = (await running).said.decode()
    assert "said" in said and other not in said and "/.." not in said, said
    ways.remove(daemon, pod)


async def until(what: Callable[[], int]) -> int:
    deadline = time.monotonic() + 10
    while not (found := what()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


SLEEPER = "sleep\00034.567\0"


@each_handler
async def test_a_command_that_takes_all_memory_or_forks_without_end_is_held_by_its_containers_limits(
    daemon: Live, handler: str
) -> None:
    """The bomb dies; the container, its conmon, the daemon and other commands do not. The limit of processes is set as
    the kubelet does, which the CRI has no word for."""
    pod = ways.pod(daemon, handler, f"bombs-{handler}")
    resources = cri.LinuxContainerResources(
        memory_limit_in_bytes=48 << 20, memory_swap_limit_in_bytes=48 << 20
    )
    id = daemon.started(pod, linux=cri.LinuxContainerConfig(resources=resources))
    init, conmon = first_process(id), conmon_of(id)
    bomb = "x=0123456789abcdef; while :; do x=$x$x; done"
    for way in ways.WAYS:
        done = await ways.run(daemon, way, id, "sh", "-c", bomb)
        assert (done.code, done.failure) == (137, ""), (way, done)
        assert (await ways.run(daemon, way, id, "echo", "well")).said == b"well\n"
    assert first_process(id) == init and conmon_of(id) == conmon
    pids = group_of(init, "pids")
    (pids / "pids.max").write_text("12")
    forks = "i=0; while [ $i -lt 40 ]; do sleep 34.567 & i=$((i+1)); done; wait"
    for way in (ways.PIPES, ways.TERMINAL):
        before = refused(pids)
        client = await ways.begin(daemon, way, id, "sh", "-c", forks)
        await until(partial(more_than, before, pids))
        assert len(processes(SLEEPER)) <= 10  # besides the first process and the shell
        client.leave()
        for left in processes(SLEEPER):  # the bomb itself may have ended before its client
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        await until(lambda: not processes(SLEEPER))
    ways.remove(daemon, pod)


def more_than(before: int, pids: Path) -> bool:
    return refused(pids) > before


def refused(pids: Path) -> int:
    """How often somebody could not fork (pids.events)."""
    return int((pids / "pids.events").read_text().split()[1])


def group_of(pid: int, controller: str) -> Path:
    """Where a process is limited by this controller."""
    lines = [line.split(":", 2) for line in read(Path(f"/proc/{pid}/cgroup")).splitlines()]
    for _, names, path in lines:
        if controller in names.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}")
    return Path("/sys/fs/cgroup" + next(path for _, names, path in lines if not names))


def processes(words: str) -> list[int]:
    return [int(e.parent.name) for e in Path("/proc").glob("[0-9]*/cmdline") if read(e) == words]


# --- What brings a command there, seen from a pod that sees all processes of the host ------------------------------


@each_handler
@pytest.mark.parametrize("way", [ways.PIPES, ways.TERMINAL])
async def test_root_of_a_container_can_open_nothing_of_who_brings_its_commands(
    daemon: Live, way: str, handler: str
) -> None:
    """The daemon, conmon, the OCI runtime, the adopter: not their binaries, memory, descriptors, environments, roots."""
    options = cri.LinuxSandboxSecurityContext(namespace_options=cri.NamespaceOption(pid=cri.NODE))
    pod = ways.pod(
        daemon, handler, f"seen-{way}-{handler}", linux=cri.LinuxPodSandboxConfig(security_context=options)
    )
    id = daemon.started(pod, linux=linux(namespace_options=cri.NamespaceOption(pid=cri.NODE)))
    seconds = f"23.{os.urandom(3).hex().translate(str.maketrans('abcdef', '123456'))}"
    client = await ways.begin(daemon, way, id, "sleep", seconds)
    command = await until(lambda: (processes(f"sleep\0{seconds}\0") or [0])[0])
    ours = {daemon.own.pid, conmon_of(id), *below(daemon.own.pid)} - {command}
    host = mount_namespace(daemon.own.pid)  # what is in another is a container's, and on its own level
    ours = {each for each in ours if mount_namespace(each) == host}
    names = {pid: read(Path(f"/proc/{pid}/cmdline")).split("\0") for pid in ours}
    assert any("sampan.host.oci.adopter" in words or "exec" in words for words in names.values()), names
    tries = " ".join(
        f"/proc/{pid}/{what}"
        for pid in sorted(ours)
        for what in ("exe", "root/etc/hostname", "environ", "mem", "fd/0", "cwd/etc", "maps")
    )
    tries += " /proc/self/environ"  # so that it shows that it can
    script = f"for f in {tries}; do head -c 1 $f >/dev/null 2>&1 && echo opened $f; true 2>/dev/null >>$f && echo wrote $f; done; echo done"
    looked = daemon.exec(id, "sh", "-c", script)
    opened = [line for line in looked.stdout.decode().splitlines() if line != "wrote /proc/self/environ"]
    assert opened == ["opened /proc/self/environ", "done"], (opened, looked.stderr)
    client.leave()
    ways.remove(daemon, pod)


def mount_namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    except OSError:
        return ""


def below(pid: int) -> set[int]:
    found = set(children(pid))
    return found.union(*(below(each) for each in found))
