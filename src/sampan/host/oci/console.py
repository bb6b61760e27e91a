"""How a command gets a terminal: the OCI runtime makes it in the container and hands us the master by a socket
(runc's terminals.md, `--console-socket`). So nobody copies bytes between, the kernel tells the command of a new size,
and hangs it up when we close the master.
"""

import asyncio
import fcntl
import os
import socket
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sampan.host.process import Child

_NAME_LIMIT = 4096  # bytes: the runtime sends the terminal's name along
_SIZES = range(1, 1 << 16)
_TIOCGPTN = 0x80045430  # a terminal's number, which masters alone tell (ioctl_tty(2)); x86, arm64, riscv


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """The socket to which the runtime connects; it is at `path`, in a directory that is ours alone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        listener.bind(path)
        listener.listen(1)
        yield listener


async def master(listener: socket.socket, runtime: Child) -> int | None:
    """A descriptor of the terminal's master, as it comes; None if the runtime has ended without sending one."""
    await _readable(listener, runtime)
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return None
    with connection:
        connection.setblocking(False)
        await _readable(connection, runtime)
        try:
            _, fds, _, _ = socket.recv_fds(connection, _NAME_LIMIT, 1, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, ConnectionError):
            return None
    if fds and not _is_master(fds[0]):
        os.close(fds.pop())
    return fds[0] if fds else None


def _is_master(fd: int) -> bool:
    """Whether it is the master of a pseudoterminal: it is made from what the container has as /dev/ptmx, which may be
    anything."""
    try:
        fcntl.ioctl(fd, _TIOCGPTN, bytes(4))
    except OSError:
        return False
    return True


async def _readable(sock: socket.socket, runtime: Child) -> None:
    """Wait until there is something, or the runtime has ended."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    runtime.when_exited(settle)
    loop.add_reader(sock, settle)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def resize(master: int, width: int, height: int) -> None:
    """Set the terminal's size, in characters; nothing happens for one that no terminal has."""
    if width in _SIZES and height in _SIZES:
        with suppress(OSError):  # the terminal has been hung up
            termios.tcsetwinsize(master, (height, width))
