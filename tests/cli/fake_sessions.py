"""The other side of sessions, in memory: a real HTTP server on loopback, and behind it whatever a test plays.

It reads and writes with the server's own protocols; each connection has a thread that waits in plain sockets.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sampan.wire.portforward import over_spdy as forward_spdy
from sampan.wire.portforward.forward import Dropped, HalfClosed, Opened, PortForward, Received
from sampan.wire.portforward.forward import Event as ForwardEvent
from sampan.wire.remotecommand import over_websocket
from sampan.wire.remotecommand.channels import Channel, Event, Left, RemoteCommand, Wanted
from sampan.wire.remotecommand.status import Status
from sampan.wire.upgrade import Head, HeadReader, Refused, negotiate

CHUNK = 256 << 10


class Command:
    """The command that a session runs, to be played by a test: `events` in, `say` and `end` out."""

    def __init__(self, sock: socket.socket, carrier: RemoteCommand) -> None:
        self._socket = sock
        self._carrier = carrier
        self.left = ""
        """Why the client has left, once it has."""

    def events(self) -> Iterator[Event]:
        """What the client does, until it leaves."""
        yield from self._seen(self._carrier.start())
        while not self.left:
            self._flush()
            try:
                data = self._socket.recv(CHUNK)
            except ConnectionError:
                data = b""
            yield from self._seen(self._carrier.receive(data))

    def say(self, data: bytes, channel: Channel = Channel.STDOUT) -> None:
        self._carrier.send(channel, data)
        self._flush()

    def end(self, code: int = 0, failure: str = "") -> None:
        self._carrier.finish(Status(code, failure))
        self._flush()

    def break_off(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def _seen(self, events: Sequence[Event]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, Left):
                self.left = event.reason
            yield event

    def _flush(self) -> None:
        for data in self._carrier.to_send():
            self._socket.sendall(data)


class FakeSessions:
    """The server; `url(kind)` is what an RPC answers. Stops with all that it started by `stop`."""

    def __init__(self) -> None:
        self.play: Callable[[Command], None] = lambda command: command.end()
        self.refuse: Refused | None = None
        self.protocols: tuple[str, ...] = over_websocket.PROTOCOLS
        self.wanted = Wanted()  # by the RPC that came last
        self.heads: list[Head] = []
        self.failures: list[BaseException] = []  # of what tests play
        self.accepted: list[socket.socket] = []
        self._tls: ssl.SSLContext | None = None
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)

    def url(self, kind: str) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}/{kind}/token?x=1"

    def use_tls(self, certificate: Path, key: Path) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        self._listener.close()

    def cut(self) -> None:
        """End all connections, as a daemon does that is killed."""
        for sock in self.accepted:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _start(self, function: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted.append(sock)
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with sock:
                self._answer(sock)
        except (OSError, ssl.SSLError):  # the client has gone
            return
        except BaseException as error:  # noqa: BLE001 - a test that looks at `failures` fails, not a thread that nobody sees
            self.failures.append(error)

    def _answer(self, sock: socket.socket) -> None:
        reader = HeadReader()
        head = None
        while head is None:
            head = reader.receive(sock.recv(CHUNK))
        self.heads.append(head)
        if self.refuse is not None:
            sock.sendall(self.refuse.response())
            return
        upgrade = negotiate(head, spdy=(forward_spdy.PROTOCOL,), websocket=self.protocols)
        sock.sendall(upgrade.response)
        if head.path.startswith("/portforward"):
            Pod(forward_spdy.OverSpdy()).serve(sock)
        else:
            self.play(Command(sock, over_websocket.OverWebSocket(self.wanted, upgrade.protocol)))
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(
            CHUNK
        ):  # closing with unread bytes would reset the connection, and lose the last words
            pass


ECHO, GREETING, COUNTING, NOBODY, CLOSING = 7, 21, 100, 9, 99
"""Ports of the pod: says back what it hears · greets, ends, and says nothing more · tells how many bytes it heard once
that has ended · nobody listens · is reset at the first byte."""


class Pod:
    """What listens on these ports."""

    def __init__(self, carrier: PortForward) -> None:
        self._carrier = carrier
        self._ports: dict[int, int] = {}
        self._heard: dict[int, int] = {}

    def serve(self, sock: socket.socket) -> None:
        self._carrier.start()
        while data := sock.recv(CHUNK):
            for event in self._carrier.receive(data):
                self._act(event)
            for chunk in self._carrier.to_send():
                sock.sendall(chunk)

    def _act(self, event: ForwardEvent) -> None:
        match event:
            case Opened(connection, port):
                self._ports[connection], self._heard[connection] = port, 0
                self._welcome(connection, port)
            case Received(connection, data):
                self._carrier.consumed(connection, len(data))
                self._hear(connection, data)
            case HalfClosed(connection):
                if self._ports[connection] == COUNTING:
                    self._carrier.send(connection, b"%d" % self._heard[connection])
                self._carrier.end(connection)
                self._carrier.close(connection)
            case Dropped(connection):
                self._carrier.close(connection)

    def _welcome(self, connection: int, port: int) -> None:
        if port == NOBODY:
            self._carrier.fail(connection, "nobody listens on port 9 of the pod")
        elif port == GREETING:
            self._carrier.send(connection, b"hello\n")
            self._carrier.end(connection)

    def _hear(self, connection: int, data: bytes | memoryview) -> None:
        self._heard[connection] += len(data)
        if self._ports[connection] == ECHO:
            self._carrier.send(connection, bytes(data))
        elif self._ports[connection] == CLOSING:
            self._carrier.close(connection)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sessions")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = directory / "cert.pem", directory / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, private
