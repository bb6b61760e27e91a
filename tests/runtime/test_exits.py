"""An end that cannot be recorded yet: tried again, ever more rarely, and told in one line each."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from sampan.model.errors import Exhausted, NotFound
from sampan.runtime import exits


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, in no time."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


def failing(*errors: Exception) -> tuple[list[Exception], Callable[[], Awaitable[None]]]:
    left = list(errors)

    async def record() -> None:
        if left:
            raise left.pop(0)

    return left, record


async def test_a_full_disk_is_told_in_single_lines_and_ever_more_rarely(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sampan.exits")
    left, record = failing(*[Exhausted("the disk is full")] * 9)
    await exits.until_recorded("container c", record)
    assert not left
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    first, last = caplog.messages[0], caplog.messages[-1]
    assert first == "cannot record the end of container c yet, trying again in 0.5 s: the disk is full"
    assert last == "the end of container c is on record now"
    assert len(caplog.records) == 10 and not any(record.exc_info for record in caplog.records)


async def test_what_nobody_foresaw_shows_once_where_it_came_from(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    _, record = failing(KeyError("x"), KeyError("x"), OSError(28, "No space left on device"))
    await exits.until_recorded("container c", record)
    assert [bool(record.exc_info) for record in caplog.records] == [True, False, False]
    assert len(pauses) == 3


@pytest.mark.parametrize("errors", [[], [NotFound("no container c")]])
async def test_what_is_recorded_at_once_or_kept_by_nobody_says_nothing(
    errors: list[Exception], pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sampan.exits")
    await exits.until_recorded("container c", failing(*errors)[1])
    assert pauses == [] and caplog.messages == []
