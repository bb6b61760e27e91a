import asyncio

import pytest

from sampan.model import container as changes
from sampan.model.errors import Exhausted, NotFound
from sampan.runtime.state import Gone, State
from tests.fakes import FakeJournal
from tests.server.test_convert import CONTAINER, POD


async def test_a_change_is_visible_only_once_it_is_durable() -> None:
    journal = FakeJournal()
    state = State(journal)
    journal.failing.append(Exhausted("disk full"))
    with pytest.raises(Exhausted):
        await state.commit(POD)
    assert not state.pods and not journal.rows
    await state.commit(POD, CONTAINER)
    assert state.pods[POD.id] is POD and journal.rows["container", CONTAINER.id] is CONTAINER
    await state.commit(Gone("container", CONTAINER.id))
    assert not state.containers and ("container", CONTAINER.id) not in journal.rows


async def test_concurrent_updates_of_one_record_lose_nothing() -> None:
    state = State(FakeJournal())
    await state.commit(CONTAINER)
    await asyncio.gather(
        state.update_container(CONTAINER.id, lambda one: changes.started(one, 8)),
        state.update_container(CONTAINER.id, lambda one: changes.finished(one, at=9, code=4)),
    )
    now = state.containers[CONTAINER.id]
    assert (now.started_at, now.finished_at, now.exit_code) == (8, 9, 4)


async def test_the_first_end_stays() -> None:
    state = State(FakeJournal())
    await state.commit(CONTAINER)
    await state.update_container(CONTAINER.id, lambda one: changes.finished(one, at=9, code=4))
    await state.update_container(CONTAINER.id, lambda one: changes.finished(one, at=10, code=0))
    assert state.containers[CONTAINER.id].exit_code == 4
    with pytest.raises(NotFound):
        await state.update_pod("gone", lambda pod: pod)


async def test_a_cancelled_commit_is_whole() -> None:
    journal = FakeJournal()
    state = State(journal)
    commit = asyncio.ensure_future(state.commit(POD))
    await asyncio.sleep(0)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    assert (("pod", POD.id) in journal.rows) and POD.id in state.pods


async def test_an_update_under_way_does_not_bring_a_removed_record_back() -> None:
    journal = FakeJournal()
    state = State(journal)
    await state.commit(CONTAINER)
    found = await asyncio.gather(
        state.commit(Gone("container", CONTAINER.id)),
        state.update_container(CONTAINER.id, lambda one: changes.finished(one, at=9, code=4)),
        return_exceptions=True,
    )
    assert isinstance(found[1], NotFound)
    assert not state.containers and not journal.rows
