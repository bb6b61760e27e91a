"""What the OCI runtime keeps of one container, and where that is all there is to do, done without running it.

crun's `start` opens a gate (a byte into a fifo) and its `delete` removes a cgroup and a directory; each costs 4 to
6 ms as a process and a tenth of that here. Everything else (hooks, a scope that systemd still has, resctrl, a state
that looks unlike what crun 1.8 to 1.29 leave, and so every other runtime) is answered with False or None, and the
caller runs the runtime. For code that runs in a thread.
"""

import dataclasses
import os
import shutil
from pathlib import Path

from sampan.host.cgroup.container_cgroup import ContainerCgroup
from sampan.host.processes import find, read_small
from sampan.model.handler import Handler
from sampan.model.process import ProcessRef
from sampan.wire import cgroup_paths, conmon, crun
from sampan.wire.oci_runtime import CommandLine

STATE_LINK = "runtime"  # in the bundle: where the runtime keeps the container's state
_FIFO = "exec.fifo"
_RUNC_STATE = "state.json"
_UNITS = Path("/run/systemd/transient")  # one file for each transient unit that systemd has loaded


class RuntimeState:
    """The directory ROOT/ID of one container (some runtimes have none), and the bundle it was made from."""

    def __init__(self, directory: Path, bundle: Path, units: Path = _UNITS) -> None:
        self.directory = directory
        self.bundle = bundle
        self._units = units

    def commands(self, handler: Handler) -> CommandLine:
        """The command lines for it."""
        return CommandLine(handler.path, dataclasses.replace(handler, root=self.directory.parent))

    def status(self) -> crun.Status | None:
        """What crun recorded; None if it has not created the container, or not completely, or another runtime did."""
        try:
            return crun.status(read_small(f"{self.directory}/status"))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def started(self) -> bool | None:
        """Whether the container was created, and let go; None if only the runtime can tell."""
        if self.status() is not None:
            return not Path(self.directory, _FIFO).exists()
        return None if self.known() else False

    def known(self) -> bool:
        """Whether the runtime was asked to create the container, and not yet to delete it."""
        return self.directory.exists() or (self.bundle / STATE_LINK).is_symlink()

    def init(self) -> ProcessRef | None:
        """The container's first process while it lives."""
        status = self.status()
        if status is None:
            return self._noted()
        process = find(status.pid)
        return process if process and process.start == status.process_start_time else None

    def _noted(self) -> ProcessRef | None:
        """The process that conmon was told is the first: believed if it is in the container's group, for the number
        may by now be another's."""
        try:
            pid = int(read_small(self.bundle / conmon.INIT_PID_FILE))
        except (OSError, ValueError):
            return None
        return find(pid) if pid in self.cgroup().processes() else None

    def cgroup(self) -> ContainerCgroup:
        """Its control group, by crun's record or else by what its config.json asked for."""
        status = self.status()
        if status is not None:
            return ContainerCgroup(status.cgroup_path)
        config = self._config(self.bundle)
        asked = config.linux.cgroups_path if config else ""
        parts = asked.split(":")
        if len(parts) == 3:
            asked = cgroup_paths.directory(cgroup_paths.SYSTEMD, parts[0], parts[2])
        return ContainerCgroup(asked if len(parts) in (1, 3) else "")

    def takes_groups(self) -> bool:
        """Whether the runtime's `exec` can be told a group below the container's: crun's and runc's can, and these keep
        such files."""
        return self.status() is not None or Path(self.directory, _RUNC_STATE).is_file()

    def open_gate(self) -> bool:
        """Let the created process run; False if the runtime must be asked (for a hook, or for what is wrong)."""
        if self.status() is None:
            return False
        config = self._config(self.directory)
        if config is None or not config.plain_start or self.init() is None:
            return False
        fifo = f"{self.directory}/{_FIFO}"
        try:
            fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # ENOENT: started before; ENXIO: nobody waits at it
            return False
        try:
            os.unlink(fifo)  # noqa: PTH108 - first, as crun does: its absence is what says "started"
            os.write(fd, b"\0")
        finally:
            os.close(fd)
        return True

    def dissolve(self) -> bool:
        """Remove cgroup and state of a container that is dead; False if the runtime must do it."""
        if not self.known():
            return self.cgroup().remove()
        status, config = self.status(), self._config(self.directory)
        if status is None or config is None or not config.plain_delete or self._held(status):
            return False
        if self.init() is not None or not ContainerCgroup(status.cgroup_path).remove():
            return False
        self.forget()
        return True

    def _held(self, status: crun.Status) -> bool:
        """Whether systemd has the container's scope still: it drops one that is empty, and keeps one that
        failed."""
        return status.systemd_cgroup and (not status.scope or (self._units / status.scope).exists())

    def forget(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _config(self, directory: Path) -> crun.Config | None:
        try:
            return crun.config((directory / "config.json").read_bytes())
        except OSError:
            return None


def of(handler: Handler, id: str, bundle: Path) -> RuntimeState:
    """What is kept of the container `id`: where it was created, whatever is configured by now."""
    try:
        root = (bundle / STATE_LINK).readlink().parent
    except (FileNotFoundError, NotADirectoryError):
        root = handler.root
    return RuntimeState(root / id, bundle)
