"""`port-forward`: local ports that lead to ports of a pod."""

import re
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from sampan.api import cri_pb2 as cri
from sampan.cli import naming
from sampan.cli.invocation import Failed, Invocation, Parsed

if TYPE_CHECKING:
    from sampan.cli.link import Link

PROTOCOL = "portforward.k8s.io"
_BACKLOG = 128
_LOOPBACK = ("127.0.0.1", "::1")
_ANSWER_SECONDS = 30.0  # for a new session, while connections wait

Ports = tuple[int, int]  # local, of the pod


def ports(text: str) -> Ports:
    """[LOCAL:]REMOTE; the local one is 0 for any free port. Raises ValueError."""
    found = re.fullmatch(r"(?:(?P<local>[0-9]{0,5}):)?(?P<remote>[0-9]{1,5})", text, re.ASCII)
    if found is None:
        raise ValueError("must be [LOCAL:]REMOTE, such as 80, 8080:80, or :80 for any free local port")
    remote = int(found["remote"])
    local = remote if found["local"] is None else int(found["local"] or 0)
    if not (0 < remote < 65536 and local < 65536):
        raise ValueError("ports are from 1 to 65535")
    return local, remote


@click.command("port-forward")
@click.argument("word", metavar="POD")
@click.argument("wanted", metavar="[LOCAL:]REMOTE...", nargs=-1, required=True, type=Parsed("ports", ports))
@click.option(
    "--address",
    "addresses",
    type=Parsed("ip", lambda text: str(ip_address(text))),
    multiple=True,
    help="Listen at this IP address instead of at 127.0.0.1 and ::1; may be repeated.",
)
@click.pass_obj
def port_forward_command(
    invocation: Invocation, word: str, wanted: Sequence[Ports], addresses: Sequence[str]
) -> int:
    """Forward local ports to ports of a pod, until ^C.

    Connections reach the pod's own loopback, so that also what listens only there can be reached.
    """
    from sampan.cli import forwarder, link, signals
    from sampan.wire.upgrade import Kind

    client = invocation.client
    id = naming.pod(word, client.pods()).id
    request = cri.PortForwardRequest(pod_sandbox_id=id, port=[remote for _, remote in wanted])

    def connect() -> "tuple[Link, bytes]":
        url = client.call(client.runtime.PortForward, request, seconds=_ANSWER_SECONDS).url
        return link.upgraded(urlsplit(url), Kind.SPDY, (PROTOCOL,))

    with ExitStack() as stack:
        signalled = stack.enter_context(signals.Signals())
        listeners = [
            forwarder.Listener(stack.enter_context(each), remote)
            for local, remote in wanted
            for each in listen(addresses, local)
        ]
        forwarding = forwarder.Forwarder(listeners, connect, signalled)
        forwarding.start()
        for listener in listeners:
            click.echo(f"Forwarding from {listener}")
        try:
            forwarding.run()
        except signals.Interrupted as interrupted:
            return interrupted.exit_code


def listen(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Sockets that listen at the same port of each address; by default at both loopbacks, as far as they are there.
    Raises Failed."""
    made: list[socket.socket] = []
    try:
        for address in addresses or _LOOPBACK:
            try:
                made.append(_listener(address, port))
            except OSError as error:
                if addresses or not made:
                    raise Failed(
                        f"cannot listen at port {port} of {address}: {error.strerror or error}"
                    ) from None
                continue
            port = made[0].getsockname()[1]
    except Failed:
        for each in made:
            each.close()
        raise
    return made


def _listener(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
