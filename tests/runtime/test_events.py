import asyncio
from collections.abc import AsyncIterator
from typing import cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.model import container as c
from sampan.model import pod as p
from sampan.model.container import Container
from sampan.model.pod import Pod, PodState
from sampan.model.process import ProcessRef
from sampan.runtime import events as module
from sampan.runtime.events import Clock, Event, Events, Kind, Subscription, between, history
from sampan.runtime.state import Gone, State
from tests.fakes import FakeJournal
from tests.runtime.system import container_config, pod_config, wire

C, S, X, D = Kind.CREATED, Kind.STARTED, Kind.STOPPED, Kind.DELETED
POD_INTENT = Pod(id="aa", config=pod_config(), handler="crun", created_at=5, hostname="h")
POD = p.ready(POD_INTENT, 6)
INTENT = Container(
    id="bb", pod_id="aa", config=container_config(), handler="crun", image_id="sha256:1", created_at=7
)
CREATED = c.created(INTENT, ProcessRef(1, 2), ProcessRef(3, 4), INTENT.user)
STARTED = c.started(CREATED, 8)
STOPPED = c.finished(STARTED, at=9, code=3)
NEVER_RAN = c.finished(CREATED, at=9, code=137)


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (None, INTENT, ()),
        (None, CREATED, (C,)),
        (INTENT, CREATED, (C,)),
        (INTENT, None, ()),
        (CREATED, STARTED, (S,)),
        (STARTED, STARTED, ()),
        (STARTED, STOPPED, (X,)),
        (CREATED, NEVER_RAN, (X,)),
        (CREATED, c.start_failed(CREATED, 9, "no"), (X,)),
        (INTENT, c.finished(INTENT, at=9, code=1), (C, X)),
        (NEVER_RAN, c.started(NEVER_RAN, 8), (S, X)),
        (INTENT, STOPPED, (C, S, X)),
        (CREATED, STOPPED, (S, X)),
        (STOPPED, None, (D,)),
        (CREATED, None, (D,)),
        (None, POD_INTENT, ()),
        (POD_INTENT, POD, (C, S)),
        (POD, p.broken(POD, 9, "reboot"), (X,)),
        (p.broken(POD, 9, "reboot"), p.stopping(p.broken(POD, 9, "reboot"), 10), ()),
        (POD, p.stopping(POD, 9), (X,)),
        (p.stopping(POD, 9), p.stopped(p.stopping(POD, 9), 10), ()),
        (POD_INTENT, p.stopping(POD_INTENT, 9), (C, X)),
        (p.stopping(POD, 9), None, (D,)),
        (POD_INTENT, None, ()),
        (None, None, ()),
    ],
)
def test_the_events_between_two_records(
    before: Pod | Container | None, after: Pod | Container | None, kinds: tuple[Kind, ...]
) -> None:
    assert between(before, after) == kinds


class Reader:
    """A subscriber in a test, reading when it is told to."""

    def __init__(self, subscription: Subscription) -> None:
        self._events: AsyncIterator[Event] = aiter(subscription)

    async def take(self, count: int) -> list[Event]:
        return [await anext(self._events) for _ in range(count)]

    async def rest(self) -> list[Event]:
        """What is there now."""
        found: list[Event] = []
        while True:
            waiting = asyncio.ensure_future(anext(self._events))
            for _ in range(3):
                await asyncio.sleep(0)
            if not waiting.done():
                waiting.cancel()  # which ends the iterator too
                await asyncio.wait([waiting])
                return found
            try:
                found.append(waiting.result())
            except StopAsyncIteration:
                return found


def told(found: list[Event]) -> list[tuple[Kind, str]]:
    return [(event.kind, event.id) for event in found]


async def test_a_life_is_told_in_order_each_event_with_the_state_right_after_it() -> None:
    system = wire()
    events = Events(system.state)
    with events.subscribe() as subscription:
        pod = await system.pod()
        one = await system.started(pod, "one")
        two = await system.container(pod, "two")
        system.world.end(one, 4)
        await system.exits.ended(one)
        await system.containers.remove(one)
        await system.pods.stop(pod)
        await system.pods.remove(pod)
        found = await Reader(subscription).rest()
    assert told(found) == [
        (C, pod), (S, pod), (C, one), (S, one), (C, two), (X, one), (D, one), (X, pod), (X, two), (D, two), (D, pod),
    ]  # fmt: skip
    assert [event.at for event in found] == sorted({event.at for event in found})
    assert all(event.pod is not None and event.pod.id == pod for event in found)
    assert [[(each.id, each.state.value) for each in event.containers] for event in found[2:8]] == [
        [(one, "created")],
        [(one, "running")],
        [(one, "running"), (two, "created")],
        [(one, "exited"), (two, "created")],
        [(two, "created")],
        [(two, "created")],
    ]
    assert found[5].containers[0].exit_code == 4
    last = found[-1].pod
    assert last is not None and last.stopped_at and last.state is PodState.NOT_READY
    await system.tasks.stop()


async def test_a_run_that_fails_is_seen_to_come_and_to_go_and_a_create_that_fails_is_not_seen() -> None:
    system = wire()
    with Events(system.state).subscribe() as subscription:
        pod = await system.pod("good")
        system.world.fail("oci.create")
        with pytest.raises(Exception, match="injected"):
            await system.container(pod)
        system.world.fail("network.attach")
        with pytest.raises(Exception, match="injected"):
            await system.pod("bad")
        found = await Reader(subscription).rest()
    bad = found[-1].id
    assert told(found) == [(C, pod), (S, pod), (C, bad), (X, bad), (D, bad)] and bad != pod
    await system.tasks.stop()


async def test_nothing_is_kept_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(FakeJournal())
    events = Events(state)
    with events.subscribe():
        pass
    monkeypatch.setattr(module, "between", None)  # a call would fail
    await state.commit(POD, CREATED)
    assert not events._subscriptions


async def test_images_are_no_event() -> None:
    system = wire()
    with Events(system.state).subscribe() as subscription:
        await system.state.commit(*system.state.images.values())
        assert await Reader(subscription).rest() == []


async def test_a_hundred_subscribers_are_told_the_same_and_one_that_leaves_is_forgotten() -> None:
    state = State(FakeJournal())
    events = Events(state)

    async def read(count: int) -> list[Event]:
        with events.subscribe() as subscription:
            return await Reader(subscription).take(count)

    readers = [asyncio.ensure_future(read(4)) for _ in range(100)]
    leaving = asyncio.ensure_future(read(4))
    await asyncio.sleep(0)
    assert len(events._subscriptions) == 101
    await state.commit(POD)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert len(events._subscriptions) == 100
    await state.commit(CREATED, STARTED)
    found = await asyncio.gather(*readers)
    assert told(found[0]) == [(C, "aa"), (S, "aa"), (C, "bb"), (S, "bb")]
    assert all(each == found[0] for each in found) and not events._subscriptions


async def test_a_slow_subscriber_is_told_what_is_now_and_that_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "BACKLOG", 3)
    state = State(FakeJournal())
    await state.commit(POD, CREATED)
    with Events(state).subscribe() as subscription:
        reader = Reader(subscription)
        other = msgspec.structs.replace(CREATED, id="cc")
        await state.commit(other, STARTED)
        assert told(await reader.take(1)) == [(C, "cc")]
        await state.commit(STOPPED, Gone("container", "cc"), msgspec.structs.replace(CREATED, id="dd"))
        await state.commit(msgspec.structs.replace(CREATED, id="ee"), Gone("container", "ee"))
        await state.commit(p.stopping(POD, 9))
        found = await reader.rest()
    assert told(found) == [(D, "cc"), (X, "aa"), (S, "bb"), (X, "bb"), (C, "dd")]
    assert [event.at for event in found] == sorted({event.at for event in found})
    assert all({one.id for one in event.containers} == {"bb", "dd"} for event in found)
    assert "too slowly" in caplog.text


async def test_what_was_told_in_half_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod is created and started by one change; only the first of these events was read."""
    monkeypatch.setattr(module, "BACKLOG", 2)
    state = State(FakeJournal())
    with Events(state).subscribe() as subscription:
        reader = Reader(subscription)
        await state.commit(POD)
        assert told(await reader.take(1)) == [(C, "aa")]
        await state.commit(CREATED, STARTED)
        found = await reader.rest()
    assert told(found) == [(C, "aa"), (S, "aa"), (C, "bb"), (S, "bb")]


async def test_what_went_together_with_its_pod_is_told_with_the_pod_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BACKLOG", 1)
    state = State(FakeJournal())
    await state.commit(POD, CREATED)
    with Events(state).subscribe() as subscription:
        await state.commit(Gone("container", "bb"), Gone("pod", "aa"))
        found = await Reader(subscription).rest()
    assert [(each.kind, each.id, each.pod) for each in found] == [(D, "bb", POD), (D, "aa", POD)]


async def test_one_that_is_always_too_slow_still_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was told already is not in the next resynchronisation."""
    monkeypatch.setattr(module, "BACKLOG", 2)
    state = State(FakeJournal())
    seen: set[str] = set()
    with Events(state).subscribe() as subscription:
        reader = Reader(subscription)
        for turn in range(20):
            await state.commit(*(msgspec.structs.replace(POD, id=f"{turn}-{n}") for n in range(2)))
            seen.update(event.id for event in await reader.take(4))
        seen.update(event.id for event in await reader.rest())
    assert seen == set(state.pods)


async def test_a_resynchronisation_that_is_longer_than_the_backlog_is_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An event that comes while it is read finds room; otherwise it would begin again and again."""
    monkeypatch.setattr(module, "BACKLOG", 2)
    state = State(FakeJournal())
    pods = [msgspec.structs.replace(POD, id=f"{number}") for number in range(10)]
    containers = [msgspec.structs.replace(CREATED, id=f"c{number}") for number in range(20)]
    with Events(state).subscribe() as subscription:
        reader = Reader(subscription)
        await state.commit(*pods)
        found: list[Event] = []
        for container in containers:
            found += await reader.take(1)
            await state.commit(container)
        assert told(found) == [(kind, pod.id) for pod in pods for kind in (C, S)]
        assert told(await reader.rest()) == [(C, container.id) for container in containers]


async def test_closing_ends_every_subscription_and_those_to_come() -> None:
    state = State(FakeJournal())
    events = Events(state)
    with events.subscribe() as subscription:
        await state.commit(POD)
        events.close()
        assert told([event async for event in subscription]) == [(C, "aa"), (S, "aa")]
    with events.subscribe() as late:
        assert [event async for event in late] == []


def test_the_clock_never_stands_still_and_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100, 100, 50, 200])
    monkeypatch.setattr(module, "now", lambda: next(times))
    clock = Clock()
    assert [clock.stamp() for _ in range(4)] == [100, 101, 102, 200]


# --- whatever happens, and however slowly it is read, the last event of an id is true ----------------------------

ACTIONS = st.one_of(
    st.tuples(st.just("read"), st.integers(1, 6)),
    st.tuples(
        st.sampled_from(["intent", "create", "start", "stop", "delete", "pod", "pod stop", "pod delete"]),
        st.integers(0, 2),
    ),
)


class Drive:
    """Lives of a few pods and containers, in any order that the transitions allow."""

    def __init__(self) -> None:
        self.state = State(FakeJournal())

    async def do(self, verb: str, number: int) -> None:
        pod, id = self.state.pods.get(f"p{number}"), f"c{number}"
        container = self.state.containers.get(id)
        match verb:
            case "pod" if pod is None:
                await self.state.commit(msgspec.structs.replace(POD, id=f"p{number}"))
            case "pod stop" if pod is not None:
                await self.state.update_pod(pod.id, lambda now_: p.stopping(now_, 9))
            case "pod delete" if pod is not None and container is None:
                await self.state.commit(Gone("pod", pod.id))
            case "intent" if pod is not None and container is None:
                await self.state.commit(msgspec.structs.replace(INTENT, id=id, pod_id=pod.id))
            case "create" if container is not None and not container.visible:
                await self.state.commit(c.created(container, ProcessRef(1, 2), ProcessRef(3, 4), INTENT.user))
            case "start" if container is not None and container.init:
                await self.state.update_container(id, lambda now_: c.started(now_, 8))
            case "stop" if container is not None and container.init:
                await self.state.update_container(id, lambda now_: c.finished(now_, at=9, code=1))
            case "delete" if container is not None:
                await self.state.commit(Gone("container", id))

    def view(self) -> dict[str, Kind]:
        everything: list[Pod | Container] = [*self.state.pods.values(), *self.state.containers.values()]
        return {one.id: history(one)[-1] for one in everything if one.visible}


@settings(max_examples=400, deadline=None)
@given(st.lists(ACTIONS, max_size=20), st.lists(ACTIONS, max_size=40), st.integers(1, 5))
async def test_what_a_subscriber_was_told_last_is_how_it_is(
    before: list[tuple[str, int]], after: list[tuple[str, int]], backlog: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BACKLOG", backlog)
        drive = Drive()
        for verb, number in before:
            await drive.do(verb, number)
        events = Events(drive.state)
        with events.subscribe() as subscription:
            view, last = drive.view(), 0
            reader = Reader(subscription)
            found: list[Event] = []
            for verb, number in after:
                if verb != "read":
                    await drive.do(verb, number)
                else:
                    behind = list(events.missed(subscription._known)) if subscription._behind else []
                    found += await reader.take(min(number, len(behind) or len(subscription._queue)))
            found += await reader.rest()
    for event in found:
        assert event.at > last
        last = event.at
        if event.kind is D:
            assert view.pop(event.id) is not D
        else:
            view[event.id] = event.kind
    assert view == drive.view()
    assert all(cast(Pod, event.pod).id == f"p{event.id[1:]}" for event in found)
