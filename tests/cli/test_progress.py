"""The bars of a pull."""

import io

from rich.console import Console

from sampan.cli.progress import PullProgress


def drawn(*updates: tuple[str, int, int, bool]) -> list[tuple[str, float, float | None, str]]:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with PullProgress("app:1", console) as progress:
        for update in updates:
            progress.update(*update)
        return [
            (task.description, task.completed, task.total, task.fields["state"])
            for task in progress._progress.tasks
        ]


def test_each_layer_has_its_bar() -> None:
    first, second = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert drawn((first, 0, -1, False), (second, 5, 10, False), (first, 3, -1, False)) == [
        ("1" * 13, 3, None, ""),
        ("2" * 13, 5, 10, ""),
    ]


def test_a_layer_is_received_then_unpacked_then_ready() -> None:
    layer = "sha256:" + "1" * 64
    assert drawn((layer, 10, 10, False)) == [("1" * 13, 10, 10, "unpacking")]
    assert drawn((layer, 10, 10, True)) == [("1" * 13, 10, 10, "ready")]


def test_a_layer_that_was_here_is_ready_at_once() -> None:
    assert drawn(("sha256:" + "1" * 64, 0, -1, True))[0][3] == "ready"
    assert drawn(("sha256:" + "1" * 64, 0, 77, True)) == [("1" * 13, 77, 77, "ready")]


def test_what_is_drawn_is_text_and_no_markup() -> None:
    file = io.StringIO()
    with PullProgress("[bold]x[/bold]\x1b[31m", Console(file=file, width=80)) as progress:
        progress.update("[red]evil", 1, 2, False)
    assert file.getvalue().startswith("Pulling [bold]x[/bold]\\x1b[31m\n")
