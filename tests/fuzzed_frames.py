"""Frames that a client might send, most of them possible, some of them broken: for one session, of one kind.

Each frame is shown to a session of ours first, which says when the protocol is broken: so every frame that is counted
is one that a server looks at.
"""

import random
import struct
from collections.abc import Callable, Iterator, Sequence

from sampan.wire.portforward import over_spdy as forward_spdy
from sampan.wire.portforward import over_websocket as forward_websocket
from sampan.wire.portforward import tunnel
from sampan.wire.portforward.forward import Left as ForwardLeft
from sampan.wire.portforward.forward import PortForward
from sampan.wire.protocol_error import ProtocolError
from sampan.wire.remotecommand import over_spdy, over_websocket
from sampan.wire.remotecommand.channels import Left, RemoteCommand, Wanted
from sampan.wire.spdy import frames
from sampan.wire.spdy.headers import Packer
from sampan.wire.spdy.limits import Limits
from sampan.wire.upgrade import Kind

PORT = 5000
WANTED = Wanted(stdin=True, stdout=True)
KINDS = (
    "exec spdy",
    "exec websocket",
    "attach spdy",
    "attach websocket",
    "portforward spdy",
    "portforward websocket",
    "portforward tunnel",
)
_LOOSE = Limits(headers=10_000, field=1 << 20, block=1 << 22)


class Fuzzed:
    """`count` frames have been made; `broken` once the last of them broke the protocol, or ended the session."""

    def __init__(self, kind: str, chance: random.Random) -> None:
        self.operation, self._over = kind.split()
        self.carrier = Kind.SPDY if self._over == "spdy" else Kind.WEBSOCKET
        self.count = 0
        self.broken = False
        self._chance = chance
        self._model, self.protocol = self._talk()
        self._packer = Packer(_LOOSE)
        self._next = 1
        self._opened: list[int] = []

    def _talk(self) -> tuple[RemoteCommand | PortForward, str]:
        if self.operation != "portforward":
            if self._over == "spdy":
                protocol = self._chance.choice(over_spdy.PROTOCOLS)
                return over_spdy.OverSpdy(WANTED, protocol), protocol
            protocol = self._chance.choice(over_websocket.PROTOCOLS)
            return over_websocket.OverWebSocket(WANTED, protocol), protocol
        if self._over == "spdy":
            return forward_spdy.OverSpdy(), forward_spdy.PROTOCOL
        if self._over == "tunnel":
            return tunnel.Tunnel(), tunnel.PROTOCOL
        protocol = self._chance.choice(forward_websocket.PROTOCOLS)
        return forward_websocket.OverWebSocket((PORT,), protocol), protocol

    def frames(self, most: int) -> Iterator[bytes]:
        """Up to `most` of them."""
        self._model.start()
        if self.carrier is Kind.SPDY and self._chance.random() < 0.5:
            yield self._shown(self.opening())
        while self.count < most and not self.broken:
            yield self._shown(self._frame())

    def _shown(self, frame: bytes) -> bytes:
        self.count += 1
        try:
            events = self._model.receive(frame) if frame else []
            self.broken = any(isinstance(event, Left | ForwardLeft) for event in events)
        except ProtocolError:
            self.broken = True
        self._model.to_send()
        return frame

    def opening(self) -> bytes:
        """What an honest client begins with."""
        if self.operation == "portforward":
            return self.pairs(1, (PORT,))
        return b"".join(self._syn_stream((("streamtype", name),)) for name in ("error", "stdin", "stdout"))

    def pairs(self, count: int, ports: Sequence[int]) -> bytes:
        """So many connections to these ports in turn, and a word on each."""
        made = b""
        for number in range(count):
            headers = (("port", str(ports[number % len(ports)])), ("requestid", str(number)))
            made += self._syn_stream((("streamtype", "error"), *headers))
            made += self._syn_stream((("streamtype", "data"), *headers))
            made += frames.data_head(self._opened[-1], 2, False) + b"hi"
        return made

    # --- one frame --------------------------------------------------------------------------------------------

    def _frame(self) -> bytes:
        if self._over == "spdy":
            return self._broken_up(self._spdy()) if self._chance.random() < 0.04 else self._spdy()
        payload = self._spdy() if self._over == "tunnel" else self._channel_message()
        if self._over == "tunnel" and self._chance.random() < 0.02:
            payload = self._broken_up(payload)
        whole = self._message(payload)
        return self._broken_up(whole) if self._chance.random() < 0.04 else whole

    def _broken_up(self, frame: bytes) -> bytes:
        chance, made = self._chance, bytearray(frame)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(made)) if made else 0
            match chance.randrange(5):
                case 0 if made:
                    made[at] ^= 1 << chance.randrange(8)
                case 1:
                    made[at:at] = chance.randbytes(chance.randrange(1, 9))
                case 2:
                    del made[at : at + chance.randrange(1, 9)]
                case 3 if made:
                    made[at % min(8, len(made))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
                case _:
                    made += chance.randbytes(chance.randrange(64))
        return bytes(made)

    def _spdy(self) -> bytes:
        chance = self._chance
        number = chance.choice(self._opened) if self._opened and chance.random() < 0.97 else self._number()
        makers: list[tuple[float, Callable[[int], bytes]]] = [
            (2, lambda _: self._syn_stream(self._headers())),
            (1, self._more_headers),
            (1, lambda number: frames.rst_stream(number, chance.randrange(12))),
            (3, self._settings),
            (3, lambda _: frames.ping(chance.choice((1, 2, 3, 4, 0x7FFFFFFF, 0xFFFFFFFF)))),
            (3, lambda number: frames.window_update(chance.choice((0, number)), chance.choice((1, 1 << 16)))),
            (2, lambda _: frames.control(chance.choice((0, 5, 10, 11, 500)), chance.randbytes(20))),
            (0.2, lambda _: chance.choice(self._directed())),
            (9, self._data),
        ]
        weights = [weight for weight, _ in makers]
        make = chance.choices([maker for _, maker in makers], weights)[0]
        return make(number)

    def _more_headers(self, number: int) -> bytes:
        return frames.with_block(frames.Kind.HEADERS, number, self._packer.pack(self._headers()), False)

    def _settings(self, _: int) -> bytes:
        sizes = (0, 1, 1 << 16, 1 << 20)
        count = self._chance.randrange(5)
        return frames.settings(
            [(self._chance.randrange(10), self._chance.choice(sizes)) for _ in range(count)]
        )

    def _data(self, number: int) -> bytes:
        data = self._chance.randbytes(self._chance.choice((0, 1, 10, 1000)))
        return frames.data_head(number, len(data), self._chance.random() < 0.02) + data

    def _directed(self) -> list[bytes]:
        """What has broken others: counts, lengths and windows that promise too much."""
        pack, bomb = struct.pack, self._packer.pack((("x", "a" * 60_000),) * 60)
        return [
            frames.control(frames.Kind.SETTINGS, pack(">I", 0xFFFFFFFF)),
            pack(">II", 1 << 31 | 3 << 16 | 1, 0xFFFFFF),
            frames.syn_stream(self._next, bomb, False),
            frames.syn_stream(2, b"", False),
            frames.syn_stream(self._next, self._chance.randbytes(100), False),
            frames.window_update(0, 0x7FFFFFFF),
            frames.window_update(0, 0),
            frames.settings([(7, 0xFFFFFFFF)]),
            frames.goaway(0, 0),
            frames.with_block(frames.Kind.SYN_REPLY, self._number(), b"", False),
            pack(">II", 1 << 31 | 2 << 16 | 1, 10) + bytes(10),
        ]

    def _number(self) -> int:
        return self._chance.choice((1, 3, self._next, 2, 0x7FFFFFFF))

    def _syn_stream(self, headers: Sequence[tuple[str, str]]) -> bytes:
        self._opened.append(self._next)
        made = frames.syn_stream(self._next, self._packer.pack(tuple(headers)), False)
        self._next += 2
        return made

    def _headers(self) -> tuple[tuple[str, str], ...]:
        chance = self._chance
        kind = chance.choice(("error", "stdin", "stdout", "stderr", "resize", "data", "nonsense"))
        port = chance.choice(("5000", "1", "0", "65536", "-1", "x" * 50))
        found = [("streamtype", kind), ("port", port), ("requestid", str(chance.randrange(4)))]
        found += [
            (f"x{number}", "y" * chance.randrange(40)) for number in range(chance.choice((0, 0, 0, 30)))
        ]
        return tuple(found[chance.randrange(2) :])

    def _channel_message(self) -> bytes:
        chance = self._chance
        data = chance.randbytes(chance.choice((0, 1, 10, 1000)))
        if "base64" in self.protocol and chance.random() < 0.9:
            data = bytes(chance.choice(b"ABCDabcd0123") for _ in range(len(data) // 4 * 4))
            return bytes((0x30 + chance.randrange(5),)) + data
        resize = b'\4{"Width":%d,"Height":%d}' % (chance.randrange(1 << 17), chance.randrange(1 << 17))
        plain = bytes((chance.choice((0, 0, 1, 2, 3, 4, 5, 254)),)) + data
        return chance.choice((plain, plain, resize, b"\xff" + bytes((chance.randrange(6),)), b""))

    def _message(self, payload: bytes) -> bytes:
        chance = self._chance
        opcode = chance.choice((2,) * 150 + (9, 10) * 15 + (1, 0, 8, 3))
        if opcode >= 8:
            payload = payload[: chance.choice((0, 2, 60, 125))]
        key = chance.randbytes(4)
        masked = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
        size = len(payload)
        head = bytes((0x80 * (chance.random() < 0.995) | opcode,))
        if size < 126:
            head += bytes((0x80 | size,))
        else:
            head += bytes((0x80 | 126,)) + struct.pack(">H", size)
        return head + key + masked
