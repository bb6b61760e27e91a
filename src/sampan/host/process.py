"""The only code that starts processes.

Children are made by posix_spawn (a vfork underneath: safe beside gRPC's threads, no page table is copied),
each in a session and with a session keyring of its own, with /dev/null for what was not asked for and no
descriptor but those named.
They are reaped through a pidfd on the event loop: no signal handler, no thread per child.
"""

import asyncio
import fcntl
import io
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache

from sampan.host.descriptors import Writer
from sampan.host.syscalls import close_on_exec_from, new_session_keyring, posix_spawn
from sampan.model.errors import ToolFailed
from sampan.tasks import finish

OUTPUT_LIMIT = 16 << 20  # bytes kept of each stream; the rest is read and dropped
DRAIN_SECONDS = 2.0  # how long an orphan that holds our pipe may keep us after the child has gone
REAP_SECONDS = (
    5.0  # how long we wait for a killed child; one stuck in the kernel is reaped later, by the loop
)
_CHUNK = 1 << 16
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Finished:
    """How a child ended: `code` is its exit code, or minus the signal that killed it."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    def check(self) -> "Finished":
        """Itself, or ToolFailed if the code is not 0."""
        if self.code:
            raise ToolFailed(self.argv, self.code, (self.stderr or self.stdout).decode(errors="replace"))
        return self


class Budget:
    """Bytes of output that may still be kept, by all that draw on it."""

    def __init__(self, left: int) -> None:
        self.left = left

    def draw(self, wanted: int) -> int:
        """Take `wanted` bytes, or what is left."""
        granted = min(wanted, self.left)
        self.left -= granted
        return granted


class _Output:
    """One pipe from a child, read as it fills and kept as far as its budget goes."""

    def __init__(self, fd: int, budget: Budget) -> None:
        self._fd = fd
        self._budget = budget
        self._kept = io.BytesIO()  # its getvalue() copies nothing
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    def _readable(self) -> None:
        for _ in range(4):  # a few chunks a turn: short output costs one, a flood does not starve the loop
            try:
                chunk = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                self.close()
                return
            if kept := self._budget.draw(len(chunk)):
                self._kept.write(chunk[:kept])

    def close(self) -> None:
        if not self.ended.done():
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self.ended.set_result(None)

    def take(self) -> bytes:
        return self._kept.getvalue()


class Child:
    """A running child of ours. Made by `spawn`, which also ends it, or by `start`."""

    def __init__(self, argv: Sequence[str], pid: int, pidfd: int) -> None:
        self.argv = tuple(argv)
        self.pid = pid
        self._pidfd = pidfd
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._stdin: Writer | None = None
        self._outputs: tuple[_Output, ...] = ()
        self._loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        self._exited.set_result(code)

    @property
    def running(self) -> bool:
        """Whether it has not been reaped yet."""
        return not self._exited.done()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write to its stdin, waiting while the pipe is full. BrokenPipeError once it no longer reads."""
        if self._stdin is None:
            raise ValueError(f"{self.argv[0]} was started without a stdin")
        await self._stdin.write(data)

    async def close_stdin(self) -> None:
        """Let the child see the end of its input."""
        if self._stdin is not None:
            self._stdin.close()

    async def exited(self) -> int:
        """Wait until it is gone; its exit code, or minus the signal. Output may still be on its way."""
        return await asyncio.shield(self._exited)

    async def finished(self, drain: float = DRAIN_SECONDS) -> Finished:
        """Wait for its end and its output. What it left behind may hold the pipes for `drain` seconds."""
        code = await self.exited()
        pending = [output.ended for output in self._outputs if not output.ended.done()]
        if pending:
            await asyncio.wait(pending, timeout=drain)
        self.close()
        stdout, stderr = (output.take() for output in self._outputs) if self._outputs else (b"", b"")
        return Finished(self.argv, code, stdout, stderr)

    def when_exited(self, do: Callable[[], None]) -> None:
        """Call `do` once it is gone, soon if it is already."""
        self._exited.add_done_callback(lambda _: do())

    def kill(self) -> None:
        """SIGKILL to the child's process group, unless the child has been reaped."""
        if self.running:  # from the reaping on, the number may belong to somebody else
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it if it runs, and wait for that."""
        self.kill()
        await asyncio.wait([self._exited], timeout=REAP_SECONDS)
        self.close()

    def close(self) -> None:
        """Let go of its pipes."""
        for output in self._outputs:
            output.close()
        if self._stdin is not None:
            self._stdin.close()


async def read_until(fd: int, mark: bytes, limit: int) -> bytes:
    """Read a pipe until `mark` has come, its end, or `limit` bytes. The caller closes it."""
    loop = asyncio.get_running_loop()
    got = bytearray()
    done: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        try:
            chunk = os.read(fd, limit - len(got))
        except BlockingIOError:
            return
        got.extend(chunk)
        if not chunk or mark in got or len(got) >= limit:
            loop.remove_reader(fd)
            _settle(done)

    os.set_blocking(fd, False)
    loop.add_reader(fd, readable)
    try:
        await done
    finally:
        loop.remove_reader(fd)
    return bytes(got)


@asynccontextmanager
async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bool = False,
    fds: Sequence[int] = (),
    directory: str = "",
    limit: int | None = OUTPUT_LIMIT,
) -> AsyncIterator[Child]:
    """Start a program and hand it to the block; leaving the block kills its process group if it still runs.

    `fds` become its descriptors 3, 4, … in order; `directory` its working directory (default: ours). `limit`
    caps what is kept of each output; None sends both to /dev/null.
    `env` None is a clean environment with PATH alone. Raises ToolFailed (127) if there is no such program.
    """
    child = _start(
        argv, _Surroundings(env, tuple(fds), directory), None if stdin else _dev_null(), _outputs(limit)
    )
    try:
        yield child
    finally:
        if child.running:
            await finish(child.end())
        else:
            child.close()


def start(argv: Sequence[str], *, stdin: int, outputs: Sequence[int | Budget], fds: Sequence[int]) -> Child:
    """`spawn` without a block: who calls it ends the child, or closes it once it has exited. `stdin` is a descriptor,
    and so is each of both `outputs`, unless it is to be kept as far as its Budget goes. They stay the caller's."""
    return _start(argv, _Surroundings(None, tuple(fds), ""), stdin, outputs)


async def run(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    limit: int = OUTPUT_LIMIT,
) -> Finished:
    """Run a program to its end. ToolFailed when `check` and its code is not 0; being cancelled kills it."""
    async with spawn(argv, env=env, stdin=stdin is not None, limit=limit) as child:
        if stdin is not None:
            with suppress(BrokenPipeError):  # it may end without reading; its exit code tells
                await child.write(stdin)
            await child.close_stdin()
        finished = await child.finished()
    return finished.check() if check else finished


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What a child finds besides its stdio."""

    env: Mapping[str, str] | None
    fds: tuple[int, ...]
    directory: str


def _start(
    argv: Sequence[str], surroundings: _Surroundings, stdin: int | None, outputs: Sequence[int | Budget]
) -> Child:
    """posix_spawn with the pipes asked for (None, Budget), and the parent's ends wired to the loop."""
    mine: list[int] = []  # our ends of the pipes
    theirs: list[int] = []  # closed here once the child has its copies
    try:
        duplicates = [(_stdin(mine, theirs) if stdin is None else stdin, 0)]
        for target, output in enumerate(outputs, 1):
            duplicates.append((output if isinstance(output, int) else _output(mine, theirs), target))
        for target, fd in enumerate(surroundings.fds, 3):
            # a copy out of the way first: a plain dup2 could overwrite a descriptor still to be passed
            theirs.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64))
            duplicates.append((theirs[-1], target))
        child = Child(argv, *_posix_spawn(argv, surroundings, duplicates))
    except BaseException:
        for fd in mine:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    if stdin is None:
        child._stdin = Writer(mine.pop(0))
    budgets = [output for output in outputs if isinstance(output, Budget)]
    child._outputs = tuple(_Output(fd, budget) for fd, budget in zip(mine, budgets, strict=True))
    return child


def _outputs(limit: int | None) -> tuple[int | Budget, int | Budget]:
    return (_dev_null(), _dev_null()) if limit is None else (Budget(limit), Budget(limit))


def _stdin(mine: list[int], theirs: list[int]) -> int:
    read, write = os.pipe()
    mine.append(write)
    theirs.append(read)
    return read


def _output(mine: list[int], theirs: list[int]) -> int:
    read, write = os.pipe()
    mine.append(read)
    theirs.append(write)
    return write


def _posix_spawn(
    argv: Sequence[str], surroundings: _Surroundings, duplicates: list[tuple[int, int]]
) -> tuple[int, int]:
    """The child's pid and a pidfd of it."""
    env = {"PATH": os.environ.get("PATH", _PATH)} if surroundings.env is None else surroundings.env
    close_on_exec_from(3)  # Python opens everything so; what a library or our own parent left open may not be
    _renew_keyring()
    try:
        pid = posix_spawn(argv, env, duplicates, surroundings.directory)
    except OSError as error:
        reason = f"{error.strerror}: is {argv[0]} installed and executable?"
        raise ToolFailed(argv, 127, reason) from error
    finally:
        _renew_keyring()
    try:
        return pid, os.pidfd_open(pid)
    except OSError:  # out of descriptors: a child that cannot be watched must not run
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _renew_keyring() -> None:
    """Before a child and after it, so that it shares its keyring with nobody: `crun exec` hands the one it was
    started with to the command in the container."""
    with suppress(OSError):  # a kernel without keyrings
        new_session_keyring()


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


@cache
def _dev_null() -> int:
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
