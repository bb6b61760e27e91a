"""ExecSync: a command in a container to its end, with what it says kept within bounds; its whole family dies at the
timeout."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from sampan.host.cgroup.exec_cgroup import ExecGroup
from sampan.host.oci.exec_child import begin, nothing
from sampan.host.process import Budget
from sampan.runtime.ports import ExecResult

OUTPUT_LIMIT = 15 << 20  # bytes of both outputs: the kubelet refuses a response of more than 16 MiB
_OWN = 256 << 10  # of it, what each output may always say, however much the other one and other commands say
_shared = Budget(96 << 20)  # what all running commands together may say beyond that


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


async def exec_sync(
    argv: Sequence[str], process: Mapping[str, Any], seconds: float, group: ExecGroup | None = None
) -> ExecResult:
    """Run `process` by `argv`, in `group` (see `exec_child.begin`); `seconds` 0 waits for ever.

    As with containerd, a command that cannot be run (not found, not executable, no such directory) is an
    error, ToolFailed, and not an exit code. TimeoutError after everything that it started has been killed.
    Output beyond OUTPUT_LIMIT (or, when many commands flood us at once, beyond less) is read and dropped; however
    much one of the outputs says, the beginning of the other is kept.
    """
    with closing(_Share()) as share, nothing() as stdin:
        running = await begin(argv, process, stdin=stdin, outputs=share.outputs, group=group)
        try:
            async with asyncio.timeout(seconds or None) as time:
                await running.child.exited()
            finished = await running.child.finished()
            return ExecResult(running.verdict(finished.code), finished.stdout, finished.stderr)
        except TimeoutError:
            if not time.expired():
                raise
            raise TimeoutError(
                f"{process['args'][0]} did not end within {seconds:g} s and was killed"
            ) from None
        finally:
            await running.end()
