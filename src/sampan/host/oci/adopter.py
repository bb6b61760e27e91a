"""A process between us and an OCI runtime that cannot stay with a command itself: it has the runtime start the command
and leave, adopts it, and ends as the command does. It is the root of the command's family, to be killed with it.

runc with the command in its foreground keeps us from the command's own terminal, copies each byte, and does not end
before the last process that has the command's pipes. Started by `host.oci.commands` as a program of its own, with
descriptors 3 and 4 as `host.oci.exec_child` gives them to a runtime. Not a library.
"""

import os
import sys

from sampan.host.syscalls import PR_SET_CHILD_SUBREAPER, posix_spawn, prctl

_PROCESS, _LOG = 3, 4
_CHUNK = 1 << 16


def main() -> None:
    """PID_FILE COMMAND...: run the command line, which leaves a process behind and its number in the file."""
    pid_file, *argv = sys.argv[1:]
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    _wait_for_process()
    runtime = posix_spawn(argv, os.environ, [])
    _, status = os.waitpid(runtime, 0)
    code = os.waitstatus_to_exitcode(status)
    if not code:
        _let_go()
        with open(pid_file, "rb") as file:  # noqa: PTH123 - pathlib takes longer than all the rest
            code = _ended(int(file.read()))
    os._exit(code if code >= 0 else 128 - code)


def _wait_for_process() -> None:
    """Take in what is to be run, before there is anything that could run it: what we are given until then (a control
    group, an OOM score) the runtime inherits."""
    content = b"".join(iter(lambda: os.read(_PROCESS, _CHUNK), b""))
    memory = os.memfd_create("process")
    os.write(memory, content)
    os.lseek(memory, 0, os.SEEK_SET)
    os.dup2(memory, _PROCESS)


def _let_go() -> None:
    """Whoever has the command's pipes keeps their ends from being seen."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(_LOG + 1):
        os.dup2(null, fd)


def _ended(command: int) -> int:
    """The exit code of our adopted child, minus a signal."""
    while True:
        pid, status = os.wait()
        if pid == command:
            return os.waitstatus_to_exitcode(status)
