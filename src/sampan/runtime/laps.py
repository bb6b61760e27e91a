"""Where the time of one piece of work went, for the log: an operator's first question about a slow pull."""

import asyncio


class Laps:
    """A stopwatch. Begins when it is made; every `lap` names what the time since the last one was for."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._began = self._last = self._clock()
        self._laps: list[str] = []

    def lap(self, name: str) -> None:
        now = self._clock()
        self._laps.append(f"{name} {now - self._last:.3f} s")
        self._last = now

    def __str__(self) -> str:
        return f"{self._last - self._began:.3f} s ({', '.join(self._laps)})"
