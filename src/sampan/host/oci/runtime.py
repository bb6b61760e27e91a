"""The `Oci` port: an OCI runtime runs containers, one conmon watches each. This file says in which order; the parts
are in `monitor` (conmon), `runtime_state` and `container_cgroup` (what both leave on the machine), `exits`,
`exec_sync`.

The runtime is crun, runc or another with their command line. What takes a process with those is done without one
where crun's own files say how; see `runtime_state`.
"""

import asyncio
import logging
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from sampan.config import Handler, Paths
from sampan.host import processes
from sampan.host.cgroup import exec_cgroup
from sampan.host.cgroup.container_cgroup import machine_layout
from sampan.host.oci import exits, monitor, runtime_state, surviving
from sampan.host.oci.exec_child import LOG, PROCESS
from sampan.host.oci.exec_sync import exec_sync
from sampan.host.oci.runtime_state import STATE_LINK, RuntimeState
from sampan.host.process import Finished, run
from sampan.host.processes import read_small
from sampan.host.threads import in_own_thread, in_thread
from sampan.model.errors import ToolFailed, Unavailable
from sampan.model.process import ProcessRef
from sampan.runtime.ports import ExecResult, Exit, Launch, Launched
from sampan.tasks import bounded, finish, step
from sampan.wire import conmon, oci_runtime
from sampan.wire.oci_runtime import CommandLine

_FILTER = "seccomp.bpf"  # what crun compiled, in its state directory
_FILTER_LIMIT = 64 << 10  # bytes; the default profile compiles to 6 KiB
log = logging.getLogger("sampan.oci")
TOOL_SECONDS = 60.0  # for one call of the runtime, its hooks included; see `monitor` for creating
_DEATH_SECONDS = 5.0  # for a killed container to be gone


class _AlreadyThere(ToolFailed):
    """A container of this id exists: whoever made it still wants it."""


class OciConmon:
    """An OCI runtime, which a call's handler says, and conmon. A container's bundle is always `paths.bundle(id)`.

    `systemd_cgroup` has the runtime ask systemd for the container's scope; its cgroupsPath is then
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
            options=tuple(CommandLine(runtime, launch.handler).options()),
            id=launch.id,
            bundle=launch.bundle,
            exits=self._paths.exits,
            sockets=self._paths.attach,
            log=launch.log,
            terminal=launch.terminal,
            stdin=launch.stdin,
            stdin_once=launch.stdin_once,
            systemd_cgroup=self._systemd_cgroup,
            own_users=launch.own_users,
        )

    def _prepare(self, launch: Launch) -> str:
        """Make what conmon needs; the absolute path of the runtime, which conmon does not search for."""
        known = self._state(launch.handler, launch.id).directory
        if known.exists() or monitor.watching(launch.bundle, launch.id) is not None:
            raise _AlreadyThere([launch.handler.path, "create", launch.id], 1, "the container already exists")
        program = shutil.which(launch.handler.path)
        if program is None:
            raise ToolFailed(
                [launch.handler.path], 127, f"no such program: is {launch.handler.path} installed?"
            )
        for directory in (self._paths.exits, self._paths.attach, launch.handler.root):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        link = launch.bundle / STATE_LINK
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
            await _tool(id, "start", self._commands(handler, id).start(id))

    async def compiled_filter(self, handler: Handler, id: str) -> bytes:
        """What crun compiled, from beside its state; b"" where it leaves none, or one too large to hand back."""
        try:
            directory = self._state(handler, id).directory
            program = await in_thread(read_small, directory / _FILTER, _FILTER_LIMIT + 1)
        except OSError:
            return b""
        return program if len(program) <= _FILTER_LIMIT else b""

    async def running(self, handler: Handler, id: str) -> bool:
        """Whether a created container has been started. ToolFailed, Unavailable if the runtime does not tell."""
        known = await in_thread(self._state(handler, id).started)
        return await self._says_running(handler, id) if known is None else known

    async def _says_running(self, handler: Handler, id: str) -> bool:
        """By the runtime's word. One that has stopped counts: whether it ever ran, its exit code tells."""
        argv = self._commands(handler, id).state(id)
        said = await _tool(id, "state", argv, check=False)
        state = oci_runtime.state(said.stdout)
        return (
            said.code == 0
            and state is not None
            and state.status in (oci_runtime.RUNNING, oci_runtime.STOPPED)
        )

    async def signal(self, process: ProcessRef, number: int) -> bool:
        """Send a signal to exactly this process; False if it is gone."""
        return await processes.send(process, number)

    async def kill_all(self, handler: Handler, id: str) -> None:
        """SIGKILL to every process of the container's cgroup; nothing to kill is fine."""
        await step("oci.kill_all", id)
        state = self._state(handler, id)
        if not await in_thread(_kill, state) and await in_thread(state.init) is not None:
            await _tool(id, "kill", self._commands(handler, id).kill_all(id), check=False)

    async def update(self, handler: Handler, id: str, resources: Mapping[str, Any]) -> None:
        """New limits. Raises ToolFailed, Unavailable after TOOL_SECONDS; some of them may be in force then."""
        await step("oci.update", id)
        argv = self._commands(handler, id).update(id)
        cpu = resources.get("cpu", {})
        try:
            await _tool(id, "update", argv, stdin=msgspec.json.encode(resources))
        except ToolFailed:
            if cpu.get("quota", 0) >= 0 or "cpu" not in machine_layout().v1:
                raise
            # crun 1.8 writes 2^64-1 for no quota, which v1 refuses
            rest = {**resources, "cpu": {name: value for name, value in cpu.items() if name != "quota"}}
            await _tool(id, "update", argv, stdin=msgspec.json.encode(rest))
            await in_thread(_lift_cpu_quota, self._state(handler, id))

    async def adjust_oom_score(self, handler: Handler, id: str, before: int, after: int) -> None:
        """Set the oom_score_adj of the processes that have the value `before`."""
        await step("oci.oom_score", id)
        await in_thread(surviving.adjust_oom_score, self._state(handler, id).cgroup, before, after)

    async def survivors(self, handler: Handler, id: str) -> tuple[str, ...]:
        """What is alive in it, and where it waits."""
        return await in_thread(surviving.described, self._state(handler, id).cgroup)

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

    def _clear(self, id: str, state: RuntimeState) -> bool:
        """The whole of deleting, in one go, where everything is dead already: the common case."""
        dead = state.dissolve() and monitor.watching(state.bundle, id) is None
        if dead:
            self._sweep(state.bundle, id)
        return dead

    async def _kill_and_delete(self, handler: Handler, id: str, state: RuntimeState) -> None:
        cgroup = await in_thread(state.cgroup)
        init = await in_thread(state.init)
        await in_thread(cgroup.kill)
        if init is not None:
            await processes.send(init, signal.SIGKILL)
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_SECONDS):
                    await processes.gone(init)
        await monitor.leave(state.bundle, id)  # it notes an OOM kill while the cgroup is there
        # what frees a node must not queue behind long work
        if not await in_own_thread(partial(cgroup.kill_and_remove, _DEATH_SECONDS)):
            left = sorted(await in_thread(cgroup.processes))
            raise Unavailable(
                f"container {id}: processes {left} do not die (stuck in the kernel?); try again"
            )
        if not await in_thread(state.dissolve):
            await self._delete_by_tool(handler, id)
            await in_thread(state.forget)

    async def _delete_by_tool(self, handler: Handler, id: str) -> None:
        """Everything of the container is dead by now: a runtime that is gone itself must not keep the rest from being
        removed."""
        if await in_thread(shutil.which, handler.path) is None:
            log.warning(
                "container %s: %s is not there any more to delete what it keeps of it", id, handler.path
            )
            return
        await _tool(id, "delete", self._commands(handler, id).delete(id), check=False)

    def _sweep(self, bundle: Path, id: str) -> None:
        for leftover in (*conmon.LEFTOVERS, STATE_LINK):
            (bundle / leftover).unlink(missing_ok=True)
        (self._paths.exits / id).unlink(missing_ok=True)
        (self._paths.attach / id).unlink(missing_ok=True)
        exec_cgroup.forget(id, self._linked_state(id))

    async def exec_sync(
        self, handler: Handler, id: str, process: Mapping[str, Any], seconds: float
    ) -> ExecResult:
        """Run `process` (an OCI process object) to its end; see `host.oci.exec_sync`."""
        await step("oci.exec_sync", id)
        state = self._state(handler, id)
        argv = state.commands(handler).exec_process(id, PROCESS, LOG)
        # a probe that is a JVM sizes itself by the limits that it finds
        group = await exec_cgroup.exec_group(id, state, unseen=True)
        try:
            return await exec_sync(argv, process, seconds, group)
        finally:
            await group.close()

    async def end_sessions(self, handler: Handler, id: str) -> int:
        """Kill what a daemon that died was running in it for clients; how many commands."""
        await step("oci.end_sessions", id)
        return await exec_cgroup.end_orphaned(id, self._state(handler, id))

    async def reopen_log(self, id: str, log: Path) -> None:
        """Make the monitor open its log anew; returns when the new file exists."""
        await step("oci.reopen_log", id)
        await monitor.reopen_log(self._paths.bundle(id), id, log)

    def _state(self, handler: Handler, id: str) -> RuntimeState:
        return runtime_state.of(handler, id, self._paths.bundle(id))

    def _commands(self, handler: Handler, id: str) -> CommandLine:
        return self._state(handler, id).commands(handler)

    def _linked_state(self, id: str) -> RuntimeState:
        """The same for a caller who does not know the handler."""
        bundle = self._paths.bundle(id)
        return RuntimeState(bundle / STATE_LINK, bundle)


async def _tool(
    id: str, verb: str, argv: Sequence[str], *, stdin: bytes | None = None, check: bool = True
) -> Finished:
    """Run the runtime for this container. Unavailable, and it is killed, if it takes longer than TOOL_SECONDS."""
    async with bounded(TOOL_SECONDS, f"container {id}: {argv[0]} {verb}"):
        return await run(argv, stdin=stdin, check=check)


def _lift_cpu_quota(state: RuntimeState) -> None:
    with suppress(FileNotFoundError):  # it has ended; the caller will see
        state.cgroup().lift_cpu_quota()


def _kill(state: RuntimeState) -> bool:
    cgroup = state.cgroup()
    cgroup.kill()
    return bool(cgroup)
