"""One daemon for all tests of a file, an image made to be attacked with, and short words for requests."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from scripts import private_daemon
from tests import cgroup_drivers, images, oci_runtimes
from tests.daemon.conftest import IMAGE, Live, clean_up, import_image

SECRET = "5ecre7-of-the-daemon"
NET_RAW = 13
# capabilities(7), file capabilities: revision 2, nothing permitted, NET_RAW inheritable, effective
INHERITABLE_FILE = bytes((1, 0, 0, 2, *(0,) * 4, 0, 1 << (NET_RAW - 8), *(0,) * 10)).decode("ascii")
PASSWD = (
    images.PASSWD + b"app:x:1000:1000::/home/app:/bin/sh\n2147483648:x:0:0::/root:/bin/sh\n"
    b"huge:x:4294967295:0::/root:/bin/sh\nhugegroup:x:7:4294967295::/root:/bin/sh\n"
)
GROUP = (
    images.GROUP + b"app:x:1000:\naudio:x:29:app\nvideo:x:44:app,www-data\nodd:x:1234:\nhuge:x:4294967296:\n"
)


def entries() -> list[images.Entry]:
    """Set-uid copies, a file whose group may do less than everybody, file capabilities, a user database with traps."""
    busybox = Path("/bin/busybox").read_bytes()
    return [
        images.Entry("suid", "dir"),  # of the host, for busybox itself gives up what set-uid gave it
        images.Entry("suid/id", data=Path("/usr/bin/id").read_bytes(), mode=0o4755),
        images.Entry("caps", "dir"),
        images.Entry(
            "caps/cat", data=busybox, mode=0o755, pax={"SCHILY.xattr.security.capability": INHERITABLE_FILE}
        ),
        images.Entry("less-for-odd", data=b"secret", mode=0o707, gid=1234),
        images.Entry("again", data=b"#!/proc/self/exe\n", mode=0o755),  # runs whoever runs it
        images.Entry("etc/passwd", data=PASSWD),
        images.Entry("etc/group", data=GROUP),
    ]


def add_handlers(live: Live) -> None:
    """runc beside crun; and copies of both, `own-crun` and `own-runc`, that nobody else on this machine runs."""
    own = live.own.directory / "bin"
    own.mkdir(0o755)
    with live.own.config.open("a") as config:
        for name in filter(shutil.which, oci_runtimes.RUNTIMES):
            copied = shutil.copy(str(shutil.which(name)), own)
            config.write(f'[runtime.handlers.own-{name}]\npath = "{copied}"\n')
            if name != "crun":
                config.write(f"[runtime.handlers.{name}]\n")


def user_image(user: str) -> images.Image:
    return images.busybox(entries(), {"User": user})


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A running daemon with the image; its environment holds what must never reach a container or a tool."""
    live = Live(os.getpid() % 200 + 20, cgroup_drivers.DRIVERS[-1])
    planted = {"SECRET_CANARY": SECRET, "RUN_OCI_SECCOMP_RECEIVER": f"/{SECRET}", "LISTEN_FDS": "60"}
    try:
        add_handlers(live)
        private_daemon.start(live.own, environment=planted)
        archive = tmp_path_factory.mktemp("archive") / "box.tar"
        archive.write_bytes(images.oci_layout({IMAGE: images.busybox(entries())}))
        import_image(live, archive)
        yield live
    finally:
        with private_daemon.uninterrupted():
            clean_up(live)


@pytest.fixture(scope="module")
def pod(daemon: Live) -> str:
    """A pod for all tests that need no special one."""
    return daemon.pod("shared")


class Containers:
    """Makes containers with names of their own; they go with the test."""

    def __init__(self, daemon: Live, pod: str) -> None:
        self._daemon, self._pod = daemon, pod
        self._made: list[str] = []

    def __call__(self, *command: str, pod: str = "", **more: Any) -> str:
        """A started container's id."""
        id = self._daemon.started(pod or self._pod, *command, name=f"c{os.urandom(6).hex()}", **more)
        self._made.append(id)
        return id

    def secured(self, *command: str, pod: str = "", **context: Any) -> str:
        """One with this security context."""
        return self(*command, pod=pod, linux=linux(**context))

    def remove(self) -> None:
        for id in self._made:
            self._daemon.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=id), timeout=30)


@pytest.fixture
def containers(daemon: Live, pod: str) -> Iterator[Containers]:
    made = Containers(daemon, pod)
    try:
        yield made
    finally:
        made.remove()


def linux(**context: Any) -> cri.LinuxContainerConfig:
    return cri.LinuxContainerConfig(security_context=cri.LinuxContainerSecurityContext(**context))


def code_of(call: Callable[..., object], *arguments: Any, **more: Any) -> tuple[grpc.StatusCode, str]:
    """How a call is answered: its code and words; OK of one that is not refused."""
    try:
        call(*arguments, **more)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def process_status(daemon: Live, id: str, pid: str = "self", reader: str = "cat") -> dict[str, str]:
    """/proc/<pid>/status as a process in the container sees it."""
    text = daemon.exec(id, reader, f"/proc/{pid}/status").stdout.decode()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
