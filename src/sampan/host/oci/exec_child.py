"""One command in a container: the OCI runtime's `exec` as a child of ours, from its start to its end.

No file is written: the process object comes by a pipe and the runtime's log is a memory file, passed as descriptors 3
and 4, which it closes before the command runs. The log is what tells a command that ended with 1 from a runtime that
could not run it.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from sampan.host.cgroup.exec_cgroup import ExecGroup
from sampan.host.process import Budget, Child, start
from sampan.host.processes import find, kill_family
from sampan.model.errors import Invalid, ToolFailed
from sampan.tasks import finish
from sampan.wire import oci_runtime

_LOG_LIMIT = 64 << 10
_PIPE = 4 << 10  # bytes: a pipe's, even for a user who has many
PROCESS, LOG = "/proc/self/fd/3", "/proc/self/fd/4"


class ExecChild:
    """A command as it runs. Made by `begin`; `end` it in any case."""

    def __init__(self, child: Child, argv: Sequence[str], log: int, group: ExecGroup | None) -> None:
        self.child = child
        self._argv = argv
        self._log = log
        self._group = group

    async def exited(self) -> int:
        """Wait for the end: the command's exit code, 128 + n for one that signal n ended. ToolFailed, with the
        runtime's own words, if it could not be run."""
        return self.verdict(await self.child.exited())

    def verdict(self, code: int) -> int:
        """The same, of the code that the child has ended with."""
        if code and (words := self._words()):
            raise ToolFailed(self._argv, code, words)
        # minus a signal: the runtime itself was killed, from outside
        return code if code >= 0 else 128 - code

    def _words(self) -> str:
        """What the runtime has complained of; nobody asks one that was killed."""
        return oci_runtime.errors(os.pread(self._log, _LOG_LIMIT, 0)) if self._log >= 0 else ""

    async def end(self) -> None:
        """Kill the command and everything that it started, unless it has exited; let go of it."""
        try:
            if self.child.running:
                await finish(self._kill())
        finally:
            self.leave()

    def leave(self) -> None:
        """Let go of it as it runs."""
        self.child.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    async def _kill(self) -> None:
        try:
            if self._group is not None:
                await self._group.kill()
            elif (root := find(self.child.pid)) is not None:  # not reaped yet: the number is still its own
                await kill_family(root)
        finally:
            await self.child.end()


async def begin(
    argv: Sequence[str],
    process: Mapping[str, Any],
    *,
    stdin: int,
    outputs: Sequence[int | Budget],
    group: ExecGroup | None = None,
    adopter: Sequence[str] = (),
) -> ExecChild:
    """Run `process` by `argv` (`CommandLine.exec_process` for PROCESS and LOG), behind `adopter`, in `group`. `stdin`
    and `outputs` are those of `host.process.start`: never the host's /dev/null, for crun gives what it finds there to
    the command's user (wire.conmon). Raises Invalid for a process object that is too large, ToolFailed."""
    content = msgspec.json.encode(process)
    with _pipe(len(content)) as (spec, feed):
        log = os.memfd_create("log")
        try:
            child = start([*adopter, *argv], stdin=stdin, outputs=outputs, fds=[spec, log])
        except BaseException:
            os.close(log)
            raise
        begun = ExecChild(child, argv, log, group)
        try:
            if group is not None:
                await group.enter(child.pid)
            _give_oom_score(child.pid, process)
            with feed:  # now it can go on
                feed.write(content)
        except BaseException:  # it waits for what it is to run: it has started nothing
            await finish(child.end())
            begun.leave()
            raise
    return begun


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


@contextmanager
def nothing() -> Iterator[int]:
    """A stdin with nothing in it."""
    read, write = os.pipe()
    os.close(write)
    try:
        yield read
    finally:
        os.close(read)


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
