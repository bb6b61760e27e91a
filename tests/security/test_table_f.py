# ruff: noqa: E501 - one row of a table, one line
"""What can be reached of the daemon from outside: by a container, by a stranger on this machine, by a client that has a
session. A test for each known way.

F1 control sockets · F2 tokens of sessions · F3 addresses · F4 sessions that never end · F5 SPDY · F6 HTTP and WebSocket ·
F8 a monitor or a first process that is gone · F10 addresses that we hand out.

Not here: floods (`tests/daemon/test_battery.py`), subscribers of events (F7), and endpoints that there are none of (F9).
"""

import asyncio
import os
import re
import signal
import socket
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.config import ConfigInvalid, loads
from sampan.server.streaming import tokens
from sampan.wire.remotecommand import over_websocket
from sampan.wire.remotecommand.channels import Wanted
from sampan.wire.remotecommand.status import Status
from sampan.wire.spdy import frames
from sampan.wire.spdy.headers import DICTIONARY, Packer
from sampan.wire.spdy.limits import Limits
from sampan.wire.upgrade import Kind, Refused
from scripts.private_daemon import processes_of
from tests.attacks import connected, ended, reset
from tests.daemon.conftest import SECONDS, Live
from tests.growth import children
from tests.security import ways
from tests.security.conftest import Containers, code_of, linux
from tests.security.test_table_d import PYTHON, conmon_of, first_process, read, until
from tests.security.test_table_e import with_python
from tests.sessions import ALL, lab
from tests.stream_clients import CARRIERS, Client

pytestmark = pytest.mark.root
both = pytest.mark.parametrize("carrier", CARRIERS)
GONE = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def box(daemon: Live, pod: str) -> str:
    """A container for all tests that harm none: it reads, and says nothing."""
    return daemon.started(pod, "sh", "-c", "cat >/dev/null; exec sleep 100000", name="box", stdin=True)


def url_of(daemon: Live, kind: str, box: str) -> str:
    if kind == "attach":
        return daemon.runtime.Attach(cri.AttachRequest(container_id=box, stdin=True, stdout=True), timeout=SECONDS).url
    if kind == "portforward":
        pod = daemon.runtime.ListContainers(cri.ListContainersRequest(filter=cri.ContainerFilter(id=box))).containers[0].pod_sandbox_id
        return daemon.runtime.PortForward(cri.PortForwardRequest(pod_sandbox_id=pod, port=[80]), timeout=SECONDS).url
    return ways.url(daemon, box, "cat", wanted=Wanted(stdin=True, stdout=True))


KINDS = ("exec", "attach", "portforward")


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), parts.port or 0


# --- F1: control sockets (CVE-2020-15257) -------------------------------------------------------------------------


def ours(daemon: Live) -> set[int]:
    return {daemon.own.pid, *children(daemon.own.pid), *processes_of(daemon.own.directory)}


def inodes(pids: set[int]) -> set[str]:
    """Of the sockets that these have open."""
    found = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                name = os.readlink(link)
                if name.startswith("socket:["):
                    found.add(name[8:-1])
    return found


def unix_names(inodes: set[str]) -> list[str]:
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [line[7] for line in lines if len(line) > 7 and line[6] in inodes]


async def test_f1_every_socket_of_ours_has_a_path_that_root_alone_reaches(daemon: Live, pod: str, box: str) -> None:
    """While a container with a terminal, an attached client and commands with terminals are there. Another user tries
    each of them: on the host, and in a container that shares the host's network and has all of our directory mounted."""
    tty = daemon.started(pod, name="tty", tty=True, stdin=True)
    sessions = [await ways.begin(daemon, ways.TERMINAL, box, "cat", stdin=True)]
    joined = daemon.runtime.Attach(cri.AttachRequest(container_id=tty, stdin=True, stdout=True, tty=True)).url
    sessions.append(await Client.connect("spdy", joined, Wanted(stdin=True, stdout=True, tty=True)))
    names = unix_names(inodes(ours(daemon)))
    assert len({name for name in names if name.startswith("/")}) >= 3, names
    assert [name for name in names if name.startswith("@")] == []
    sockets = [path for path in daemon.own.directory.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
    assert len(sockets) >= 4 and daemon.own.socket in sockets  # ours, an attach socket each, the terminal's
    assert stat.S_IMODE(daemon.own.socket.stat().st_mode) in (0o600, 0o660)
    for path in sockets:
        with pytest.raises(PermissionError):
            await asyncio.to_thread(connect_as_nobody, path)
    inside = {str(path): str(Path("/held") / path.relative_to(daemon.own.directory)) for path in sockets}
    held = cri.Mount(host_path=str(daemon.own.directory), container_path="/held", readonly=True)
    node = cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER)
    sandbox = cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext(namespace_options=node))
    hostile = daemon.pod("hostnet", linux=sandbox)
    nobody = cri.Int64Value(value=65534)
    id = daemon.started(hostile, mounts=[*with_python(), held], linux=linux(run_as_user=nobody, namespace_options=node))
    done = daemon.exec(id, PYTHON, "-S", "-c", CONNECTING, *inside.values())
    assert done.exit_code == 0 and done.stdout.split() == [b"13"] * len(inside), done  # EACCES
    for session in sessions:
        session.leave()
    ways.remove(daemon, hostile)


CONNECTING = """
import os, socket, sys
for path in sys.argv[1:]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as one:
            code = one.connect_ex(path)
        if code != 91:  # EPROTOTYPE
            break
    print(code)
"""


def connect_as_nobody(path: Path) -> None:
    """In a child, which has given up being root."""
    child = os.fork()
    if child == 0:
        code = 99
        with suppress(BaseException):
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            codes = []
            for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_UNIX, kind) as one:
                    codes.append(one.connect_ex(str(path)))
            code = next((each for each in codes if each != 91), 91)
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code), str(path))


async def test_f1_a_commands_terminal_comes_by_a_socket_in_a_directory_of_its_own(daemon: Live, box: str) -> None:
    """Which nobody serves any more once the terminal is there, and which goes with the command."""
    place = daemon.own.state / "exec"
    session = await ways.begin(daemon, ways.TERMINAL, box, "sh", "-c", "echo up; cat", stdin=True)
    await session.until(lambda: b"up" in session.stdout)
    (own,) = place.iterdir()
    assert stat.S_IMODE(own.stat().st_mode) == 0o700 and len(own.name) == 16
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(own / "console"))
    session.leave()
    await until(lambda: not list(place.iterdir()))


# --- F2: tokens -----------------------------------------------------------------------------------------------------


def listening(daemon: Live) -> set[tuple[str, int]]:
    """Where the daemon and its children listen, as the kernel says it."""
    held = inodes({daemon.own.pid, *children(daemon.own.pid)})
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in held:
                address, port = words[1].split(":")
                whole = b"".join(struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8))
                found.add((socket.inet_ntop(family, whole), int(port, 16)))
    return found


def test_f2_the_listener_is_on_the_loopback_alone_and_urls_name_it(daemon: Live, box: str) -> None:
    places = listening(daemon)
    assert len(places) == 1 and {host for host, _ in places} == {"127.0.0.1"}
    assert {address_of(url_of(daemon, kind, box)) for kind in KINDS} == places


@both
async def test_f2_a_token_is_good_once_at_its_place_and_for_one_of_a_hundred(daemon: Live, box: str, carrier: str) -> None:
    wanted = Wanted(stdin=True, stdout=True)
    url = ways.url(daemon, box, "echo", "mine", wanted=wanted)
    for kind in ("attach", "portforward", "EXEC", "exec/..", "exec/./"):  # is refused, and does not spend it
        with pytest.raises(Refused, match="there is no such session"):
            await Client.connect(carrier, url.replace("/exec/", f"/{kind}/"), wanted)

    async def use() -> Client | None:
        try:
            return await Client.connect(carrier, url, wanted)
        except Refused as refused:
            assert refused.status == 404
            return None

    (winner,) = [each for each in await asyncio.gather(*(use() for _ in range(100))) if each]
    assert (await winner.finished(), winner.stdout) == (Status(), b"mine\n")
    assert await use() is None  # replayed


@both
async def test_f2_a_token_is_nothing_after_a_minute_whatever_the_wall_clock_says(carrier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab() as it:
        late, early = await it.url("echo"), await it.url("echo")
        monkeypatch.setattr(time, "time", lambda: 4e9)
        client = await Client.connect(carrier, early, ALL)
        assert await client.finished() == Status()
        it.tokens._now = lambda: time.monotonic() + tokens.SECONDS
        with pytest.raises(Refused, match="within a minute"):
            await Client.connect(carrier, late, ALL)
        assert len(it.tokens) == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_f2_a_token_dies_with_what_it_is_for(daemon: Live, kind: str) -> None:
    """And is none for what has its name later."""
    def made() -> tuple[str, str]:
        pod = daemon.pod("mortal")
        return pod, daemon.started(pod, stdin=True)

    pod, id = made()
    url = url_of(daemon, kind, id)
    ways.remove(daemon, pod)
    pod, id = made()
    with pytest.raises((Refused, AssertionError)) as caught:
        client = await Client.connect("websocket" if kind != "portforward" else "spdy", url, Wanted(stdin=True, stdout=True), *(["portforward.k8s.io"] if kind == "portforward" else []))
        status = await client.finished()
        assert not status.failure, status.failure
        pytest.fail("a session began")
    assert "not" in str(caught.value), caught.value
    ways.remove(daemon, pod)


async def test_f2_no_pod_can_try_one_but_those_of_the_hosts_network(daemon: Live, pod: str, box: str) -> None:
    """From a pod's own network neither the loopback nor the bridge leads there. From the host's network a guess is 404, and nothing is told."""
    url = url_of(daemon, "exec", box)
    _, port = address_of(url)
    bridge = daemon.own.network.subnet.rpartition(".")[0] + ".1"
    request = f"printf 'GET {urlsplit(url).path} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'"
    for host in ("127.0.0.1", bridge, "::1", "0.0.0.0"):
        tried = daemon.exec(box, "sh", "-c", f"{request} | nc -w 2 {host} {port}")
        assert tried.exit_code and not tried.stdout, tried
    node = cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER)
    sandbox = cri.LinuxPodSandboxConfig(security_context=cri.LinuxSandboxSecurityContext(namespace_options=node))
    near = daemon.pod("near", linux=sandbox)
    id = daemon.started(near, linux=linux(namespace_options=node))
    guess = f"printf 'GET /exec/{'A' * 43} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'"
    told = daemon.exec(id, "sh", "-c", f"{guess} | nc -w 2 127.0.0.1 {port}").stdout
    assert told.startswith(b"HTTP/1.1 404 ") and box.encode() not in told and len(told) < 400
    ways.remove(daemon, near)


@both
async def test_f2_neither_tokens_nor_what_commands_are_given_is_in_the_log(daemon: Live, box: str, carrier: str) -> None:
    """The log is at its most talkative here; used, spent, misplaced and never used."""
    secret = os.urandom(8).hex()
    wanted = Wanted(stdin=True, stdout=True)
    urls = [ways.url(daemon, box, *words, wanted=wanted) for words in (["echo", secret], ["/nonesuch", f"--password={secret}"], ["cat"])]
    for url in urls[:2]:
        client = await Client.connect(carrier, url, wanted)
        await client.finished()
        with pytest.raises(Refused):
            await Client.connect(carrier, url, wanted)
    with pytest.raises(Refused):
        await Client.connect(carrier, urls[2].replace("exec", "attach"), wanted)
    daemon.exec(box, "echo", secret)
    code_of(daemon.exec, box, "/nonesuch", secret)
    log = daemon.own.log.read_text()
    assert "a session has ended" in log and "ExecSync" in log
    for word in (secret, *(url.rpartition("/")[2] for url in urls)):
        assert word not in log


# --- F3: addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["", " ", "0.0.0.0", "::", "0", "::0", "::ffff:0.0.0.0", "192.0.2.1", "2001:db8::1", "fe80::1%lo", "localhost", "example.com",
     "127.0.0.1.example.com", "127.1", "0x7f.0.0.1", "017700000001", "127.0.0.1\\n", "*", "127.0.0.0/8", "10.0.0.1", "169.254.169.254"],
)  # fmt: skip
def test_f3_strangers_are_not_listened_to_without_certificates(address: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"streaming\.address"):
        loads(f'[streaming]\naddress = "{address}"\n')
    with pytest.raises(ConfigInvalid, match=r"streaming\."):  # a certificate of ours tells us nothing of them
        loads(f'[streaming]\naddress = "{address}"\ntls_cert = "/c"\ntls_key = "/k"\n')


# --- F4: sessions that never end ------------------------------------------------------------------------------------


def held_by(daemon: Live) -> dict[str, int]:
    """What a session that has not ended would hold."""
    proc = Path(f"/proc/{daemon.own.pid}")
    return {
        "descriptors": len(list((proc / "fd").iterdir())),
        "children": len(list(children(daemon.own.pid))),
        "files": sum(1 for _ in (daemon.own.state / "exec").glob("**/*")),
        "processes": len(processes_of(daemon.own.directory)),
    }


async def settled(daemon: Live, before: dict[str, int]) -> None:
    deadline = time.monotonic() + 15
    while any(now > before[name] for name, now in held_by(daemon).items()):
        assert time.monotonic() < deadline, (before, held_by(daemon))
        await asyncio.sleep(0.1)


async def missing(daemon: Live, box: str, carrier: str) -> None:
    wanted = Wanted(stdin=True, stdout=True, tty=True)
    client = await Client.connect(carrier, ways.url(daemon, box, "/nonesuch", wanted=wanted), wanted)
    with suppress(ConnectionError):
        await client.resize(100, 30)  # the size of what has failed already
    assert (await client.finished()).failure


async def vanished(daemon: Live, box: str, carrier: str) -> None:
    client = await Client.connect(carrier, url_of(daemon, "attach", box), Wanted(stdin=True, stdout=True))
    client.leave()


async def deaf(daemon: Live, box: str, carrier: str) -> None:
    wanted = Wanted(stdin=True, stdout=True)
    client = await Client.connect(carrier, ways.url(daemon, box, "yes", wanted=wanted), wanted)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(0.3)
    client.leave()


async def talkative(daemon: Live, box: str, carrier: str) -> None:
    """To a command that does not listen."""
    wanted = Wanted(stdin=True, stdout=True)
    client = await Client.connect(carrier, ways.url(daemon, box, "sleep", "1000", wanted=wanted), wanted)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            while True:
                await client.say(bytes(1 << 16))
    client.leave()


async def half(daemon: Live, box: str, carrier: str) -> None:
    """A client that leaves within its opening."""
    kind = Kind.SPDY if carrier == "spdy" else Kind.WEBSOCKET
    reset(await asyncio.to_thread(connected, url_of(daemon, "exec", box), kind, "v4.channel.k8s.io"))


@both
@pytest.mark.parametrize("way", [missing, vanished, deaf, talkative, half])
async def test_f4_whatever_becomes_of_a_client_its_session_ends_whole(daemon: Live, box: str, carrier: str, way: Callable[..., "asyncio.Future[None]"]) -> None:
    await way(daemon, box, carrier)  # what is made once has been made
    await asyncio.sleep(0.1)
    before = held_by(daemon)
    for _ in range(3):
        await asyncio.gather(*(way(daemon, box, carrier) for _ in range(10)))
    await settled(daemon, before)
    highest = memory(daemon)
    assert highest < 200 << 20


def memory(daemon: Live) -> int:
    return int(Path(f"/proc/{daemon.own.pid}/status").read_text().partition("VmRSS:")[2].split()[0]) << 10


@both
async def test_f4_a_size_that_no_terminal_has_ends_nothing(daemon: Live, pod: str, carrier: str) -> None:
    """conmon takes no more than 1000 by 1000; the kernel 65535."""
    wanted = Wanted(stdin=True, stdout=True, tty=True)
    id = daemon.started(pod, "sh", "-c", "while read x; do stty size; done", name=f"sizes-{carrier}", tty=True, stdin=True)
    urls = [
        ways.url(daemon, id, "sh", "-c", "while read x; do stty size; done", wanted=wanted),
        daemon.runtime.Attach(cri.AttachRequest(container_id=id, stdin=True, stdout=True, tty=True)).url,
    ]
    for url in urls:
        client = await Client.connect(carrier, url, wanted)
        for width, height in ((65535, 65535), (0, 0), (1 << 16, 5), (1 << 40, 1 << 40), (77, 33)):
            await client.resize(width, height)
        deadline = time.monotonic() + 10
        while b"33 77" not in client.stdout:
            assert time.monotonic() < deadline, client.stdout
            await client.say(b"\n")
            await asyncio.sleep(0.05)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await client.until(lambda: b"33 77" in client.stdout)
        client.leave()


@both
async def test_f4_a_session_in_which_nothing_happens_ends_after_its_time(carrier: str) -> None:
    async with lab(idle_timeout=0.2) as it:
        for session in (await it.exec(carrier, "cat"), await it.exec(carrier, "sleep")):
            begin = time.monotonic()
            assert "nothing was said for" in (await session.finished()).failure
            assert time.monotonic() - begin < 5
