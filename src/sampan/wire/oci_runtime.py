"""Any OCI runtime: its command lines, its log, what `state` answers. Sources: the runtime-spec's runtime.md, and the
command line that runc made and crun, youki and runsc follow.

What crun in particular keeps on disk is `wire.crun`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sampan.model.handler import Handler

CREATED, RUNNING, STOPPED = "created", "running", "stopped"


class State(msgspec.Struct, frozen=True):
    """The answer of `state` (runtime.md#state). `pid` is missing once the container has stopped."""

    status: str
    pid: int = 0


class _LogLine(msgspec.Struct, frozen=True):
    msg: str = ""
    level: str = ""


_state = msgspec.json.Decoder(State)
_log_line = msgspec.json.Decoder(_LogLine)


def state(text: bytes) -> State | None:
    """Parse what `state` printed; None if it is none."""
    try:
        return _state.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def errors(log: bytes) -> str:
    """What the runtime itself complained about, from its JSON log; warnings are left out."""
    found = []
    for line in log.split(b"\n"):
        try:
            entry = _log_line.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if entry.level in ("error", "fatal"):
            found.append(entry.msg)
    return "; ".join(found)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The command lines of one handler's runtime, which is at `program`."""

    program: str
    handler: Handler

    def options(self) -> list[str]:
        """What precedes every command."""
        return [f"--root={self.handler.root}", *self.handler.args]

    def state(self, id: str) -> list[str]:
        return [self.program, *self.options(), "state", id]

    def start(self, id: str) -> list[str]:
        return [self.program, *self.options(), "start", id]

    def update(self, id: str) -> list[str]:
        """Give it the limits in the `linux.resources` object that comes by standard input."""
        return [self.program, *self.options(), "update", "--resources=-", id]

    def delete(self, id: str) -> list[str]:
        """Kills what is left."""
        return [self.program, *self.options(), "delete", "--force", id]

    def kill_all(self, id: str) -> list[str]:
        """SIGKILL to every process of the container."""
        return [self.program, *self.options(), "kill", "--all", id, "KILL"]

    def exec_process(self, id: str, process: str, log: str, options: Sequence[str] = ()) -> list[str]:
        """Run the OCI process object in the file `process`; the runtime's own words also go to the file `log`, as
        JSON lines."""
        own = [f"--log={log}", "--log-format=json"]
        return [self.program, *self.options(), *own, "exec", *options, f"--process={process}", id]
