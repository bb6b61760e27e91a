"""The person's terminal while a session has it: raw, so that every key goes to the other side, and back to what it was.

Raw is cfmakeraw(3): no echo, no lines, no signals by keys, eight bits, output as it comes (the terminal of the
container has already made CR LF of its lines).
"""

import contextlib
import os
import termios
from typing import Any, Self

_INPUT = (
    *(termios.IGNBRK, termios.BRKINT, termios.PARMRK, termios.ISTRIP),
    *(termios.INLCR, termios.IGNCR, termios.ICRNL, termios.IXON),
)
_LOCAL = (termios.ECHO, termios.ECHONL, termios.ICANON, termios.ISIG, termios.IEXTEN)


def size(fd: int) -> tuple[int, int] | None:
    """Width and height in characters, None where `fd` is no terminal or one that has no size."""
    try:
        width, height = os.get_terminal_size(fd)
    except OSError:
        return None
    return (width, height) if width and height else None


class RawTerminal:
    """A context manager: raw inside, as it was outside, however that is left. `again` after the process was stopped and
    goes on: the shell has set it otherwise meanwhile."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        self.again()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._in_background():
            with contextlib.suppress(termios.error):  # it is gone: the window was closed
                termios.tcsetattr(self._fd, termios.TCSANOW, self._before)

    def again(self) -> None:
        """Make it raw. Nothing happens while another job has the terminal: the attempt would stop this process."""
        if not self._in_background():
            termios.tcsetattr(self._fd, termios.TCSANOW, _raw(self._before))

    def _in_background(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) != os.getpgrp()
        except OSError:  # not the terminal of this session, which job control is about
            return False


def _raw(before: list[Any]) -> list[Any]:
    input_, output, control, local, *speeds, keys = before
    keys = list(keys)
    keys[termios.VMIN], keys[termios.VTIME] = 1, 0
    return [
        input_ & ~_bits(_INPUT),
        output & ~termios.OPOST,
        (control & ~(termios.CSIZE | termios.PARENB)) | termios.CS8,
        local & ~_bits(_LOCAL),
        *speeds,
        keys,
    ]


def _bits(flags: tuple[int, ...]) -> int:
    return sum(flags)
