"""Which session serves an operation, over what its client speaks; and the list of those that are open."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from sampan.model.errors import SampanError
from sampan.runtime.stream_ports import Dialer, Running
from sampan.runtime.streaming import KINDS, Command, ExecIn, ForwardTo, Operation, Streaming
from sampan.server.streaming.command import CommandSession
from sampan.server.streaming.connection import Wire
from sampan.server.streaming.forward import ForwardSession
from sampan.wire.portforward import over_spdy as forward_spdy
from sampan.wire.portforward import over_websocket as forward_websocket
from sampan.wire.portforward import tunnel
from sampan.wire.portforward.forward import PortForward
from sampan.wire.protocol_error import ProtocolError
from sampan.wire.remotecommand import over_spdy, over_websocket
from sampan.wire.remotecommand.channels import RemoteCommand
from sampan.wire.upgrade import Head, Kind, Refused, Upgrade, negotiate

log = logging.getLogger("sampan.streaming")


class Sessions:
    """Every session of this daemon. With `keep_input`, what a client of an exec said before it left still reaches the
    command; to a container it always does."""

    def __init__(self, streaming: Streaming, dialer: Dialer, *, keep_input: bool) -> None:
        self._streaming = streaming
        self._dialer = dialer
        self._keep_input = keep_input
        self._open: Counter[str] = Counter()

    def open(self) -> Mapping[str, int]:
        """How many are open, by kind."""
        return {kind: self._open[kind] for kind in KINDS}

    async def serve(self, wire: Wire, head: Head, operation: Operation) -> None:
        """Answer the request and have the session. Raises Refused, before any answer, for a client that speaks nothing
        that we do, and for what cannot be attached or forwarded to (any more)."""
        async with AsyncExitStack() as attached:
            await self._serve(wire, head, operation, attached)

    async def _serve(self, wire: Wire, head: Head, operation: Operation, attached: AsyncExitStack) -> None:
        session: CommandSession | ForwardSession
        if isinstance(operation, ForwardTo):
            session, upgrade = self._forward(wire, head, operation)
        else:
            session, upgrade = await self._command(wire, head, operation, attached)
        wire.write([upgrade.response])
        loop = asyncio.get_running_loop()
        begin, words = loop.time(), "the daemon ends"
        self._open[operation.kind] += 1
        log.debug("a session begins", extra=_fields(operation, upgrade))
        try:
            words = await session.serve()
        finally:
            self._open[operation.kind] -= 1
            more = {
                "seconds": round(loop.time() - begin, 3),
                "received": wire.received,
                "sent": wire.sent,
                "end": words,
            }
            log.info("a session has ended", extra={**_fields(operation, upgrade), **more})

    async def _command(
        self, wire: Wire, head: Head, operation: Command, attached: AsyncExitStack
    ) -> tuple[CommandSession, Upgrade]:
        upgrade = negotiate(head, spdy=over_spdy.PROTOCOLS, websocket=over_websocket.PROTOCOLS)
        talk: RemoteCommand
        if upgrade.kind is Kind.SPDY:
            talk = over_spdy.OverSpdy(operation.wanted, upgrade.protocol)
        else:
            talk = over_websocket.OverWebSocket(operation.wanted, upgrade.protocol)
        run = partial(self._streaming.run, operation)
        if isinstance(operation, ExecIn):
            return CommandSession(wire, talk, run, keep_input=self._keep_input), upgrade
        try:  # before the answer: who has that misses nothing of a container that is started then
            running = await attached.enter_async_context(run())
        except SampanError as error:
            raise Refused(409, str(error)) from error
        return CommandSession(wire, talk, partial(_until_left, attached, running), keep_input=True), upgrade

    def _forward(self, wire: Wire, head: Head, operation: ForwardTo) -> tuple[ForwardSession, Upgrade]:
        websocket = (tunnel.PROTOCOL, *forward_websocket.PROTOCOLS)
        upgrade = negotiate(head, spdy=(forward_spdy.PROTOCOL,), websocket=websocket)
        try:
            talk = _port_forward(upgrade, operation)
            netns = self._streaming.network(operation)
        except ProtocolError as error:
            raise Refused(400, str(error)) from error
        except SampanError as error:
            raise Refused(409, str(error)) from error
        return ForwardSession(wire, talk, self._dialer, netns), upgrade


@asynccontextmanager
async def _until_left(attached: AsyncExitStack, running: Running) -> AsyncIterator[Running]:
    async with attached:
        yield running


def _port_forward(upgrade: Upgrade, operation: ForwardTo) -> PortForward:
    if upgrade.kind is Kind.SPDY:
        return forward_spdy.OverSpdy()
    if upgrade.protocol == tunnel.PROTOCOL:
        return tunnel.Tunnel()
    return forward_websocket.OverWebSocket(operation.ports, upgrade.protocol)


def _fields(operation: Operation, upgrade: Upgrade) -> Mapping[str, str]:
    """Nothing of a command: its arguments may hold what a log must not."""
    return {
        "kind": operation.kind,
        "subject": operation.subject,
        "over": upgrade.kind.value,
        "protocol": upgrade.protocol,
    }
