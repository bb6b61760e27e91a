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
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests.daemon.conftest import Live
from tests.daemon.test_userns import USERS
from tests.growth import children
from tests.security import ways
from tests.security.conftest import SECRET, Containers, code_of, linux
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


def conmon_of(id: str) -> int:
    found = [
        int(entry.parent.name)
        for entry in Path("/proc").glob("[0-9]*/cmdline")
        if id in (words := read(entry)) and "conmon" in words.partition("\0")[0]
    ]
    assert len(found) == 1, found
    return found[0]


# --- D1: the runtime's binary (CVE-2019-5736) ---------------------------------------------------------------------

TOOLS = [*filter(None, map(shutil.which, ("crun", "runc", "conmon", "busybox"))), PYTHON]


def digests() -> dict[str, str]:
    return {tool: hashlib.sha256(Path(tool).read_bytes()).hexdigest() for tool in TOOLS}


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
    before = digests()
    identities = {f"{found.st_dev} {found.st_ino}": tool for tool in TOOLS if (found := os.stat(tool))}
    source = Path(__file__).with_name("exe_racer.py").read_text()
    more = cri.Capability(add_capabilities=["SYS_PTRACE"])  # with it, what is not dumpable is no secret either
    gate = asyncio.Semaphore(4)

    async def one(id: str, number: int) -> str:
        async with gate:
            words = ("/again",) if number % 4 else ("/bin/busybox", "true")
            done = await ways.run(daemon, ways.WAYS[number % 3], id, *words)
            return "done" if done.code == 0 and not done.failure else "not done"

    for handler in ways.HANDLERS:
        pod = ways.pod(daemon, handler, f"d1-{handler}")
        id = daemon.started(pod, PYTHON, "-S", "-c", source, mounts=with_python(), linux=linux(capabilities=more))
        count = 140 if handler == "crun" else 60
        outcomes = await asyncio.gather(*(one(id, number) for number in range(count)))
        assert outcomes.count("done") >= count // 4
        assert raced(daemon, id, identities) > count // 4
        ways.remove(daemon, pod)
    assert digests() == before


# --- D2: descriptors, working directories, environment (CVE-2024-21626) -------------------------------------------

HANDED = "ls -l /proc/self/fd; echo; env"


@each_handler
@each_way
async def test_d2_a_command_has_three_descriptors_and_its_containers_environment(daemon: Live, way: str, handler: str) -> None:
    """The daemon was started with a LISTEN_FDS that tells OCI runtimes to pass on sixty more, and with a secret."""
    pod = ways.pod(daemon, handler, f"d2-{way}-{handler}")
    id = daemon.started(pod, envs=[cri.KeyValue(key="MINE", value=b"1")])
    done = await ways.run(daemon, way, id, "sh", "-c", HANDED)
    assert done.code == 0, done
    links, environment = done.said.decode().split("\n\n")
    open_there = dict(re.findall(r" (\d+) -> (.*)", links))
    assert [*open_there] == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
    pattern = r"/dev/pts/\d+" if way == ways.TERMINAL else r"pipe:\[\d+\]"
    assert all(re.fullmatch(pattern, open_there[number]) for number in "012"), open_there
    assert re.fullmatch(r"/proc/\d+/fd", open_there["3"])
    names = {line.partition("=")[0] for line in environment.splitlines()}
    assert "MINE" in names and names <= {"MINE", "PATH", "HOME", "HOSTNAME", "SHLVL", "PWD", "TERM"}, names
    assert SECRET not in environment
    ways.remove(daemon, pod)


@each_way
async def test_d2_a_working_directory_by_a_descriptor_of_the_runtime_is_none(daemon: Live, containers: Containers, way: str) -> None:
    """Asked for as it is, and as a link in the image, for all numbers that a runtime may have open."""
    assert {code_of(daemon.container, daemon.own.pid and "", working_dir=f"/proc/self/fd/{number}")[0] for number in (3, 7)} <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
