"""The `Commands` port: a command in a running container, with pipes or a terminal, for as long as its client stays.

With pipes the command has our pipes themselves, with a terminal we have the master of the container's own: nobody
copies bytes between it and us, and what the client does not read stays where it is and holds up the command.
crun stays with the command as its parent; for every other runtime the `adopter` does.
"""

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from sampan.config import Handler, Paths
from sampan.host import python_child
from sampan.host.cgroup.exec_cgroup import ExecGroup, exec_group
from sampan.host.descriptors import Reader, Writer
from sampan.host.oci import console, runtime_state
from sampan.host.oci.exec_child import LOG, PROCESS, ExecChild, begin, nothing
from sampan.host.oci.running_command import RunningCommand, Streams, drained
from sampan.host.process import Budget
from sampan.host.threads import in_thread
from sampan.model.errors import ToolFailed
from sampan.runtime.stream_ports import Running
from sampan.tasks import Tasks, finish, step
from sampan.wire.oci_runtime import CommandLine
from sampan.wire.remotecommand.channels import Wanted

_ADOPTER = "sampan.host.oci.adopter"
_END_OF_INPUT = b"\x04"  # what a person types at a terminal; closing our end would hang it up


class OciCommands:
    """Commands in the containers of `OciConmon`."""

    def __init__(self, paths: Paths) -> None:
        self._place = paths.state / "exec"
        self._paths = paths
        self._tasks = Tasks()

    async def open(self) -> None:
        """Remove what a daemon that died has left of its commands' sockets and numbers."""
        await in_thread(shutil.rmtree, self._place, True)

    async def close(self) -> None:
        """Leave the commands that have outlived their clients to themselves."""
        await self._tasks.stop()

    @asynccontextmanager
    async def run(
        self,
        handler: Handler,
        id: str,
        process: Mapping[str, Any],
        wanted: Wanted,
        *,
        outlive: bool = False,
    ) -> AsyncIterator[Running]:
        """See the port."""
        await step("oci.exec", id)
        command = await self._begin(handler, id, process, wanted, outlive)
        try:
            yield command
        finally:
            if outlive and command.running:
                self._tasks.start(f"a command in {id} without its client", command.outlive())
            else:
                await finish(command.end())

    async def _begin(
        self, handler: Handler, id: str, process: Mapping[str, Any], wanted: Wanted, outlive: bool
    ) -> RunningCommand:
        state = runtime_state.of(handler, id, self._paths.bundle(id))
        async with AsyncExitStack() as held:
            group = await exec_group(id, state, outlive=outlive)
            held.push_async_callback(group.close)
            detached = await in_thread(state.status) is None
            place = ""
            if detached or wanted.tty:
                place = str(self._place / secrets.token_hex(8))
                held.push_async_callback(in_thread, shutil.rmtree, place, True)
                await finish(in_thread(os.makedirs, place, mode=0o700))
            line = _line(state.commands(handler), id, group.options, place, tty=wanted.tty, detached=detached)
            start = _with_terminal if wanted.tty else _with_pipes
            child, streams = await start(line, process, wanted, group)
            command = RunningCommand(child, group, streams, held.pop_all())
        for output in streams.unwanted:
            self._tasks.start(f"output of a command in {id} that nobody wants", drained(output))
        return command


@dataclass(frozen=True, slots=True)
class _Line:
    """What is run, and where it is to bring the terminal."""

    argv: Sequence[str]
    adopter: Sequence[str]
    console: str


def _line(
    commands: CommandLine, id: str, options: Sequence[str], place: str, *, tty: bool, detached: bool
) -> _Line:
    pid_file, socket = f"{place}/pid", f"{place}/console"
    words = [*options]
    if tty:
        words.append(f"--console-socket={socket}")
    if detached:
        words += ["--detach", f"--pid-file={pid_file}"]
    argv = commands.exec_process(id, PROCESS, LOG, words)
    return _Line(argv, python_child.argv(_ADOPTER, [pid_file]) if detached else (), socket)


async def _with_pipes(
    line: _Line, process: Mapping[str, Any], wanted: Wanted, group: ExecGroup
) -> tuple[ExecChild, Streams]:
    with ExitStack() as ours, ExitStack() as theirs:
        outputs, readers = [], []
        for _ in range(2):
            read, write = os.pipe()
            theirs.callback(os.close, write)
            outputs.append(write)
            readers.append(Reader(read))
            ours.callback(readers[-1].close)
        stdin, write = os.pipe()
        theirs.callback(os.close, stdin)
        writer = Writer(write)
        ours.callback(writer.close)
        if not wanted.stdin:
            writer.close()
        child = await begin(
            line.argv, process, stdin=stdin, outputs=outputs, group=group, adopter=line.adopter
        )
        ours.pop_all()
    stdout, stderr = readers
    return child, Streams(
        writer if wanted.stdin else None,
        stdout if wanted.stdout else None,
        stderr if wanted.stderr else None,
        [*([] if wanted.stdout else [stdout]), *([] if wanted.stderr else [stderr])],
    )


async def _with_terminal(
    line: _Line, process: Mapping[str, Any], wanted: Wanted, group: ExecGroup
) -> tuple[ExecChild, Streams]:
    with nothing() as stdin, console.listening(line.console) as listener:
        silent = (Budget(0), Budget(0))  # what the runtime itself says is in its log as well
        child = await begin(
            line.argv, process, stdin=stdin, outputs=silent, group=group, adopter=line.adopter
        )
        try:
            master = await console.master(listener, child.child)
            if master is None:
                code = await child.exited()
                raise ToolFailed(line.argv, code, "it has not given the command a terminal")
            return child, _terminal(master, wanted)
        except BaseException:
            await finish(child.end())
            raise


def _terminal(master: int, wanted: Wanted) -> Streams:
    with ExitStack() as ours:
        reader = Reader(master)
        ours.callback(reader.close)
        stdin = None
        if wanted.stdin:
            twin = os.dup(master)
            stdin = Writer(twin, end=partial(os.write, twin, _END_OF_INPUT))
        ours.pop_all()
    return Streams(
        stdin,
        reader if wanted.stdout else None,
        unwanted=() if wanted.stdout else (reader,),
        terminal=reader,
    )
