"""ExecSync: the OCI runtime's `exec` as a child of ours, with pipes; its whole family dies at the timeout.

No file is written: the process object comes by a pipe and the runtime's log is a memory file, passed as descriptors 3
and 4, which it closes before the command runs. The log is what tells a command that ended with 1 from a runtime that
could not run it.
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from sampan.host.process import Budget, Child, spawn
from sampan.host.processes import find, kill_family
from sampan.model.errors import Invalid, ToolFailed
from sampan.runtime.ports import ExecResult
from sampan.tasks import finish
from sampan.wire import oci_runtime

_LOG_LIMIT = 64 << 10
_PIPE = 4 << 10  # bytes: a pipe's, even for a user who has many
OUTPUT_LIMIT = 15 << 20  # bytes of both outputs: the kubelet refuses a response of more than 16 MiB
_OWN = 256 << 10  # of it, what each output may always say, however much the other one and other commands say
_shared = Budget(96 << 20)  # what all running commands together may say beyond that
PROCESS, LOG = "/proc/self/fd/3", "/proc/self/fd/4"


class _Output(Budget):
    """One output's budget: its own bytes first, then from its command's share."""

    def __init__(self, share: "_Share") -> None:
        super().__init__(_OWN)
        self._share = share

    def draw(self, wanted: int) -> int:
        own = super().draw(wanted)
        return own + self._share.draw(wanted - own)


class _Share(Budget):
    """What both outputs of a command may say beyond their own, out of what all share; given back at `close`."""

    def __init__(self) -> None:
        super().__init__(OUTPUT_LIMIT - 2 * _OWN)
        self._borrowed = 0
        self.outputs = (_Output(self), _Output(self))

    def draw(self, wanted: int) -> int:
        borrowed = _shared.draw(min(wanted, self.left))
        self.left -= borrowed
        self._borrowed += borrowed
        return borrowed

    def close(self) -> None:
        """What was borrowed may be kept by others."""
        _shared.left += self._borrowed
        self._borrowed = 0


async def exec_sync(argv: Sequence[str], process: Mapping[str, Any], seconds: float) -> ExecResult:
    """Run `process` by `argv` (`CommandLine.exec_process` for PROCESS and LOG); `seconds` 0 waits for ever.

    As with containerd, a command that cannot be run (not found, not executable, no such directory) is an
    error, ToolFailed, and not an exit code. TimeoutError after everything that it started has been killed.
    Output beyond OUTPUT_LIMIT (or, when many commands flood us at once, beyond less) is read and dropped; however
    much one of the outputs says, the beginning of the other is kept.
    """
    with closing(_Share()) as share:
        return await _exec_sync(argv, process, seconds, share)


async def _exec_sync(
    argv: Sequence[str], process: Mapping[str, Any], seconds: float, share: _Share
) -> ExecResult:
    content = msgspec.json.encode(process)
    with _pipe(len(content)) as (spec, feed), _memory_file("log") as log:
        # An empty pipe as stdin: crun gives what it finds there to the command's user (wire.conmon), and that must
        # not be the host's /dev/null.
        async with spawn(argv, stdin=True, fds=[spec, log], limit=share.outputs) as child:
            await child.close_stdin()
            _give_oom_score(child.pid, process)
            with feed:  # now it can go on
                feed.write(content)
            await _until_end(child, process, seconds)
            finished = await child.finished()
        words = oci_runtime.errors(os.pread(log, _LOG_LIMIT, 0))
    if finished.code and words:
        raise ToolFailed(argv, finished.code, words)
    # minus a signal: the runtime itself was killed, from outside
    code = finished.code if finished.code >= 0 else 128 - finished.code
    return ExecResult(code, finished.stdout, finished.stderr)


def _give_oom_score(runtime: int, process: Mapping[str, Any]) -> None:
    """What the OCI runtime starts inherits its score. crun sets a container's own at create only, and would leave a
    command with the daemon's, which must be the last to be killed. The runtime starts nothing before it has read what
    it is to run, which it is told after this."""
    score = process.get("oomScoreAdj")
    if score is not None:
        with suppress(
            OSError
        ):  # it has ended already; or an administrator lowered ours after the container's creation
            Path(f"/proc/{runtime}/oom_score_adj").write_text(str(score))


async def _until_end(child: Child, process: Mapping[str, Any], seconds: float) -> None:
    root = find(child.pid)
    try:
        async with asyncio.timeout(seconds or None):
            await child.exited()
    except BaseException as error:
        if root is not None:
            await finish(kill_family(root))
        if isinstance(error, TimeoutError):
            raise TimeoutError(
                f"{process['args'][0]} did not end within {seconds:g} s and was killed"
            ) from None
        raise


@contextmanager
def _pipe(room: int) -> Iterator[tuple[int, BinaryIO]]:
    """A pipe that takes `room` bytes without waiting for its reader. Raises Invalid where that is too much; commands
    with their environment have little more room in the kernel either (execve(2))."""
    read, write = os.pipe()
    with os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0) as feed:
        if room > _PIPE:
            try:
                fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, room)
            except OSError as error:
                raise Invalid(
                    f"the command and its environment take {room} bytes, more than a pipe may have "
                    f"(/proc/sys/fs/pipe-max-size): {error.strerror}"
                ) from error
        yield read, feed


@contextmanager
def _memory_file(name: str) -> Iterator[int]:
    fd = os.memfd_create(name)
    try:
        yield fd
    finally:
        os.close(fd)
