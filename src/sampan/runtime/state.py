"""The live tables of pods, containers and images, and the one way any of them changes.

A change is durable before it is visible: `commit` writes to the store (group commit, fsync) and then swaps the record
in the table. Records are frozen and tables hold only records, so reads take no lock and never wait.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from sampan.model.container import Container
from sampan.model.errors import NotFound
from sampan.model.image import Image
from sampan.model.pod import Pod
from sampan.tasks import KeyedLock, finish, step

Record = Pod | Container | Image
R = TypeVar("R", Pod, Container, Image)
KINDS: Mapping[str, type[Record]] = MappingProxyType({"pod": Pod, "container": Container, "image": Image})


@dataclass(frozen=True, slots=True)
class Gone:
    """A record that is to be removed."""

    kind: str
    id: str


class Journal(Protocol):
    """Durable storage of records (`store.records.Journal`)."""

    async def write(self, changes: Iterable[tuple[str, str, Record | None]]) -> None:
        """Apply (kind, id, record or None to delete) as one transaction; returns when it is durable."""


class State:
    """Every record, by kind and id."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._locks = KeyedLock()
        self._pods: dict[str, Pod] = {}
        self._containers: dict[str, Container] = {}
        self._images: dict[str, Image] = {}
        self._watchers: list[Callable[[Record | Gone], None]] = []
        self._observers: list[Callable[[Record | None, Record | Gone], None]] = []
        self.pods: Mapping[str, Pod] = MappingProxyType(self._pods)
        self.containers: Mapping[str, Container] = MappingProxyType(self._containers)
        self.images: Mapping[str, Image] = MappingProxyType(self._images)

    def adopt(self, records: Iterable[Record]) -> None:
        """Take records that are durable already (at boot)."""
        for record in records:
            self._table(record)[record.id] = record

    def watch(self, callback: Callable[[Record | Gone], None]) -> None:
        """Call `callback` after every change, on the event loop."""
        self._watchers.append(callback)

    def observe(self, callback: Callable[[Record | None, Record | Gone], None]) -> None:
        """Like `watch`, with the record as it was before; None for a new one."""
        self._observers.append(callback)

    async def commit(self, *changes: Record | Gone) -> None:
        """Make the changes durable together, then visible. Not cut short by cancellation."""
        async with AsyncExitStack() as held:
            for id in sorted(change.id for change in changes if isinstance(change, Gone)):
                await held.enter_async_context(self._locks(id))  # an update under way must not bring it back
            await finish(self._commit(changes))

    async def update_pod(self, id: str, change: Callable[[Pod], Pod]) -> Pod:
        """Apply a pure transition to the pod as it is now; NotFound if it is gone."""
        async with self._locks(id):
            return await self._swap(self._pods, "pod", id, change)

    async def update_container(self, id: str, change: Callable[[Container], Container]) -> Container:
        """Apply a pure transition to the container as it is now; NotFound if it is gone."""
        async with self._locks(id):
            return await self._swap(self._containers, "container", id, change)

    def containers_of(self, pod_id: str) -> list[Container]:
        """The containers of a pod, intents included."""
        return [container for container in self._containers.values() if container.pod_id == pod_id]

    async def _swap(self, table: Mapping[str, R], kind: str, id: str, change: Callable[[R], R]) -> R:
        current = table.get(id)
        if current is None:
            raise NotFound(f"{kind} {id} is gone")
        new = change(current)
        if new is not current:
            await self.commit(new)
        return new

    async def _commit(self, changes: tuple[Record | Gone, ...]) -> None:
        await step("state.commit", changes[0].id)
        await self._journal.write([_row(change) for change in changes])
        for change in changes:
            before = self._apply(change)
            for callback in self._watchers:
                callback(change)
            for observer in self._observers:
                observer(before, change)

    def _apply(self, change: Record | Gone) -> Record | None:
        """Make a change visible; the record as it was."""
        table = self._tables[change.kind] if isinstance(change, Gone) else self._table(change)
        before: Record | None = (
            table.pop(change.id, None) if isinstance(change, Gone) else table.get(change.id)
        )
        if not isinstance(change, Gone):
            table[change.id] = change
        return before

    @property
    def _tables(self) -> dict[str, dict[str, Any]]:
        return {"pod": self._pods, "container": self._containers, "image": self._images}

    def _table(self, record: Record) -> dict[str, Any]:
        return self._tables[kind_of(record)]


def kind_of(record: Record) -> str:
    """The name of the record's table."""
    return type(record).__name__.lower()


def _row(change: Record | Gone) -> tuple[str, str, Record | None]:
    return (
        (change.kind, change.id, None) if isinstance(change, Gone) else (kind_of(change), change.id, change)
    )


def now() -> int:
    """Wall clock in ns since the epoch, for timestamps that people and the kubelet read; never for timers."""
    return time.time_ns()
