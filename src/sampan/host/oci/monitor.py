"""Starting conmon, and the little that can be asked of it afterwards: is it there, open the log anew, a
terminal's size, leave.

conmon daemonises itself: our child is gone as soon as its own child has been recorded in a pid file. It is
never put into the pod's cgroup, so a pod's memory limit cannot kill it (CVE-2019-14891); it lowers its own
oom_score_adj where it may, and resets it for the container.
"""

import asyncio
import errno
import fcntl
import os
import stat
import termios
from contextlib import suppress
from pathlib import Path

from sampan.host.process import Child, read_until, spawn
from sampan.host.processes import find, gone, kill_family, process_ref, read_small
from sampan.host.threads import in_thread
from sampan.model.errors import Lost, NotFound, ToolFailed
from sampan.model.process import ProcessRef
from sampan.tasks import bounded, finish
from sampan.wire import conmon

LAUNCH_SECONDS = 120.0  # for the runtime to create a container, its hooks included
FORK_SECONDS = 30.0  # for conmon to put itself into the background
_SYNC = 3  # its descriptor, of the pipe on which it tells how creating went
_SYNC_LIMIT = 64 << 10
_LEAVE_SECONDS = 1.0  # to write what it knows of a dead container, and go
_REOPEN_SECONDS = 10.0
_LOG_MODE = 0o640  # conmon before 2.2 makes 0600, which locks out log collectors that are not root
_TERMINAL_SOCKET = "conmon-term.XXXXXX"
_SUN_PATH = 108  # unix(7)


async def launch(command: conmon.Command) -> tuple[ProcessRef, ProcessRef]:
    """Have conmon create the container; returns its init and conmon itself. Raises ToolFailed with the
    runtime's words, Unavailable if that takes longer than LAUNCH_SECONDS.

    Whatever was begun when this fails or is cancelled is the caller's to remove (`abort`, then the runtime's
    state).
    """
    argv = conmon.argv(command)
    said, theirs = os.pipe()
    try:
        # not to be cancelled half way: from the fork on, the pid file is the only way to find conmon again
        await finish(_daemonise(argv, command, theirs))
        async with bounded(
            LAUNCH_SECONDS, f"container {command.id}: {command.runtime} create (under conmon)"
        ):
            line = await read_until(said, b"\n", _SYNC_LIMIT)
    finally:
        os.close(said)
    pid, reason = conmon.created(line)
    monitor = watching(command.bundle, command.id)
    init = await process_ref(pid) if pid else None
    if init is None or monitor is None:
        if reason:
            raise ToolFailed([command.runtime, "create", command.id], 1, reason)
        died = "the container died while it was created" if pid else "conmon ended without a word"
        raise ToolFailed(argv, 1, died)
    return init, monitor


async def _daemonise(argv: list[str], command: conmon.Command, sync: int) -> None:
    """Run the part of conmon that is our child: it ends when its pid file is written."""
    env = {"PATH": os.environ.get("PATH", os.defpath), conmon.SYNC_PIPE: str(_SYNC)}
    scratch = command.sockets
    if len(str(scratch / _TERMINAL_SOCKET)) < _SUN_PATH:  # else /tmp
        env["TMPDIR"] = str(scratch)
    try:
        # its working directory: where an old conmon notes an OOM kill
        async with spawn(argv, env=env, fds=[sync], directory=str(command.bundle)) as child:
            await _forked(child, command.id)
            if await child.exited():
                (await child.finished()).check()
    finally:
        os.close(sync)


async def _forked(child: Child, id: str) -> None:
    """Wait until our child has ended. If it does not, all it has started goes with it: no pid file names
    that."""
    starter = find(child.pid)
    try:
        async with bounded(FORK_SECONDS, f"container {id}: {child.argv[0]} going into the background"):
            await child.exited()
    except BaseException:
        if starter is not None:
            await finish(kill_family(starter))
        raise


def watching(bundle: Path, id: str) -> ProcessRef | None:
    """The conmon that the bundle's pid file names, if it lives and watches this container.

    None is certain. OSError: it cannot be told, for want of descriptors or memory.
    """
    found = command_line(bundle, id)
    return found and found[0]


def command_line(bundle: Path, id: str) -> tuple[ProcessRef, list[bytes]] | None:
    """`watching`, and what it was started with."""
    try:
        process = find(int(read_small(bundle / conmon.PID_FILE)))
        if process is None:
            return None
        words = read_small(f"/proc/{process.pid}/cmdline").split(b"\0")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    ours = id.encode() in words and b"--cid" in words
    return (process, words) if ours and find(process.pid) == process else None


def input_pipe(process: ProcessRef) -> Path | None:
    """Where the pipe to the container's stdin can be opened, by its conmon; None where there is none (a terminal), or
    it cannot be told: the only pipe that it writes to, but for the one that it was started with."""
    directory = Path(f"/proc/{process.pid}/fd")
    try:
        found = [each for each in directory.iterdir() if int(each.name) > _SYNC and _is_written_to(each)]
    except OSError:
        return None
    return found[0] if len(found) == 1 and find(process.pid) == process else None


def _is_written_to(descriptor: Path) -> bool:
    pipe = str(descriptor.readlink()).startswith("pipe:")
    return pipe and descriptor.lstat().st_mode & stat.S_IRWXU == stat.S_IWUSR | stat.S_IXUSR


async def leave(bundle: Path, id: str) -> None:
    """See to it that the conmon of a dead container is gone: it has a second to go by itself, then SIGKILL.

    SIGKILL alone ends it: other signals it passes on to the container.
    """
    monitor = watching(bundle, id)
    if monitor is None:
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(_LEAVE_SECONDS):
            await gone(monitor)
        return
    await kill_family(monitor)


async def abort(bundle: Path, id: str) -> None:
    """Kill the container's conmon, and with it a runtime that is still creating the container."""
    monitor = watching(bundle, id)
    if monitor is not None:
        await kill_family(monitor)


async def reopen_log(bundle: Path, id: str, log: Path) -> None:
    """Have conmon open the log anew and wait until the new file is there. Raises NotFound if there is no
    conmon, Lost if it does not, or if what is there then is no regular file."""
    before = await in_thread(_identity, log)
    monitor = watching(bundle, id)
    await in_thread(_tell, bundle, id, conmon.REOPEN)
    try:
        async with asyncio.timeout(_REOPEN_SECONDS):
            await _reopened(log, before, monitor, id)
    except TimeoutError:
        late = f"conmon of container {id} did not open {log} anew within {_REOPEN_SECONDS:g} s"
        raise Lost(late) from None
    await in_thread(_permit, log, id)


async def _reopened(log: Path, before: tuple[int, int] | None, monitor: ProcessRef | None, id: str) -> None:
    """Wait for another file than `before`, for as long as conmon lives."""
    pause = 0.0005
    while await in_thread(_identity, log) in (None, before):
        gone_by_now = monitor is None or find(monitor.pid) != monitor
        if gone_by_now and await in_thread(_identity, log) in (None, before):  # it may have done so and gone
            raise NotFound(f"container {id} has just ended: its log is not opened anew")
        await asyncio.sleep(pause)  # conmon answers nothing, and a watch on the directory would cost more
        pause = min(pause * 2, 0.05)


def _permit(log: Path, id: str) -> None:
    """Set the log's mode, on the very file that is there: who may write its directory may have planted a
    link."""
    planted = (
        f"{log} of container {id} is no regular file: its mode is not set; look who writes that directory"
    )
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a symlink, a socket
            raise Lost(planted) from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Lost(planted)
        os.fchmod(fd, _LOG_MODE)
    finally:
        os.close(fd)


def _tell(bundle: Path, id: str, line: bytes) -> None:
    """Write a control line to conmon."""
    try:
        control = os.open(bundle / conmon.CONTROL, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:  # ENXIO: nobody reads it
        why = f"nothing watches container {id} ({error.strerror})"
        raise NotFound(f"{why}: its log cannot be opened anew") from error
    try:
        if not stat.S_ISFIFO(os.fstat(control).st_mode):
            raise Lost(
                f"{bundle / conmon.CONTROL} is no fifo: conmon of container {id} cannot be told anything"
            )
        os.write(control, line)
    finally:
        os.close(control)


def resize(bundle: Path, width: int, height: int) -> bool:
    """Tell conmon the size of the container's terminal. False while it has not read the one before. Never waits; no
    conmon, no fifo, no terminal: then there is nothing to tell.

    conmon must find one line at a time: 2.1.6 heeds the first of several only, and what is cut at 199 bytes gets mixed
    with the next line of CONTROL in all versions.
    """
    try:
        window = os.open(bundle / conmon.WINDOW, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        if not stat.S_ISFIFO(os.fstat(window).st_mode):
            return True
        if any(fcntl.ioctl(window, termios.FIONREAD, bytes(4))):
            return False
        os.write(window, conmon.window(width, height))
    except OSError:  # EPIPE: it has just gone
        return True
    finally:
        os.close(window)
    return True


def _identity(log: Path) -> tuple[int, int] | None:
    try:
        found = log.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
