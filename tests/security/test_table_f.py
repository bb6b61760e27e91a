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
import subprocess
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
from tests.security import ways
from tests.security.conftest import code_of, linux
from tests.security.test_table_d import PYTHON, children, conmon_of, first_process, read, until
from tests.security.test_table_e import with_python
from tests.security.ways import each_handler
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
        return daemon.runtime.Attach(
            cri.AttachRequest(container_id=box, stdin=True, stdout=True), timeout=SECONDS
        ).url
    if kind == "portforward":
        pod = (
            daemon.runtime.ListContainers(cri.ListContainersRequest(filter=cri.ContainerFilter(id=box)))
            .containers[0]
            .pod_sandbox_id
        )
        return daemon.runtime.PortForward(
            cri.PortForwardRequest(pod_sandbox_id=pod, port=[80]), timeout=SECONDS
        ).url
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
                name = str(link.readlink())
                if name.startswith("socket:["):
                    found.add(name[8:-1])
    return found


def unix_names(inodes: set[str]) -> list[str]:
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [line[7] for line in lines if len(line) > 7 and line[6] in inodes]


async def test_f1_every_socket_of_ours_has_a_path_that_root_alone_reaches(
    daemon: Live, pod: str, box: str
) -> None:
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
    nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "/usr/bin/python3",
        "-S",
        "-c",
        CONNECTING,
    ]
    tried = await asyncio.to_thread(
        subprocess.run, [*nobody, *map(str, sockets)], capture_output=True, check=True
    )
    assert tried.stdout.split() == [b"13"] * len(sockets), tried  # EACCES
    inside = {str(path): str(Path("/held") / path.relative_to(daemon.own.directory)) for path in sockets}
    held = cri.Mount(host_path=str(daemon.own.directory), container_path="/held", readonly=True)
    node = cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER)
    sandbox = cri.LinuxPodSandboxConfig(
        security_context=cri.LinuxSandboxSecurityContext(namespace_options=node)
    )
    hostile = daemon.pod("hostnet", linux=sandbox)
    user = cri.Int64Value(value=65534)
    id = daemon.started(
        hostile, mounts=[*with_python(), held], linux=linux(run_as_user=user, namespace_options=node)
    )
    done = daemon.exec(id, PYTHON, "-S", "-c", CONNECTING, *inside.values())
    assert done.exit_code == 0 and done.stdout.split() == [b"13"] * len(inside), done  # EACCES
    for session in sessions:
        session.leave()
    ways.remove(daemon, hostile)


CONNECTING = """
import os, socket, sys

def tried(path):  # its errno; a socket's path is short, so from its directory
    try:
        os.chdir(os.path.dirname(path))
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_UNIX, kind) as one:
                code = one.connect_ex(os.path.basename(path))
            if code != 91:  # EPROTOTYPE
                return code
    except OSError as error:
        return error.errno

if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(tried(path))
"""


async def test_f1_a_commands_terminal_comes_by_a_socket_in_a_directory_of_its_own(
    daemon: Live, box: str
) -> None:
    """Which nobody serves any more once the terminal is there, and which goes with the command."""
    place = daemon.own.state / "exec"
    before = set(place.iterdir())
    session = await ways.begin(daemon, ways.TERMINAL, box, "sh", "-c", "echo up; cat", stdin=True)
    await session.until(lambda: b"up" in session.stdout)
    (own,) = set(place.iterdir()) - before
    assert stat.S_IMODE(own.stat().st_mode) == 0o700 and len(own.name) == 16
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(own / "console"))
    session.leave()
    await until(lambda: not own.exists())


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
                whole = b"".join(
                    struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8)
                )
                found.add((socket.inet_ntop(family, whole), int(port, 16)))
    return found


def test_f2_the_listener_is_on_the_loopback_alone_and_urls_name_it(daemon: Live, box: str) -> None:
    places = listening(daemon)
    assert len(places) == 1 and {host for host, _ in places} == {"127.0.0.1"}
    assert {address_of(url_of(daemon, kind, box)) for kind in KINDS} == places


@both
async def test_f2_a_token_is_good_once_at_its_place_and_for_one_of_a_hundred(
    daemon: Live, box: str, carrier: str
) -> None:
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
async def test_f2_a_token_is_nothing_after_a_minute_whatever_the_wall_clock_says(
    carrier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        client = await Client.connect(
            "websocket" if kind != "portforward" else "spdy",
            url,
            Wanted(stdin=True, stdout=True),
            *(["portforward.k8s.io"] if kind == "portforward" else []),
        )
        status = await client.finished()
        assert not status.failure, status.failure
        pytest.fail("a session began")
    assert re.search(r"there is no|not", str(caught.value)), caught.value
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
    sandbox = cri.LinuxPodSandboxConfig(
        security_context=cri.LinuxSandboxSecurityContext(namespace_options=node)
    )
    near = daemon.pod("near", linux=sandbox)
    id = daemon.started(near, linux=linux(namespace_options=node))
    guess = f"printf 'GET /exec/{'A' * 43} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'"
    told = daemon.exec(id, "sh", "-c", f"{guess} | nc -w 2 127.0.0.1 {port}").stdout
    assert told.startswith(b"HTTP/1.1 404 ") and box.encode() not in told and len(told) < 400
    ways.remove(daemon, near)


@both
async def test_f2_neither_tokens_nor_what_commands_are_given_is_in_the_log(
    daemon: Live, box: str, carrier: str
) -> None:
    """The log is at its most talkative here; used, spent, misplaced and never used."""
    secret = os.urandom(8).hex()
    wanted = Wanted(stdin=True, stdout=True)
    urls = [
        ways.url(daemon, box, *words, wanted=wanted)
        for words in (["echo", secret], ["/nonesuch", f"--password={secret}"], ["cat"])
    ]
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
async def test_f4_whatever_becomes_of_a_client_its_session_ends_whole(
    daemon: Live, box: str, carrier: str, way: Callable[..., "asyncio.Future[None]"]
) -> None:
    # what is made once has been made; a connection to conmon is kept for the next client of a silent container
    await asyncio.gather(*(way(daemon, box, carrier) for _ in range(10)))
    await asyncio.sleep(0.3)
    before = held_by(daemon)
    for _ in range(2):
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
    id = daemon.started(
        pod, "sh", "-c", "while read x; do stty size; done", name=f"sizes-{carrier}", tty=True, stdin=True
    )
    urls = [
        ways.url(daemon, id, "sh", "-c", "while read x; do stty size; done", wanted=wanted),
        daemon.runtime.Attach(cri.AttachRequest(container_id=id, stdin=True, stdout=True, tty=True)).url,
    ]
    for url in urls:
        client = await Client.connect(carrier, url, wanted)
        for width, height in ((65535, 65535), (0, 0), (1001, 1001), (0, 5), (77, 33)):
            await client.resize(width, height)
        deadline = time.monotonic() + 10
        while b"33 77" not in client.stdout:
            assert time.monotonic() < deadline, client.stdout
            await client.say(b"\n")
            await asyncio.sleep(0.05)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await client.until(lambda client=client: b"33 77" in client.stdout)  # type: ignore[misc]
        client.leave()


@both
async def test_f4_a_session_in_which_nothing_happens_ends_after_its_time(carrier: str) -> None:
    async with lab(idle_timeout=0.2) as it:
        for session in (await it.exec(carrier, "cat"), await it.exec(carrier, "sleep")):
            begin = time.monotonic()
            assert "nothing was said for" in (await session.finished()).failure
            assert time.monotonic() - begin < 5


# --- F5: SPDY (CVE-2026-35469) --------------------------------------------------------------------------------------

_LOOSE = Limits(headers=2_000_000, field=1 << 31, block=1 << 31)
_STREAM = struct.Struct(">IIBB")
word = struct.Struct(">I").pack
words = struct.Struct(">II").pack


def opening(kind: str) -> bytes:
    """What an honest client of an exec or of a port-forward begins with: streams 1 and 3."""
    packer = Packer(_LOOSE)
    port = (("port", "80"), ("requestid", "0")) if kind == "portforward" else ()
    types = ("error", "data") if port else ("error", "stdin", "stdout")
    return b"".join(
        frames.syn_stream(2 * at + 1, packer.pack((("streamtype", name), *port)), False)
        for at, name in enumerate(types)
    )


def raw_block(text: bytes) -> bytes:
    """In a zlib stream of its own."""
    packed = zlib.compressobj(9, zdict=DICTIONARY)
    return packed.compress(text) + packed.flush(zlib.Z_SYNC_FLUSH)


def block(*raw: bytes, count: int = -1) -> bytes:
    """Names and values as they are, whatever they are."""
    return raw_block(
        word(len(raw) // 2 if count < 0 else count) + b"".join(word(len(each)) + each for each in raw)
    )


def stream(number: int, packed: bytes = b"") -> bytes:
    return frames.control(frames.Kind.SYN_STREAM, _STREAM.pack(number, 0, 0, 0) + packed)


BOMB = raw_block(words(1, 1) + b"x" + word(40 << 20) + bytes(40 << 20))
FIRST = {  # instead of an opening, which would have begun the headers' zlib stream
    "a million headers": stream(1, block(*[b"a", b"b"], count=1_000_000)),
    "101 headers": stream(1, block(*(each for at in range(101) for each in (b"n%d" % at, b"v")))),
    "a value of a gibibyte": stream(1, raw_block(words(1, 1) + b"a" + word(1 << 30) + b"x")),
    "a value of 9 KiB": stream(1, block(b"streamtype", b"x" * 9216)),
    "a bomb": stream(1, BOMB),
    "a name with capitals": stream(1, block(b"StreamType", b"stdin")),
    "a name twice": stream(1, block(b"a", b"1", b"a", b"2")),
    "an empty name": stream(1, block(b"", b"1")),
    "a line end in a value": stream(1, block(b"streamtype", b"stdin\r\nx: y")),
    "no dictionary": stream(1, zlib.compress(b"\0\0\0\0")),
    "no zlib": stream(1, b"\xff" * 40),
    "bytes after the last header": stream(1, block(b"a", b"b", b"c", b"d", count=1)),
    "no block": stream(1),
    "a short SYN_STREAM": frames.control(1, b"1234567"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version 2": words(1 << 31 | 2 << 16 | 6, 4) + word(1),
    "an even stream": stream(2, block(b"a", b"b")),
    "stream 0": stream(0, block(b"a", b"b")),
    "data for a stream that never was": frames.data_head(7, 1, False) + b"x",
}
LATER = {
    "2^32-1 settings": frames.control(4, word(0xFFFFFFFF)),
    "8191 settings that are not there": frames.control(4, word(8191) + words(7, 1)),
    "no settings' count": frames.control(4, b"12"),
    "a control frame of 2^24-1": words(1 << 31 | 3 << 16 | 1, 0xFFFFFF) + bytes(1 << 16),
    "a PING of 2^24-1": words(1 << 31 | 3 << 16 | 6, 0xFFFFFF) + bytes(1 << 16),
    "a stream again": stream(1, b"\0"),
    "a stream that goes back": stream(99, b"") + stream(97, b""),
    "a window of nothing": frames.window_update(3, 0),
    "a window beyond its end": frames.window_update(3, 0x7FFFFFFF) * 2,
    "the session's window beyond its end": frames.window_update(0, 0x7FFFFFFF) * 2,
    "an initial window of 2^32-1": frames.settings([(7, 0xFFFFFFFF)]),
    "a window for a stream that never was": frames.window_update(77, 1),
    "a reset of a stream that never was": frames.rst_stream(77, 5),
    "a reset of stream 0": frames.rst_stream(0, 5),
    "a short RST_STREAM": frames.control(3, b"123"),
    "a long GOAWAY": frames.control(7, bytes(9)),
    "a PING of nothing": frames.control(6, b""),
    "PING 0": frames.ping(0),
    "a reply to the client's own stream": frames.with_block(frames.Kind.SYN_REPLY, 1, b"", False),
    "headers for a stream that never was": frames.with_block(frames.Kind.HEADERS, 77, b"", False),
    "data for stream 0": frames.data_head(0, 1, False) + b"x",
    "data for a stream of ours that never was": frames.data_head(2, 1, False) + b"x",
    "a garbled block": frames.with_block(frames.Kind.HEADERS, 1, b"\xff" * 20, False),
}


@pytest.fixture(scope="module")
def calm(daemon: Live) -> Iterator[Callable[[], None]]:
    """A session of somebody else, which has to go on, and a daemon that does not grow."""
    pod = daemon.pod("calm")
    id = daemon.started(pod)
    before = memory(daemon)
    with closing(
        connected(
            ways.url(daemon, id, "cat", wanted=Wanted(stdin=True, stdout=True)),
            Kind.WEBSOCKET,
            over_websocket.V5,
        )
    ) as other:
        other.settimeout(10)
        count = 0

        def check() -> None:
            nonlocal count
            count += 1
            said = b"%06d" % count
            other.sendall(bytes((0x82, 0x87)) + bytes(4) + b"\0" + said)
            heard = b""
            while said not in heard:
                more = other.recv(1 << 16)
                assert more, "the other session has ended"
                heard += more
            assert memory(daemon) - before < 32 << 20

        yield check


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*FIRST, *LATER])
def test_f5_the_first_violation_of_spdy_ends_its_session_and_no_other(
    daemon: Live, box: str, calm: Callable[[], None], name: str, kind: str
) -> None:
    protocol = "portforward.k8s.io" if kind == "portforward" else "v4.channel.k8s.io"
    said = FIRST[name] if name in FIRST else opening(kind) + LATER[name]
    with closing(connected(url_of(daemon, kind, box), Kind.SPDY, protocol)) as attacker:
        with suppress(ConnectionError):
            attacker.sendall(said)
        assert ended(attacker, 8)
    calm()


@pytest.mark.parametrize("kind", KINDS)
def test_f5_a_session_that_breaks_nothing_goes_on(daemon: Live, box: str, kind: str) -> None:
    """So that it is the violations that end the others."""
    protocol = "portforward.k8s.io" if kind == "portforward" else "v4.channel.k8s.io"
    with closing(connected(url_of(daemon, kind, box), Kind.SPDY, protocol)) as client:
        pings = (
            frames.ping(1),
            frames.settings([]),
            frames.control(99, b"unknown"),
            frames.window_update(1, 5),
            frames.ping(3),
        )
        client.sendall(opening(kind) + b"".join(pings))
        client.settimeout(8)
        heard = b""
        while frames.ping(3) not in heard:
            more = client.recv(1 << 16)
            assert more, heard
            heard += more
        assert not ended(client, 0.2)


# --- F6: HTTP and WebSocket -----------------------------------------------------------------------------------------


def message(
    payload: bytes, opcode: int = 2, *, fin: bool = True, reserved: int = 0, length: bytes = b""
) -> bytes:
    """Masked, with a key that changes nothing; `length` instead of the true one."""
    head = bytes((0x80 * fin | reserved | opcode,))
    return head + (length or bytes((0x80 | len(payload),))) + bytes(4) + payload


FRAMES = {
    "a length of 2^63": message(b"", length=b"\xff" + struct.pack(">Q", 1 << 63)),
    "a length of 2^63-1": message(b"", length=b"\xff" + struct.pack(">Q", (1 << 63) - 1)),
    "a length of 2^40": message(b"", length=b"\xff" + struct.pack(">Q", 1 << 40)),
    "a length that is longer than it needs to be": message(b"", length=b"\xff" + struct.pack(">Q", 5)),
    "an unmasked frame": b"\x82\x02\0x",
    "reserved bits": message(b"\0x", reserved=0x40),
    "a compressed frame that nobody agreed on": message(b"\0x", reserved=0x40, fin=False),
    "opcode 3": message(b"\0x", 3),
    "opcode 15": message(b"", 15),
    "a fragment of nothing": message(b"x", 0),
    "a message within another": message(b"\0x", fin=False) + message(b"\0y"),
    "endless empty fragments": message(b"\0", fin=False) + message(b"", 0, fin=False) * 1000,
    "a PING of 126 bytes": message(bytes(126), 9, length=b"\xfe" + struct.pack(">H", 126)),
    "a PING in fragments": message(b"x", 9, fin=False),
    "half a close code": message(b"\x03", 8),
    "a close code that nobody may send": message(struct.pack(">H", 1006), 8),
    "a close reason that is no UTF-8": message(struct.pack(">H", 1000) + b"\xff", 8),
    "text that is no UTF-8": message(b"\0\xff\xfe", 1),
    "the end of no channel": message(b"\xff"),
    "the end of two channels": message(b"\xff\0\0"),
    "the end of channel 200": message(b"\xff\xc8"),
}
IGNORED = {
    "channel 254": message(b"\xfex"),
    "channel 3, which is the server's": message(b"\3{}"),
    "a size without a terminal": message(b'\4{"Width":1,"Height":1}'),
    "an empty message": message(b""),
    "a PONG that nobody asked for": message(b"x", 10),
}


@pytest.mark.parametrize("name", FRAMES)
def test_f6_a_frame_that_breaks_the_rules_ends_its_session_and_no_other(
    daemon: Live, box: str, calm: Callable[[], None], name: str
) -> None:
    for kind in ("exec", "attach"):
        with closing(connected(url_of(daemon, kind, box), Kind.WEBSOCKET, over_websocket.V5)) as attacker:
            with suppress(ConnectionError):
                attacker.sendall(FRAMES[name])
            assert ended(attacker, 8), kind
    calm()


@pytest.mark.parametrize("name", IGNORED)
def test_f6_what_means_nothing_does_nothing(daemon: Live, box: str, name: str) -> None:
    with closing(connected(url_of(daemon, "exec", box), Kind.WEBSOCKET, over_websocket.V5)) as client:
        client.sendall(IGNORED[name] + message(b"\0still"))
        client.settimeout(8)
        heard = b""
        while b"still" not in heard:
            more = client.recv(1 << 16)
            assert more, heard
            heard += more


SPDY = b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
HEADS: list[tuple[str, bytes, int]] = [
    ("a subprotocol that nobody speaks, SPDY", b"POST %s HTTP/1.1\r\nHost: x\r\n" + SPDY.replace(b"v4", b"v9") + b"\r\n", 403),
    ("a subprotocol that nobody speaks", b"GET %s HTTP/1.1\r\nHost: x\r\n" + WEBSOCKET + KEY + b"Sec-WebSocket-Protocol: v9.channel.k8s.io\r\n\r\n", 403),
    ("no upgrade", b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n", 426),
    ("an upgrade to HTTP/2", b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 400),
    ("HTTP/1.0", b"POST %s HTTP/1.0\r\nHost: x\r\n" + SPDY + b"\r\n", 505),
    ("a body", b"POST %s HTTP/1.1\r\nHost: x\r\n" + SPDY + b"Content-Length: 3\r\n\r\nabc", 400),
    ("a body in chunks", b"POST %s HTTP/1.1\r\nHost: x\r\n" + SPDY + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("two lengths", b"POST %s HTTP/1.1\r\nHost: x\r\n" + SPDY + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
    ("no host", b"POST %s HTTP/1.1\r\n" + SPDY + b"\r\n", 400),
    ("two hosts", b"POST %s HTTP/1.1\r\nHost: x\r\nHost: y\r\n" + SPDY + b"\r\n", 400),
    ("a folded line", b"POST %s HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\x00\r\n" + SPDY + b"\r\n", 400),
    ("a space before the colon", b"POST %s HTTP/1.1\r\nHost: x\r\nA : b\r\n" + SPDY + b"\r\n", 400),
    ("101 headers", b"POST %s HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 101 + SPDY + b"\r\n", 431),
    ("a head of 17 KiB", b"POST %s HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 17408 + b"\r\n" + SPDY + b"\r\n", 431),
    ("a head of 10 MiB that never ends", b"POST %s HTTP/1.1\r\nHost: x\r\nA: " + b"b" * (10 << 20), 431),
    ("a target of 17 KiB", b"POST %s?" + b"x" * 17408 + b" HTTP/1.1\r\nHost: x\r\n" + SPDY + b"\r\n", 431),
    ("a method that nobody knows", b"CONNECT %s HTTP/1.1\r\nHost: x\r\n" + SPDY + b"\r\n", 405),
    ("a WebSocket by POST", b"POST %s HTTP/1.1\r\nHost: x\r\n" + WEBSOCKET + KEY + b"\r\n", 405),
    ("a WebSocket without a key", b"GET %s HTTP/1.1\r\nHost: x\r\n" + WEBSOCKET + b"\r\n", 400),
    ("a WebSocket of version 8", b"GET %s HTTP/1.1\r\nHost: x\r\n" + WEBSOCKET.replace(b"13", b"8") + KEY + b"\r\n", 426),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n%s", 400),
]  # fmt: skip


@pytest.mark.parametrize(("name", "head", "status"), HEADS, ids=[row[0] for row in HEADS])
def test_f6_a_head_that_begins_no_session_is_answered_and_that_is_all(
    daemon: Live, box: str, calm: Callable[[], None], name: str, head: bytes, status: int
) -> None:
    url = url_of(daemon, "exec", box)
    with closing(socket.create_connection(address_of(url), timeout=8)) as client:
        with suppress(ConnectionError):
            client.sendall(head.replace(b"%s", urlsplit(url).path.encode(), 1))
        heard = b""
        with suppress(ConnectionError):
            while more := client.recv(1 << 16):
                heard += more
    # who still talks when it is turned away may see the end before the answer
    assert heard.startswith(b"HTTP/1.1 %d " % status) or (not heard and len(head) > 1 << 20), (
        name,
        heard[:300],
    )
    calm()


# --- F8: a monitor or a first process that is gone (CVE-2019-14891) -------------------------------------------------


async def test_f8_the_monitor_is_no_victim_of_its_container(daemon: Live, pod: str) -> None:
    """It is in none of the container's groups, and no likelier to be killed than the daemon."""
    id = daemon.started(pod, name="watched")
    groups = read(Path(f"/proc/{conmon_of(id)}/cgroup"))
    assert id not in groups.replace(f"conmon-{id}", "")
    score = int(read(Path(f"/proc/{conmon_of(id)}/oom_score_adj")))
    assert score <= int(read(Path(f"/proc/{daemon.own.pid}/oom_score_adj")))


@each_handler
async def test_f8_without_its_monitor_a_command_is_in_its_container_or_nowhere(
    daemon: Live, handler: str
) -> None:
    """The container lives on without its conmon, and takes commands, but no client for its own input and output. When
    its first process dies too, of which nobody tells the daemon, nothing runs, neither there nor on the host."""
    pod = ways.pod(daemon, handler, f"f8-{handler}")
    id = daemon.started(pod, stdin=True)
    urls = {kind: url_of(daemon, kind, id) for kind in ("exec", "attach")}
    init = first_process(id)
    inside = tuple(str(Path(f"/proc/{init}/ns/{kind}").readlink()) for kind in ("mnt", "pid"))
    os.kill(conmon_of(id), signal.SIGKILL)
    look = ("readlink", "/proc/self/ns/mnt", "/proc/self/ns/pid")
    for way in ways.WAYS:
        done = await ways.run(
            daemon, way, id, "sh", "-c", f"for n in {' '.join(look[1:])}; do readlink $n; done"
        )
        assert done.code == 0 and tuple(done.lines) == inside, (way, done)
    with pytest.raises(Refused, match="nothing watches"):
        await Client.connect("websocket", urls["attach"], Wanted(stdin=True, stdout=True))
    os.kill(init, signal.SIGKILL)
    for way in ways.WAYS:
        done = await ways.run(daemon, way, id, "readlink", look[1])
        assert done.failure or done.code, (way, done)
        assert str(Path("/proc/self/ns/mnt").readlink()).encode() not in done.said
    status = daemon.until_exited(id)
    assert status.exit_code != 0
    for way in ways.WAYS:
        assert "FAILED_PRECONDITION" in (await ways.run(daemon, way, id, "true")).failure
    client = await Client.connect("websocket", urls["exec"], Wanted(stdin=True, stdout=True))
    assert "not running" in (await client.finished()).failure
    ways.remove(daemon, pod)


# --- F10: addresses that we hand out (CVE-2018-1002102) -------------------------------------------------------------


def test_f10_no_request_changes_the_address_that_is_handed_out(daemon: Live, box: str) -> None:
    """Whatever a client calls us, and whatever its command says: scheme, host and port were fixed at the start."""
    (place,) = listening(daemon)
    shape = re.compile(
        rf"http://{re.escape(place[0])}:{place[1]}/(exec|attach|portforward)/[A-Za-z0-9_-]{{43}}"
    )
    metadata = (
        ("host", "evil.example"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "gopher"),
        ("forwarded", "host=evil.example"),
    )
    options = [("grpc.default_authority", "169.254.169.254")]
    with grpc.insecure_channel(daemon.own.endpoint, options=options) as channel:
        asked = cri.ExecRequest(
            container_id=box,
            cmd=["http://evil.example/@", "//evil.example", "\r\nHost: evil.example"],
            stdout=True,
        )
        call = channel.unary_unary(
            "/runtime.v1.RuntimeService/Exec",
            request_serializer=cri.ExecRequest.SerializeToString,
            response_deserializer=cri.ExecResponse.FromString,
        )
        assert shape.fullmatch(call(asked, metadata=metadata, timeout=SECONDS).url)
    for kind in KINDS:
        assert shape.fullmatch(url_of(daemon, kind, box))
