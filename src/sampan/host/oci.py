"""The `Oci` port: crun runs containers, one conmon watches each. This file says in which order; the parts
are in `monitor` (conmon), `crun_state` and `container_cgroup` (what both leave on the machine), `exits`,
`exec_sync`.
"""

import asyncio
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sampan.config import Handler, Paths
from sampan.host import exits, monitor, processes
from sampan.host.crun_state import CrunState
from sampan.host.exec_sync import LOG, PROCESS, exec_sync
from sampan.host.process import run
from sampan.host.processes import read_small
from sampan.host.threads import in_slow_thread, in_thread
from sampan.model.errors import ToolFailed, Unavailable
from sampan.model.process import ProcessRef
from sampan.runtime.ports import ExecResult, Exit, Launch, Launched
from sampan.tasks import bounded, finish, step
from sampan.wire import conmon, crun

_STATE_LINK = "runtime"  # in the bundle: where the runtime keeps the container's state
_FILTER = "seccomp.bpf"  # what crun compiled, in its state directory
_FILTER_LIMIT = 64 << 10  # bytes; the default profile compiles to 6 KiB
TOOL_SECONDS = 60.0  # for one call of the runtime, its hooks included; see `monitor` for creating
_DEATH_SECONDS = 5.0  # for a killed container to be gone


class _AlreadyThere(ToolFailed):
    """A container of this id exists: whoever made it still wants it."""


class CrunConmon:
    """crun and conmon. A container's bundle is always `paths.bundle(id)`.

    `systemd_cgroup` has crun ask systemd for the container's scope; its cgroupsPath is then
    `slice:prefix:name`.
    """

    def __init__(self, paths: Paths, *, systemd_cgroup: bool = False) -> None:
        self._paths = paths
        self._systemd_cgroup = systemd_cgroup

    async def create(self, launch: Launch) -> Launched:
        """conmon up, container created and waiting. ToolFailed with the runtime's own words, Unavailable if it
        takes too long; nothing is left then."""
        await step("oci.create", launch.id)
        try:
            runtime = await finish(in_thread(self._prepare, launch))
            init, watcher = await monitor.launch(self._command(launch, runtime))
        except _AlreadyThere:  # not ours to discard
            raise
        except BaseException:
            await finish(self._discard(launch))
            raise
        return Launched(init, watcher)

    def _command(self, launch: Launch, runtime: str) -> conmon.Command:
        return conmon.Command(
            conmon=launch.handler.monitor,
            runtime=runtime,
            root=launch.handler.root,
            id=launch.id,
            bundle=launch.bundle,
            exits=self._paths.exits,
            sockets=self._paths.attach,
            log=launch.log,
            terminal=launch.terminal,
            stdin=launch.stdin,
            stdin_once=launch.stdin_once,
            systemd_cgroup=self._systemd_cgroup,
        )

    def _prepare(self, launch: Launch) -> str:
        """Make what conmon needs; the absolute path of the runtime, which conmon does not search for."""
        known = (launch.handler.root / launch.id).exists()
        if known or monitor.watching(launch.bundle, launch.id) is not None:
            raise _AlreadyThere([launch.handler.path, "create", launch.id], 1, "the container already exists")
        program = shutil.which(launch.handler.path)
        if program is None:
            raise ToolFailed(
                [launch.handler.path], 127, f"no such program: is {launch.handler.path} installed?"
            )
        for directory in (self._paths.exits, self._paths.attach, launch.handler.root):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        link = launch.bundle / _STATE_LINK
        link.unlink(missing_ok=True)
        link.symlink_to(launch.handler.root / launch.id)
        return program

    async def _discard(self, launch: Launch) -> None:
        await monitor.abort(launch.bundle, launch.id)
        await self.delete(launch.handler, launch.id)

    async def start(self, handler: Handler, id: str) -> None:
        """Let the created process run. Raises ToolFailed, Unavailable after TOOL_SECONDS."""
        await step("oci.start", id)
        if not await in_thread(self._state(handler, id).open_gate):
            await _tool(id, "start", crun.start(handler.path, str(handler.root), id))

    async def compiled_filter(self, handler: Handler, id: str) -> bytes:
        """What crun compiled, from beside its state; b"" where it leaves none, or one too large to hand back."""
        try:
            program = await in_thread(read_small, handler.root / id / _FILTER, _FILTER_LIMIT + 1)
        except OSError:
            return b""
        return program if len(program) <= _FILTER_LIMIT else b""

    async def running(self, id: str) -> bool:
        """Whether a created container has been started."""
        return await in_thread(self._linked_state(id).started)

    async def signal(self, process: ProcessRef, number: int) -> bool:
        """Send a signal to exactly this process; False if it is gone."""
        return await processes.send(process, number)

    async def kill_all(self, handler: Handler, id: str) -> None:
        """SIGKILL to every process of the container's cgroup; nothing to kill is fine."""
        await step("oci.kill_all", id)
        state = self._state(handler, id)
        if not await in_thread(_kill, state) and await in_thread(state.init) is not None:
            await _tool(id, "kill", crun.kill_all(handler.path, str(handler.root), id), check=False)

    async def wait(self, id: str, launched: Launched) -> Exit:
        """Wait until the container has ended and say how (also for one that ended long ago)."""
        exit_file = self._paths.exits / id
        return await exits.ended(launched.init, launched.monitor, exit_file, self._linked_state(id))

    async def delete(self, handler: Handler, id: str) -> None:
        """Kill what is left; remove the runtime's state, the cgroup, monitor leftovers. Idempotent."""
        await step("oci.delete", id)
        state = self._state(handler, id)
        if not await in_thread(self._clear, id, state):
            await self._kill_and_delete(handler, id, state)
            await monitor.leave(state.bundle, id)
            await in_thread(self._sweep, state.bundle, id)

    def _clear(self, id: str, state: CrunState) -> bool:
        """The whole of deleting, in one go, where everything is dead already: the common case."""
        dead = state.dissolve() and monitor.watching(state.bundle, id) is None
        if dead:
            self._sweep(state.bundle, id)
        return dead

    async def _kill_and_delete(self, handler: Handler, id: str, state: CrunState) -> None:
        cgroup = await in_thread(state.cgroup)
        init = await in_thread(state.init)
        await in_thread(cgroup.kill)
        if init is not None:
            await processes.send(init, signal.SIGKILL)
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_SECONDS):
                    await processes.gone(init)
        await monitor.leave(state.bundle, id)  # it notes an OOM kill while the cgroup is there
        if not await in_slow_thread(cgroup.kill_and_remove, _DEATH_SECONDS):
            left = sorted(await in_thread(cgroup.processes))
            raise Unavailable(
                f"container {id}: processes {left} do not die (stuck in the kernel?); try again"
            )
        if not await in_thread(state.dissolve):
            await _tool(id, "delete", crun.delete(handler.path, str(handler.root), id), check=False)
            await in_thread(state.forget)

    def _sweep(self, bundle: Path, id: str) -> None:
        for leftover in (*conmon.LEFTOVERS, _STATE_LINK):
            (bundle / leftover).unlink(missing_ok=True)
        (self._paths.exits / id).unlink(missing_ok=True)
        (self._paths.attach / id).unlink(missing_ok=True)

    async def exec_sync(
        self, handler: Handler, id: str, process: Mapping[str, Any], seconds: float
    ) -> ExecResult:
        """Run `process` (an OCI process object) to its end; see `host.exec_sync`."""
        await step("oci.exec_sync", id)
        argv = crun.exec_process(handler.path, str(handler.root), id, PROCESS, LOG)
        return await exec_sync(argv, process, seconds)

    async def reopen_log(self, id: str, log: Path) -> None:
        """Make the monitor open its log anew; returns when the new file exists."""
        await step("oci.reopen_log", id)
        await monitor.reopen_log(self._paths.bundle(id), id, log)

    def _state(self, handler: Handler, id: str) -> CrunState:
        return CrunState(handler.root / id, self._paths.bundle(id))

    def _linked_state(self, id: str) -> CrunState:
        """The same for a caller who does not know the handler."""
        bundle = self._paths.bundle(id)
        return CrunState(bundle / _STATE_LINK, bundle)


async def _tool(id: str, verb: str, argv: Sequence[str], *, check: bool = True) -> None:
    """Run the runtime for this container. Unavailable, and it is killed, if it takes longer than TOOL_SECONDS."""
    async with bounded(TOOL_SECONDS, f"container {id}: {argv[0]} {verb}"):
        await run(argv, check=check)


def _kill(state: CrunState) -> bool:
    cgroup = state.cgroup()
    cgroup.kill()
    return bool(cgroup)
