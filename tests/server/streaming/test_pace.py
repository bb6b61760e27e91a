"""`server.streaming.pace`: what is dear is looked at in small portions, and not too often."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from sampan.server.streaming import pace
from sampan.server.streaming.pace import FIRST, LEAST, MOST, Pace


class Work:
    """Costs so much of this thread's time, in seconds a byte."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.cost = 0.0
        monkeypatch.setattr(time, "thread_time", lambda: self.now)

    async def do(self, own: Pace, data: bytes) -> list[int]:
        """The sizes of its portions."""
        sizes = []
        for portion in own.portions(data):
            with own:
                self.now += self.cost * len(portion)
            sizes.append(len(portion))
            await own.rest()
        return sizes


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


@pytest.fixture(autouse=True)
def nothing_is_owed() -> Iterator[None]:
    yield
    pace.Pace._free_at = 0.0


async def test_nothing_is_lost_and_the_end_comes_as_it_is(work: Work) -> None:
    data = bytes(range(256)) * 4096
    assert b"".join(map(bytes, Pace().portions(data))) == data
    assert list(Pace().portions(b"")) == [b""]


async def test_what_is_cheap_is_soon_looked_at_whole(work: Work) -> None:
    own = Pace()
    assert (await work.do(own, bytes(MOST)))[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    await work.do(own, bytes(MOST))
    assert await work.do(own, bytes(MOST)) == [MOST]


async def test_what_is_dear_is_looked_at_in_small_portions_for_good(work: Work) -> None:
    own = Pace()
    work.cost = 0.1 / MOST
    assert max((await work.do(own, bytes(MOST)))[1:]) <= FIRST
    work.cost = 0.8 / MOST
    await work.do(own, bytes(8 * LEAST))
    work.cost = 0.0
    assert set(await work.do(own, bytes(MOST))) == {LEAST}


async def test_who_floods_leaves_half_of_the_time_to_others(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: the time that all wait is counted, on a clock that goes on by waiting only."""
    loop = asyncio.get_running_loop()
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(loop, "time", lambda: 1000.0)
    work.cost = 0.8 / MOST
    spent = work.now
    await asyncio.gather(*(work.do(Pace(), bytes(FIRST)) for _ in range(10)))
    assert max(slept) > 1.8 * (work.now - spent)
