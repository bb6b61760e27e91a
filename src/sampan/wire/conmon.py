"""conmon: its command line, what it says on its pipe, its control lines, its exit file. Source: conmon(8).

One conmon watches one container from its creation on: it owns the container's output, writes the log, serves
the attach socket (`SOCKETS/ID/attach`, SOCK_SEQPACKET) and leaves the exit code in `EXITS/ID`. Checked with
2.1.6 and 2.2.1. It runs in the bundle: `oom` (present after an OOM kill), `ctl` and `winsz` (control fifos)
appear there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sampan.model.errors import Invalid

_STDIN, _LEAVE_OPEN = "--stdin", "--leave-stdin-open"
SYNC_PIPE = "_OCI_SYNCPIPE"
PID_FILE = "conmon.pid"
INIT_PID_FILE = "init.pid"
CONTROL, WINDOW, ATTACH, OOM, EXIT = "ctl", "winsz", "attach", "oom", "exit"
LEFTOVERS = (PID_FILE, INIT_PID_FILE, CONTROL, WINDOW, ATTACH, OOM, EXIT)  # in the bundle
REOPEN = b"2 0 0\n"
ATTACH_STDOUT, ATTACH_STDERR = 2, 3  # the first byte of each attach packet
ATTACH_OUTPUT = 64 << 10  # bytes that no packet from it exceeds; all versions send 8 KiB and that byte
ATTACH_INPUT = 32 << 10  # bytes that it takes of a packet; what is more is lost. An empty packet is an end
_WINDOW_MOST = 1000  # rows, columns; 2.2 ignores what is larger

# crun before August 2025 makes the user of a container in a user namespace the owner of whatever its stdin, stdout and
# stderr are (containers/crun issue 1845), and conmon gives it the host's /dev/null for those that nobody uses. A shell
# puts an empty pipe there instead; by `exec` it is the runtime afterwards.
_SHELL = "/bin/sh"
_EMPTY_STDIN = 'exec "$0" "$@" <<END\nEND\n'
_ONLY_STDERR = f"exec >&2; {_EMPTY_STDIN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A container to be created and watched. `runtime` is an absolute path, `options` what it is always given."""

    conmon: str
    runtime: str
    options: tuple[str, ...]
    id: str
    bundle: Path
    exits: Path
    sockets: Path
    log: Path | None = None
    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False
    systemd_cgroup: bool = False
    own_users: bool = False  # the container is in a user namespace


def argv(command: Command) -> list[str]:
    """conmon's command line. Raises Invalid for a log path that it would misread.

    The log is not synced at the end: a container's last lines are worth less than a stop that waits for the
    disk.
    """
    runtime, *arguments = _runtime(command)
    return [
        command.conmon,
        "--cid", command.id,
        "--cuuid", command.id,
        "--runtime", runtime,
        *(word for argument in arguments for word in ("--runtime-arg", argument)),
        "--bundle", str(command.bundle),
        "--persist-dir", str(command.bundle),
        "--exit-dir", str(command.exits),
        "--socket-dir-path", str(command.sockets),
        "--conmon-pidfile", str(command.bundle / PID_FILE),
        "--container-pidfile", str(command.bundle / INIT_PID_FILE),
        "--log-path", log_path(command.log),
        "--log-level", "error",
        "--no-sync-log",
        *(["--terminal"] if command.terminal else []),
        *([_STDIN] if command.stdin else []),
        *([_LEAVE_OPEN] if command.stdin and (command.terminal or not command.stdin_once) else []),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Input:
    """What becomes of what clients send to a container. Without `taken` it has no stdin. With `once` its stdin ends for
    good as soon as any client shuts down or closes its connection, one that sends nothing as well; else it never
    ends."""

    taken: bool
    once: bool


def input_of(words: Sequence[bytes]) -> Input:
    """By the command line of a conmon that runs. A terminal's input is never ended: it could only be cut off, and who
    attaches again would type into nothing."""
    taken = _STDIN.encode() in words
    return Input(taken=taken, once=taken and _LEAVE_OPEN.encode() not in words)


def _runtime(command: Command) -> list[str]:
    """What conmon is to run, before the words that it adds itself. Its own --systemd-cgroup would go before all of
    these, where a shell would take it for its own."""
    words = [command.runtime, *command.options, *(["--systemd-cgroup"] if command.systemd_cgroup else [])]
    all_pipes = command.stdin and not command.terminal
    if all_pipes or not command.own_users:
        return words
    return [_SHELL, "-c", _ONLY_STDERR if command.terminal else _EMPTY_STDIN, *words]


def log_path(log: Path | None) -> str:
    """The value of --log-path. A colon separates driver and path, so a path may hold none (2.1.6 cuts it
    there)."""
    if log is None:
        return "none"
    if ":" in str(log) or not log.is_absolute():
        raise Invalid(
            f"log path {str(log)!r} must be absolute and without a colon: conmon would write elsewhere"
        )
    return f"k8s-file:{log}"


class _Sync(msgspec.Struct, frozen=True):
    pid: int | None = None
    data: int | None = None
    message: str = ""


_sync = msgspec.json.Decoder(_Sync)


def created(line: bytes) -> tuple[int, str]:
    """(pid of the container's init, "") or (0, why it was not created), from the line on the sync pipe."""
    try:
        said = _sync.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # the runtime's message was not UTF-8, or was cut
        return _created_loosely(line)
    pid = said.pid if said.pid is not None else said.data
    return (pid, "") if pid is not None and pid > 0 else (0, said.message.strip())


def _created_loosely(line: bytes) -> tuple[int, str]:
    message = re.search(rb'"message": *"(.*)', line, re.DOTALL)
    if message is None:
        return 0, ""
    words = message[1].decode("utf-8", "replace").strip().removesuffix('"}')
    return 0, words.replace("\\n", "\n").replace('\\"', '"').strip()


def exit_code(text: bytes) -> int | None:
    """The code in an exit file: 0..255, 128 + n for a process killed by signal n. None if conmon did not
    know (-1)."""
    if not re.fullmatch(rb"[0-9]{1,3}\n?", text):
        return None
    code = int(text)
    return code if code <= 255 else None


def window(width: int, height: int) -> bytes:
    """The line in the WINDOW fifo that sets the terminal's size, in characters.

    CONTROL takes sizes too, but 2.1.6 heeds one line of what it reads at once there: a size could cost the log its
    opening anew."""
    return b"%d %d\n" % (min(height, _WINDOW_MOST), min(width, _WINDOW_MOST))
