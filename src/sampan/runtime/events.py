"""Events of pods and containers, read off the changes of their records, for any number of subscribers.

A subscriber is told every event in order. One that reads too slowly is resynchronised: its queue is dropped, and what
it was told is compared with what is now, by the same rule that makes events of a change. So it may miss that something
came and went, but its last event of each id is always true. Nobody subscribed: nothing is kept.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from sampan.model.container import Container, ContainerState
from sampan.model.pod import Pod, PodState
from sampan.runtime.state import Gone, Record, State, now

BACKLOG = 1000  # events that a subscriber may be behind before it is resynchronised

log = logging.getLogger("sampan.events")
Subject = Pod | Container


class Kind(Enum):
    """What the CRI's ContainerEventType says, of pods too."""

    CREATED = "created"
    STARTED = "started"
    STOPPED = "stopped"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to the container or pod `id` at `at` (ns, strictly increasing); its pod and all of the
    pod's visible containers as they were right after."""

    kind: Kind
    id: str
    at: int
    pod: Pod | None
    containers: tuple[Container, ...]


Told = tuple[
    Event, Subject | None
]  # an event, and what its reader then knows: the last of a change tells all of it


def history(record: Subject | None) -> tuple[Kind, ...]:
    """The events that a record stands for. Pure. Nobody is told of an intent."""
    if record is None or not record.visible:
        return ()
    if isinstance(record, Pod):
        began, over = bool(record.ready_at), record.state is PodState.NOT_READY
    else:
        began, over = bool(record.started_at), record.state is ContainerState.EXITED
    return (Kind.CREATED, *((Kind.STARTED,) if began else ()), *((Kind.STOPPED,) if over else ()))


def between(before: Subject | None, after: Subject | None) -> tuple[Kind, ...]:
    """The events that lead from one record of a subject to a later one; None is "not there". Pure.

    An end that was recorded before the beginning was (a container that ran for a moment) is told again after it.
    """
    told, true = history(before), history(after)
    if told and not true:
        return (Kind.DELETED,)
    same = next((at for at, kind in enumerate(true) if told[at : at + 1] != (kind,)), len(true))
    return true[same:]


class Clock:
    """Wall clock in ns that never stands still and never goes back, so that what is read later has a later time."""

    def __init__(self) -> None:
        self._last = 0

    def stamp(self) -> int:
        self._last = max(self._last + 1, now())
        return self._last


class Subscription:
    """One subscriber's queue, bounded, and what it has been told."""

    def __init__(self, events: "Events", known: dict[str, Subject]) -> None:
        self._events = events
        self._known = known
        self._queue: deque[Told] = deque()
        self._room = BACKLOG
        self._behind = 0  # events dropped since it was last up to date
        self._ended = False
        self._woken = asyncio.Event()

    def offer(self, told: Told) -> None:
        """Queue an event; or, if there is no room, forget the queue until a resynchronisation."""
        if self._behind or len(self._queue) >= self._room:
            self._behind += len(self._queue) + 1
            self._queue.clear()
        else:
            self._queue.append(told)
        self._woken.set()

    def end(self) -> None:
        """No more events: the daemon is ending."""
        self._ended = True
        self._woken.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            self._woken.clear()
            if self._behind:
                self._resynchronise()
            while self._queue and not self._behind:
                event, subject = self._queue.popleft()
                self._note(event, subject)
                yield event
            if self._ended:
                return
            await self._woken.wait()

    def _note(self, event: Event, subject: Subject | None) -> None:
        if event.kind is Kind.DELETED:
            self._known.pop(event.id, None)
        elif subject is not None:
            self._known[event.id] = subject

    def _resynchronise(self) -> None:
        """Queue what leads from what it was told to what is now."""
        self._queue.extend(self._events.missed(self._known))
        self._room = len(self._queue) + BACKLOG
        log.warning(
            "a subscriber of events reads too slowly; resynchronised",
            extra={"dropped": self._behind, "sent": len(self._queue)},
        )
        self._behind = 0


class Events:
    """Watches every change of the state, and tells the subscribers."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._subscriptions: set[Subscription] = set()
        self._closed = False
        self.clock = Clock()
        state.observe(self._changed)

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """All events from now on, while the block runs."""
        subscription = Subscription(self, self._present())
        if self._closed:
            subscription.end()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every subscription, those to come too (orderly stop of the daemon)."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end()

    def missed(self, known: dict[str, Subject]) -> Iterator[Told]:
        """The events that lead from the records in `known` to those of now: ends of containers first, then of pods,
        then what is there, a pod before its containers."""
        present = self._present()
        gone = [record for id, record in known.items() if id not in present]
        for before in sorted(gone, key=lambda record: isinstance(record, Pod)):
            yield from self._events(before, None, known)
        for id, after in present.items():
            yield from self._events(known.get(id), after, known)

    def _present(self) -> dict[str, Subject]:
        everything: dict[str, Subject] = {**self._state.pods, **self._state.containers}
        return {id: record for id, record in everything.items() if record.visible}

    def _changed(self, before: Record | None, after: Record | Gone) -> None:
        if not self._subscriptions:
            return
        old = before if isinstance(before, Pod | Container) else None
        new = after if isinstance(after, Pod | Container) else None
        for told in self._events(old, new, {}):
            for subscription in self._subscriptions:
                subscription.offer(told)

    def _events(
        self, before: Subject | None, after: Subject | None, known: dict[str, Subject]
    ) -> Iterator[Told]:
        """`known` has the pod of a container that is gone together with it."""
        subject, kinds = after or before, between(before, after)
        if subject is None or not kinds:
            return
        pod_id = subject.id if isinstance(subject, Pod) else subject.pod_id
        last = subject if isinstance(subject, Pod) else known.get(pod_id)
        pod = self._state.pods.get(pod_id, last)
        assert not isinstance(pod, Container)
        containers = tuple(one for one in self._state.containers_of(pod_id) if one.visible)
        for number, kind in enumerate(kinds, 1):
            event = Event(kind, subject.id, self.clock.stamp(), pod, containers)
            yield event, subject if number == len(kinds) else None
