"""How far a pull is: a bar for each layer, on a terminal. The only module that draws, and so imports rich."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from sampan.cli.tables import printable, short


class PullProgress:
    """Bars that come with their layers and go with the pull. A context manager; draws on standard error."""

    def __init__(self, reference: str, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TextColumn("{task.fields[state]}"),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._progress.console.print(f"Pulling {printable(reference)}", markup=False, highlight=False)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, layer: str, done: int, total: int, ready: bool) -> None:
        """A layer has `done` of `total` bytes (-1: not known); `ready` is unpacked."""
        if layer not in self._tasks:
            self._tasks[layer] = self._progress.add_task(printable(short(layer)), total=None, state="")
        whole = max(total, done) if total >= 0 else None
        if ready:
            whole = whole or done
            done = whole
        state = "ready" if ready else "unpacking" if whole and done >= whole else ""
        self._progress.update(self._tasks[layer], completed=done, total=whole, state=state)
