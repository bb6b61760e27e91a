"""Mutated conversations and random bytes: events or a SpdyError, and never more memory than the limits say."""

import random
import resource
from collections.abc import Iterator

from sampan.wire.spdy import frames
from sampan.wire.spdy.frames import Kind, control
from sampan.wire.spdy.session import Limits, Opened, Received, Session, SpdyError, WasReset
from tests.wire.spdy.peers import Client

FRAMES = 100_000
ECHO = bytes(3000)
INTERESTING = (0, 1, 2, 3, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0x10000, 0xFFFFFF, 0x1000000)


class Fuzz:
    """Frames that are right when made, and then changed a little in some places."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        kinds = {
            self.data: 45,
            self.syn: 15,
            self.reset: 10,
            self.ping: 8,
            self.window_update: 8,
            self.headers: 6,
        }
        kinds |= {self.settings: 3, self.unknown: 3, self.reply: 2}
        self.kinds, self.weights = list(kinds), list(kinds.values())
        self.begin()

    def begin(self) -> None:
        self.peer = Client()
        self.next = 1
        self.unreplied = [2, 4]

    def number(self) -> int:
        """A stream that it has opened."""
        return self.random.randrange(1, self.next, 2)

    def syn(self) -> bytes:
        number, self.next = self.next, self.next + 2
        return self.peer.syn(
            number, ("streamtype", self.random.choice("abc")), fin=self.random.random() < 0.2
        )

    def frame(self) -> bytes:
        """A right one, though it may come for a stream that is gone."""
        if self.next == 1:
            return self.syn()
        (make,) = self.random.choices(self.kinds, self.weights)
        return make()

    def data(self) -> bytes:
        data = self.random.randbytes(self.random.choice((0, 1, 9, 300, 5000)))
        return self.peer.data(self.number(), data, self.rarely())

    def headers(self) -> bytes:
        return self.peer.headers(self.number(), ("x", "y"), fin=self.rarely())

    def reset(self) -> bytes:
        return frames.rst_stream(self.number(), self.random.choice((1, 5, 99)))

    def ping(self) -> bytes:
        return frames.ping(self.random.choice((1, 2, 3, 0x7FFFFFFF)))

    def window_update(self) -> bytes:
        return frames.window_update(
            self.random.choice((0, self.number())), self.random.choice((1, 100, 65536))
        )

    def settings(self) -> bytes:
        return frames.settings([(self.random.choice((4, 7)), self.random.choice((0, 10, 65536, 1 << 20)))])

    def reply(self) -> bytes:
        return self.peer.reply(self.unreplied.pop(), self.rarely()) if self.unreplied else self.ping()

    def unknown(self) -> bytes:
        return control(
            self.random.choice((0, 5, 10, 99)), self.random.randbytes(self.random.choice((0, 4, 64)))
        )

    def rarely(self) -> bool:
        return self.random.random() < 0.1

    def changed(self, data: bytes) -> bytes:
        one = bytearray(data)
        pick, at = self.random.random(), self.random.randrange(len(one))
        if pick < 0.5:
            one[at] ^= 1 << self.random.randrange(8)
        elif pick < 0.7:
            one[at : at + 4] = self.random.choice(INTERESTING).to_bytes(4, "big")
        elif pick < 0.8:
            del one[at : at + self.random.randrange(1, 9)]
        elif pick < 0.9:
            one[at:at] = self.random.randbytes(self.random.randrange(1, 9))
        else:
            one += one[at:]
        return bytes(one)

    def chunks(self, most: int) -> Iterator[tuple[bytes, int]]:
        """A conversation in chunks, each with the number of frames in it; it gets worse in the end."""
        for at in range(most):
            some = [self.frame() for _ in range(self.random.randrange(1, 12))]
            if at > most // 4 and self.random.random() < 0.05:
                where = self.random.randrange(len(some))
                some[where] = self.changed(some[where])
            data = b"".join(some)
            cut = self.random.randrange(len(data) + 1)
            yield data[:cut], 0
            yield data[cut:], len(some)


def answer(session: Session, data: bytes, dice: random.Random) -> None:
    """What an application does: accept, echo, consume, now and then end or reset."""
    for event in session.receive(data):
        if isinstance(event, Opened):
            session.reply(event.stream)
            session.send(event.stream, ECHO[: dice.choice((0, 1, 3000))], fin=dice.random() < 0.1)
        elif isinstance(event, Received):
            session.consumed(event.stream, len(event.data))
            if dice.random() < 0.05:
                session.reset(event.stream)
        elif isinstance(event, WasReset):
            assert session.backlog(event.stream) == 0


def converse(fuzz: Fuzz, limits: Limits) -> tuple[int, bool]:
    """One session until it fails or the talk is over: the number of frames that it took, and whether it failed."""
    session = Session(server=True, limits=limits)
    fuzz.begin()
    session.open(())
    session.open((), fin=True)
    session.send(2, bytes(5000))
    taken = 0
    try:
        for data, count in fuzz.chunks(60):
            answer(session, data, fuzz.random)
            taken += count
            assert session._splitter.kept < limits.control_frame + 8
            assert len(session._streams) <= limits.streams + 2
            assert sum(len(part) for part in session.to_send()) < 1 << 20
    except SpdyError:
        assert bytes(session.to_send()[-1][:4]) == bytes.fromhex("80030007")
        return taken, True
    return taken, False


def test_mutated_conversations_end_in_nothing_but_protocol_errors() -> None:
    fuzz, limits = Fuzz(20260401), Limits()
    taken, failed, lasted = 0, 0, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while taken < FRAMES:
        count, bad = converse(fuzz, limits)
        taken, failed, lasted = taken + count, failed + bad, lasted + (not bad)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB
    assert failed > 100  # it was worth it
    assert lasted > 10


def test_random_bytes_end_in_nothing_but_protocol_errors() -> None:
    dice = random.Random(7)
    failed = 0
    for _ in range(3000):
        session = Session(server=dice.random() < 0.5)
        head = dice.choice((b"", b"\x80\x03", b"\x80\x03\x00" + bytes([dice.randrange(12)]), b"\0\0\0\1"))
        try:
            session.receive(head + dice.randbytes(dice.randrange(200)))
        except SpdyError:
            failed += 1
    assert failed > 1000


def test_random_blocks_end_in_nothing_but_protocol_errors() -> None:
    """Blocks that decompress, with rubbish inside."""
    dice = random.Random(9)
    for _ in range(5000):
        peer, session = Client(), Session(server=True)
        body = bytearray(b"\0\0\0\2\0\0\0\1a\0\0\0\1b\0\0\0\1c\0\0\0\1d")
        for _ in range(dice.randrange(4)):
            body[dice.randrange(len(body))] = dice.choice((0, 1, 2, 3, 0x41, 0x61, 0xFF))
        packer = peer._packer._zlib
        block = packer.compress(bytes(body)) + packer.flush(2)
        try:
            session.receive(frames.syn_stream(1, block, False))
        except SpdyError:
            continue


def test_the_smallest_frames_of_each_kind_are_read_or_refused() -> None:
    for kind in [*Kind, 0, 5, 10, 11, 0xFFFF]:
        for size in range(14):
            for filling in (0, 1, 0xFF):
                try:
                    Session(server=True).receive(control(kind, bytes([filling]) * size))
                except SpdyError:
                    continue
