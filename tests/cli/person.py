"""A person at a terminal: `sampan ARGS...` as a process of its own that has a pseudo-terminal, and keys to press."""

import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from typing import Any

SECONDS = 20.0


class Person:
    """Runs the command in a session that has this terminal; what it shows gathers in `screen`."""

    def __init__(self, endpoint: str, *argv: str, width: int = 91, height: int = 17) -> None:
        self._master, self._slave = os.openpty()
        self.resize(width, height)
        self.before = self.modes()
        self.screen = b""
        command = [sys.executable, "-m", "sampan", "--endpoint", endpoint, *argv]
        # The leader of a session gets the first terminal that it opens as its own.
        script = 'exec "$@" <"$0" >"$0" 2>&1'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", script, os.ttyname(self._slave), *command], start_new_session=True
        )

    def modes(self) -> list[Any]:
        """Of the terminal, as tcgetattr(3) has them."""
        return termios.tcgetattr(self._slave)

    def set_modes(self, modes: list[Any]) -> None:
        termios.tcsetattr(self._slave, termios.TCSANOW, modes)

    @property
    def raw(self) -> bool:
        return not self.modes()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def resize(self, width: int, height: int) -> None:
        ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def until(self, shown: bytes) -> bytes:
        """Wait until this is on the screen; all that was shown."""
        deadline = time.monotonic() + SECONDS
        while shown not in self.screen:
            assert time.monotonic() < deadline, f"{shown!r} does not come; there is {self.screen!r}"
            self._look(0.2)
        return self.screen

    def ended(self) -> int:
        """Wait until the command has ended; its exit code."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on; there is {self.screen!r}"
            self._look(0.02)
        self._look(0)
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def _look(self, seconds: float) -> None:
        while select.select((self._master,), (), (), seconds)[0]:
            self.screen += os.read(self._master, 65536)
            seconds = 0
