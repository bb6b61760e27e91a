"""ExecSync: the OCI runtime's `exec` as a child of ours, with pipes; its whole family dies at the timeout.

No file is written: the process object and the runtime's log are memory files, passed as descriptors 3 and 4, which
it closes before the command runs. The log is what tells a command that ended with 1 from a runtime that could
not run it.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from sampan.host.process import Budget, Child, spawn
from sampan.host.processes import find, kill_family
from sampan.model.errors import ToolFailed
from sampan.runtime.ports import ExecResult
from sampan.tasks import finish
from sampan.wire import oci_runtime

_LOG_LIMIT = 64 << 10
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
    with _memory_file("process", msgspec.json.encode(process)) as spec, _memory_file("log") as log:
        async with spawn(argv, fds=[spec, log], limit=share.outputs) as child:
            _give_oom_score(child.pid, process)
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
    command with the daemon's, which must be the last to be killed. The runtime first reads what it is to run (1 ms):
    it starts nothing before this."""
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
def _memory_file(name: str, content: bytes = b"") -> Iterator[int]:
    fd = os.memfd_create(name)
    try:
        with memoryview(content) as rest:
            written = 0
            while written < len(rest):
                written += os.write(fd, rest[written:])
        yield fd
    finally:
        os.close(fd)
