"""Hostile clients of a daemon's sessions, over real connections; each kind of attack is a process of its own, so that
what it costs is not charged to those who look at the daemon meanwhile.

    python -m tests.attacks KIND ENDPOINT POD CONTAINER COUNT SEED

prints what it did as JSON. A container that is attacked reads its input; port 5000 of its pod echoes.
"""

import base64
import itertools
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from sampan.api import cri_pb2 as cri
from sampan.wire.remotecommand import over_websocket
from sampan.wire.upgrade import Asking, Kind, Refused
from scripts.private_daemon import Stubs
from tests.fuzzed_frames import KINDS, PORT, Fuzzed

SECONDS = 30.0
CLIENTS = 8
_FLOOD = 64 << 20  # bytes of one at most
_GUESS = b"GET /%s/%s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    """A container and its pod, and who gives the addresses of sessions."""

    stubs: Stubs
    pod: str
    container: str

    def url(self, operation: str, *command: str, tty: bool = False) -> str:
        runtime = self.stubs.runtime
        if operation == "exec":
            asked = cri.ExecRequest(
                container_id=self.container, cmd=command or ["cat"], stdin=True, stdout=True, tty=tty
            )
            return runtime.Exec(asked, timeout=SECONDS).url
        if operation == "attach":
            joined = cri.AttachRequest(container_id=self.container, stdin=True, stdout=True)
            return runtime.Attach(joined, timeout=SECONDS).url
        forward = cri.PortForwardRequest(pod_sandbox_id=self.pod, port=[PORT])
        return runtime.PortForward(forward, timeout=SECONDS).url


def connected(url: str, kind: Kind, protocol: str) -> socket.socket:
    """Upgraded; what the server says behind its answer is lost."""
    parts = urlsplit(url)
    connection = socket.create_connection((str(parts.hostname), parts.port or 0), timeout=SECONDS)
    try:
        asking = Asking(kind, parts.path, parts.netloc, (protocol,))
        connection.sendall(asking.to_send())
        while asking.receive(connection.recv(1 << 16)) is None:
            pass
    except BaseException:
        connection.close()
        raise
    return connection


def reset(connection: socket.socket) -> None:
    """End it as a client that is killed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def ended(connection: socket.socket, seconds: float = SECONDS) -> bool:
    """Whether the server ends the connection within that time."""
    connection.settimeout(seconds)
    try:
        while connection.recv(1 << 18):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


# --- frames that are none --------------------------------------------------------------------------------------


def fuzz(target: Target, count: int, seed: int) -> Counter[str]:
    """`count` frames and messages in all, each of which the server looks at. A session ends at the first that breaks
    its protocol, which the server has to answer by ending the connection."""
    done: Counter[str] = Counter()
    numbers = itertools.count()

    def work(_: int) -> None:
        while done["frames"] < count:
            number = next(numbers)
            done.update(fuzz_one(target, KINDS[number % len(KINDS)], random.Random(f"{seed} {number}")))

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(work, range(CLIENTS)))
    return done


def fuzz_one(target: Target, kind: str, chance: random.Random) -> Counter[str]:
    fuzzed = Fuzzed(kind, chance)
    operation, carrier, protocol = fuzzed.operation, fuzzed.carrier, fuzzed.protocol
    connection = connected(target.url(operation), carrier, protocol)
    done = Counter({"sessions": 1, f"{operation} over {carrier.name}": 1})
    with closing(connection):
        data = b"".join(fuzzed.frames(chance.randrange(1, 60)))
        with suppress(ConnectionError):
            for piece in cuts(data, chance):
                connection.sendall(piece)
        done["frames"] += fuzzed.count
        if fuzzed.broken:
            done["broken"] += 1
            assert ended(connection), f"the server does not end a broken session ({kind}): {data[-80:].hex()}"
        elif chance.random() < 0.5:
            with suppress(OSError):
                reset(connection)
    return done


def cuts(data: bytes, chance: random.Random) -> Iterator[bytes]:
    while data:
        length = chance.choice((1, 7, 100, 1000, len(data)))
        yield data[:length]
        data = data[length:]


# --- frames by the million ---------------------------------------------------------------------------------------


def spdy(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">II", 1 << 31 | 3 << 16 | kind, flags << 24 | len(body)) + body


def message(opcode: int, payload: bytes = b"", fin: bool = True) -> bytes:
    """Masked, with a key that changes nothing."""
    assert len(payload) < 126
    return bytes((0x80 * fin | opcode, 0x80 | len(payload))) + bytes(4) + payload


SPDY_FLOODS = {
    "PING": spdy(6, struct.pack(">I", 1)),
    "SETTINGS": spdy(4, struct.pack(">III", 1, 7, 1 << 16)),
    "SETTINGS, wide": spdy(4, struct.pack(">I", 8000) + struct.pack(">II", 4, 100) * 8000),
    "RST_STREAM": spdy(3, struct.pack(">II", 1, 5)),
    "RST_STREAM of nothing": spdy(3, struct.pack(">II", 3, 5)),
    "WINDOW_UPDATE": spdy(9, struct.pack(">II", 3, 1)),
    "GOAWAY": spdy(7, struct.pack(">II", 0, 0)),
    "unknown": spdy(99, b"12345678"),
    "empty DATA": struct.pack(">II", 3, 0),
    "tiny DATA": struct.pack(">II", 3, 2) + b"xy",
}
WEBSOCKET_FLOODS = {
    "PING": message(9, b"x" * 125),
    "PONG": message(10, b"x"),
    "empty": message(2),
    "tiny": message(2, b"\0xy"),
    "resize": message(2, b'\4{"Width":80,"Height":25}'),
    "unknown channel": message(2, b"\x77x"),
    "fragments": message(0, b"x", fin=False),
}


def flood(target: Target, count: int, seed: int) -> Counter[str]:
    """Of every kind up to `count` frames, two kinds at a time, from clients that read and from clients that do not."""
    done: Counter[str] = Counter()
    works: list[Callable[[], tuple[str, int]]] = []
    for (name, frame), reading in itertools.product(SPDY_FLOODS.items(), (True, False)):
        works.append(lambda f=frame, n=name, r=reading: (f"SPDY {n}", spdy_flood(target, f, count, r)))  # type: ignore[misc]
    for (name, frame), reading in itertools.product(WEBSOCKET_FLOODS.items(), (True, False)):
        works.append(lambda f=frame, n=name, r=reading: (f"WebSocket {n}", ws_flood(target, f, count, r)))  # type: ignore[misc]
    random.Random(seed).shuffle(works)
    with ThreadPoolExecutor(2) as clients:
        for name, sent in clients.map(lambda work: work(), works):
            done[name] += sent
            done["frames"] += sent
    return done


def spdy_flood(target: Target, frame: bytes, count: int, reading: bool) -> int:
    with closing(
        connected(target.url("exec", "sleep", "1000"), Kind.SPDY, "v4.channel.k8s.io")
    ) as connection:
        opening = Fuzzed("exec spdy", random.Random(0)).opening()
        connection.sendall(opening)
        time.sleep(0.1)
        return pour(connection, frame, count, reading)


def ws_flood(target: Target, frame: bytes, count: int, reading: bool) -> int:
    url = target.url("exec", "sleep", "1000", tty=True)
    with closing(connected(url, Kind.WEBSOCKET, over_websocket.V5)) as connection:
        connection.sendall(message(2, b"\0begin", fin=frame[0] & 0x0F != 0))
        time.sleep(0.1)
        return pour(connection, frame, count, reading)


def pour(connection: socket.socket, frame: bytes, count: int, reading: bool) -> int:
    """As fast as the server takes it, until it ends the session or lets us wait for 5 s; frames sent."""
    block = frame * max(1, (1 << 16) // len(frame))
    sent = 0
    connection.setblocking(False)
    left = memoryview(block)
    while sent < min(count * len(frame), _FLOOD):
        ready = select.select([connection] if reading else [], [connection], [], 5)
        if not any(ready):
            break  # it does not read us any more, which is its good right
        try:
            if ready[0] and not connection.recv(1 << 18):
                break
            if ready[1]:
                taken = connection.send(left)
                sent += taken
                left = left[taken:] or memoryview(block)
        except BlockingIOError:
            continue
        except ConnectionError:
            break
    reset(connection)
    return sent // len(frame)


# --- strangers ------------------------------------------------------------------------------------------------------


def guess(target: Target, count: int, seed: int) -> Counter[str]:
    """`count` tokens of all sorts, some of them nearly right: none may open anything. A real one still does, after."""
    chance = random.Random(seed)
    real = [target.url("exec", "true") for _ in range(20)]
    parts = urlsplit(real[0])
    tokens = [urlsplit(url).path.rpartition("/")[2] for url in real]
    done: Counter[str] = Counter()
    begin = time.monotonic()
    for number in range(count):
        if number % 50_000 == 49_999:  # they live for a minute
            tokens = [urlsplit(target.url("exec", "true")).path.rpartition("/")[2] for _ in range(20)]
        path = guessed(chance, tokens)
        # what one address may have open to another at a time is limited, and a closed connection counts for a minute
        source = (f"127.{seed % 200 + 1}.{number // 20_000 % 250}.1", 0)
        answer = asked(str(parts.hostname), parts.port or 0, source, path)
        done[answer[:12].decode()] += 1
    done["seconds"] = int(time.monotonic() - begin)
    connected(target.url("exec", "true"), Kind.SPDY, "v4.channel.k8s.io").close()
    return done


def guessed(chance: random.Random, tokens: list[str]) -> bytes:
    if chance.random() < 0.8:
        token = base64.urlsafe_b64encode(chance.randbytes(32)).decode().rstrip("=")
        return _GUESS % (b"exec", token.encode())
    token = chance.choice(tokens)
    at = chance.randrange(len(token))
    wrong = chance.choice(
        [
            ("exec", token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]),
            ("exec", token[:-1]),
            ("exec", token + "A"),
            ("exec", token + "%00"),
            ("attach", token),
            ("portforward", token),
            ("exec", "../exec/" + token),
        ]
    )
    return _GUESS % (wrong[0].encode(), wrong[1].encode())


def asked(host: str, port: int, source: tuple[str, int], request: bytes) -> bytes:
    with socket.socket() as connection:
        connection.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        connection.settimeout(SECONDS)
        connection.bind(source)
        connection.connect((host, port))
        connection.sendall(request)
        answer = b""
        while data := connection.recv(4096):
            answer += data
        return answer


def half_open(target: Target, count: int, _: int) -> Counter[str]:
    """`count` connections at a time that say nothing, or a letter a second; the server has to end them all."""
    parts = urlsplit(target.url("exec"))
    address = (str(parts.hostname), parts.port or 0)
    begin = time.monotonic()
    connections = [socket.create_connection(address, timeout=SECONDS) for _ in range(count)]
    slow = connections[::2]
    for each in slow:
        each.sendall(b"GET /exec/x HTTP/1.1\r\nX: ")
    poll = select.poll()
    by_number = {each.fileno(): each for each in connections}
    for number in by_number:
        poll.register(number, select.POLLIN | select.POLLHUP)
    while by_number and time.monotonic() - begin < SECONDS:
        for number, _event in poll.poll(1000):
            poll.unregister(number)
            by_number.pop(number).close()
        for each in slow:
            with suppress(OSError):
                each.send(b"x")
    left = len(by_number)
    for each in by_number.values():
        each.close()
    return Counter({"connections": count, "not ended": left, "seconds": int(time.monotonic() - begin)})


def connections(target: Target, count: int, _: int) -> Counter[str]:
    """Ask for `count` connections through port-forward sessions, most of them to ports where nobody listens. How many
    the server makes of them is its own affair: it may refuse streams."""
    done: Counter[str] = Counter()

    def work(_: int) -> None:
        while done["connections"] < count:
            fuzzed = Fuzzed("portforward spdy", random.Random(done["connections"]))
            with closing(connected(target.url("portforward"), Kind.SPDY, "portforward.k8s.io")) as connection:
                connection.sendall(fuzzed.pairs(50, (PORT, 1, 22, 65535)))
                connection.settimeout(0.3)
                with suppress(TimeoutError, ConnectionError):
                    while connection.recv(1 << 16):
                        pass
                done["connections"] += 50
                done["sessions"] += 1
                if done["sessions"] % 2:
                    reset(connection)

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(work, range(CLIENTS)))
    return done


ATTACKS = {"fuzz": fuzz, "flood": flood, "guess": guess, "half_open": half_open, "connections": connections}


def main() -> None:
    kind, endpoint, pod, container, count, seed = sys.argv[1:]
    stubs = Stubs(endpoint)
    try:
        done = ATTACKS[kind](Target(stubs, pod, container), int(count), int(seed))
    except Refused as refused:
        sys.exit(f"refused: {refused.status} {refused}")
    finally:
        stubs.close()
    print(json.dumps(done), flush=True)
    os._exit(0)  # grpc's threads take their time


if __name__ == "__main__":
    main()
