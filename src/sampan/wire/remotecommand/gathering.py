"""The events of one `receive`, few however small the pieces were in which a client said them.

Whoever handles events may wait between them (a command that doesn't read), so what waits is to be little more than the
bytes that came: a flood of one-byte messages makes one `Input`, and of sizes only the last one matters.
"""

from collections.abc import Iterable

from sampan.wire.remotecommand.channels import Event, Input, Ready, Resize

_SMALL = 4096
"""Bytes of input that are worth copying to make fewer events."""


class Gathering:
    """Events in, fewer events out. Input keeps its order; a size may come before input that it was said after."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._small = bytearray()
        self._size: Resize | None = None

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Input(data) if len(data) < _SMALL:
                    self._small += data
                case Resize():
                    self._size = event
                case _:
                    self._join()
                    self._events.append(event)

    def taken(self) -> list[Event]:
        self._join()
        if self._size:
            self._events.insert(self._events[:1] == [Ready()], self._size)
        return self._events

    def _join(self) -> None:
        if self._small:
            self._events.append(Input(bytes(self._small)))
            self._small.clear()
