"""What the host paths in a request really are: mount sources, devices, small files. Looks only; mounting is
the OCI runtime's.

A path may lie on a file system that no longer answers, and a thread that looks at it cannot be taken back:
each request therefore looks in a thread of its own, so that no other request waits for it, and the caller
bounds its wait.
"""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sampan.host import apparmor
from sampan.host.device.devices import all_devices, device_nodes
from sampan.host.processes import find
from sampan.host.threads import in_own_thread, in_thread, look_at
from sampan.model.errors import Invalid, WrongState
from sampan.model.process import ProcessRef
from sampan.spec.facts import DeviceNode, Source
from sampan.wire import mountinfo

HOST_FILE_LIMIT = 1 << 20  # bytes; /etc/hosts of a machine that blocks advertisers by name fits


class HostFacts:
    """The `Facts` port on the real machine."""

    async def sources(self, paths: Iterable[str]) -> dict[str, Source]:
        """Mount sources by the path asked for, links resolved; those that do not exist are left out."""
        return await sources(paths)

    async def device_nodes(self, paths: Iterable[str]) -> dict[str, tuple[DeviceNode, ...]]:
        """Devices by the path asked for; paths that are none are left out."""
        return await device_nodes(paths)

    async def all_devices(self) -> tuple[DeviceNode, ...]:
        """Every device of the host but terminals and what each container gets of its own."""
        return await all_devices()

    @asynccontextmanager
    async def pid_namespace(self, process: ProcessRef) -> AsyncIterator[str]:
        """A path of the process's PID namespace, held open by us. Raises WrongState if it is gone."""
        try:
            file = os.open(f"/proc/{process.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise WrongState(f"process {process.pid}, whose PID namespace is to be shared, is gone") from None
        try:
            if (
                find(process.pid) != process
            ):  # looked at after opening: now the descriptor is the right one for good
                raise WrongState(f"process {process.pid}, whose PID namespace is to be shared, is gone")
            yield f"/proc/{os.getpid()}/fd/{file}"
        finally:
            os.close(file)

    async def host_file(self, path: str) -> bytes:
        """A small file of the host; b"" if absent. Raises Invalid if it is larger than 1 MiB."""
        return await in_thread(_small_file, path)

    async def apparmor_profiles(self) -> frozenset[str]:
        """The profiles that the kernel has loaded now."""
        return await apparmor.loaded()


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """A file system as a whole, in bytes and inodes. `available` is what ordinary users may still take."""

    size: int
    used: int
    available: int
    inodes: int
    inodes_used: int


async def sources(paths: Iterable[str]) -> dict[str, Source]:
    """What lies at each of these host paths, and how the mount it lies on propagates; absent ones are left
    out. Raises Invalid for a link to a name that no config.json can hold."""
    asked = tuple(paths)
    return await look_at(asked, lambda: _sources(asked))


async def disk_usage(path: Path) -> DiskUsage:
    """The file system that `path` lies on."""
    return await in_own_thread(lambda: _disk_usage(path))


def _sources(paths: Iterable[str]) -> dict[str, Source]:
    found: dict[str, Source] = {}
    table = b""
    for path in paths:
        if not path.startswith("/") or "\0" in path:
            continue
        try:
            # O_PATH follows links, but opens nothing: no FIFO blocks, no device reacts.
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            table = table or Path("/proc/thread-self/mountinfo").read_bytes()
            found[path] = _source(path, fd, table)
        finally:
            os.close(fd)
    return found


def _source(path: str, fd: int, table: bytes) -> Source:
    id = _mount_id(fd)
    mount = mountinfo.find(table, id)
    link = Path(f"/proc/self/fd/{fd}")
    real = str(link.readlink())
    if not _is_text(real):
        raise Invalid(
            f"host path {path!r} leads to {real!r}, whose name is not UTF-8: config.json cannot hold it"
        )
    return Source(
        path=real,
        is_directory=link.is_dir(),
        # One that was mounted after the table was read: claim no propagation, and no flag, that is not known.
        propagation=mount.propagation if mount else "private",
        locked_flags=mount.restrictions if mount else (),
        submounts=mountinfo.covers(table, id, real),
    )


def _is_text(path: str) -> bool:
    """Whether a name from the kernel, any bytes, is UTF-8; Python gives what is not as lone surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mount_id(fd: int) -> int:
    """The kernel's own answer, right also where mounts lie on top of each other (proc_pid_fdinfo(5))."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return int(value)
    return -1


def _small_file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(HOST_FILE_LIMIT + 1)
    except FileNotFoundError:
        return b""
    if len(content) > HOST_FILE_LIMIT:
        raise Invalid(f"{path} is larger than {HOST_FILE_LIMIT} bytes; a pod cannot get a copy of it")
    return content


def _disk_usage(path: Path) -> DiskUsage:
    fs = os.statvfs(path)
    return DiskUsage(
        size=fs.f_blocks * fs.f_frsize,
        used=(fs.f_blocks - fs.f_bfree) * fs.f_frsize,
        available=fs.f_bavail * fs.f_frsize,
        inodes=fs.f_files,
        inodes_used=fs.f_files - fs.f_ffree,
    )
