import asyncio
import json
import logging
from pathlib import Path

import pytest

from sampan import tasks
from sampan.model.errors import Unavailable
from sampan.tasks import Joined, KeyedLock, Tasks, bounded, finish, step


async def test_finish_runs_to_the_end_through_two_cancellations() -> None:
    done: list[str] = []

    async def work() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        done.append("done")

    caller = asyncio.ensure_future(finish(work()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done == ["done"]


async def test_finish_passes_results_and_failures_on() -> None:
    async def good() -> int:
        return 5

    async def bad() -> int:
        raise KeyError("x")

    assert await finish(good()) == 5
    with pytest.raises(KeyError):
        await finish(bad())


async def test_joined_work_is_done_once_and_outlives_its_caller() -> None:
    joined, runs = Joined(), 0
    go_on = asyncio.Event()

    async def work() -> int:
        nonlocal runs
        runs += 1
        await go_on.wait()
        return runs

    first = asyncio.ensure_future(joined.run("k", work()))
    await asyncio.sleep(0)
    first.cancel()
    others = [asyncio.ensure_future(joined.run("k", work())) for _ in range(5)]
    await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(*others) == [1] * 5
    assert not joined.running("k")
    await joined.settle()


async def test_joined_work_keeps_what_it_was_asked_for_while_it_is_in_flight() -> None:
    joined, go_on = Joined(), asyncio.Event()

    async def work() -> bool:
        return await go_on.wait()

    asked = asyncio.ensure_future(joined.run("k", work(), "this"))
    other = asyncio.ensure_future(joined.run("k", work(), "that"))
    unasked = asyncio.ensure_future(joined.run("l", work()))
    await asyncio.sleep(0)
    assert (joined.request("k"), joined.request("l"), joined.request("m")) == ("this", None, None)
    assert joined.running("l")
    go_on.set()
    await asyncio.gather(asked, other, unasked)
    assert joined.request("k") is None


async def test_what_takes_too_long_is_unavailable_and_says_what_it_was_and_how_long_it_had() -> None:
    with pytest.raises(Unavailable, match=r"^attaching pod x \(CNI ADD\) did not end within 0\.01 s$"):
        async with bounded(0.01, "attaching pod x (CNI ADD)"):
            await asyncio.Event().wait()


async def test_a_time_limit_within_keeps_its_own_words() -> None:
    with pytest.raises(Unavailable, match=r"^the plugin took 3 s$"):
        async with bounded(90, "attaching pod x"):
            raise TimeoutError("the plugin took 3 s")
    with pytest.raises(KeyError):
        async with bounded(90, "attaching pod x"):
            raise KeyError("not of time")


async def test_a_joined_failure_reaches_every_caller_and_is_not_kept() -> None:
    joined = Joined()

    async def fails() -> int:
        await asyncio.sleep(0)
        raise ValueError("no")

    found = await asyncio.gather(*(joined.run("k", fails()) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [ValueError] * 3

    async def works() -> int:
        return 1

    assert await joined.run("k", works()) == 1


async def test_a_keyed_lock_excludes_only_its_own_key_and_keeps_no_entry() -> None:
    lock, order = KeyedLock(), []

    async def hold(key: str, name: str) -> None:
        async with lock(key):
            order.append(name)
            await asyncio.sleep(0)
            order.append(name)

    await asyncio.gather(hold("a", "1"), hold("a", "2"), hold("b", "3"))
    assert order.index("2") > [i for i, name in enumerate(order) if name == "1"][-1]
    assert not lock._entries


async def test_a_task_that_fails_says_so_and_stop_ends_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    owned = Tasks()

    async def fails() -> None:
        raise ValueError("oh")

    async def waits() -> None:
        await asyncio.Event().wait()

    with caplog.at_level(logging.ERROR):
        await owned.start("the failing one", fails())
    waiting = owned.start("the waiting one", waits())
    await owned.stop()
    assert "the failing one" in caplog.text and waiting.cancelled()


@pytest.mark.parametrize(("action", "error"), [("fail", RuntimeError), ("enospc", OSError)])
async def test_a_step_meets_the_fault_that_is_written_for_it_once(
    action: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "faults"
    table.write_text(json.dumps([{"step": "here", "action": action, "subject": "me", "skip": 1}]))
    monkeypatch.setattr(tasks, "_faults", str(table))
    await step("elsewhere", "me")
    await step("here", "you")
    await step("here", "me")
    with pytest.raises(error):
        await step("here", "me")
    await step("here", "me")
    assert (tmp_path / "faults.seen").read_text().split() == ["elsewhere", "here", "here", "here", "here"]
