"""Bundles (config.json) and container log files, made so that nothing an image or a pod left behind is followed.

conmon opens the log by path, appends and follows symlinks (security: measured), so the file is created and checked
here first, component by component.
"""

import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec

from sampan.config import Paths
from sampan.host.mounts import delete
from sampan.host.threads import in_thread
from sampan.model.errors import Invalid, NotFound
from sampan.tasks import step_now

PROFILE_LIMIT = 1 << 20  # bytes of a Localhost seccomp profile
_KEPT = 256  # process objects, some 2 KiB each


class _Bundle(msgspec.Struct, frozen=True):
    process: msgspec.Raw


class HostBundles:
    """`runtime.ports.Bundles` on the real file system."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._processes: dict[str, bytes] = {}  # of containers that commands are run in, the newest last
        self._changes = 0

    async def write(self, id: str, spec: Mapping[str, Any]) -> Path:
        self._forget(id)
        return await in_thread(self._write, id, msgspec.json.encode(spec), _mapped_root(spec))

    def _write(self, id: str, spec: bytes, owner: tuple[int, int] | None) -> Path:
        """`owner` is root of the container's user namespace, if it has one of its own."""
        bundle = self._paths.bundle(id)
        step_now("bundle.write", id)
        bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = bundle / "rootfs"  # an overlay is mounted here by now, or it is the empty root of a pod's init
        with suppress(FileExistsError):
            root.mkdir()
            root.chmod(0o755)  # the init is nobody, and must be able to look into its own root
            os.chown(root, *(owner or (0, 0)))
        if owner:
            self._let_in(bundle, owner[1])
        file = bundle / "config.json"
        file.touch(0o600)
        file.write_bytes(spec)
        return bundle

    def _let_in(self, bundle: Path, group: int) -> None:
        """Root of a user namespace is nobody here, and the OCI runtime looks up the root directory as it. Others may
        go through `state` to what they know the name of; through the bundle only that root may, by its group."""
        os.chown(bundle, 0, group)
        bundle.chmod(0o710)
        for folder in (bundle.parent, self._paths.state):
            folder.chmod(0o711)
        for folder in self._paths.state.resolve().parents:
            if not folder.stat().st_mode & stat.S_IXOTH:
                raise Invalid(
                    f"a pod with a user namespace cannot reach its root below {folder}, which is closed to other users:"
                    f" chmod o+x {folder}, or give the daemon another --state"
                )

    async def read(self, id: str) -> dict[str, Any] | None:
        return await in_thread(self._read, id)

    def _read(self, id: str) -> dict[str, Any] | None:
        try:
            return msgspec.json.decode(
                (self._paths.bundle(id) / "config.json").read_bytes(), type=dict[str, Any]
            )
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    async def process(self, id: str) -> dict[str, Any] | None:
        """Read once, and kept: probes run commands every few seconds."""
        kept = self._processes.get(id)
        if kept is None:
            changes = self._changes
            kept = await in_thread(self._process, id)
            if kept is None:
                return None
            if changes == self._changes:
                self._processes[id] = kept
                if len(self._processes) > _KEPT:
                    del self._processes[next(iter(self._processes))]
        process: dict[str, Any] = msgspec.json.decode(kept)
        return process

    def _process(self, id: str) -> bytes | None:
        try:
            text = (self._paths.bundle(id) / "config.json").read_bytes()
            return bytes(msgspec.json.decode(text, type=_Bundle).process)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _forget(self, id: str) -> None:
        self._processes.pop(id, None)
        self._changes += 1

    async def rewrite(self, id: str, spec: Mapping[str, Any]) -> None:
        try:
            await in_thread(self._rewrite, id, msgspec.json.encode(spec))
        finally:
            self._forget(id)

    def _rewrite(self, id: str, spec: bytes) -> None:
        bundle = self._paths.bundle(id)
        step_now("bundle.rewrite", id)
        fresh = bundle / "config.json.new"
        try:
            fresh.unlink(missing_ok=True)  # of an attempt that was cut short
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(fresh, flags, 0o600), "wb") as file:  # noqa: PTH123 - of a descriptor
                file.write(spec)
            fresh.replace(bundle / "config.json")
        except FileNotFoundError as error:
            raise NotFound(f"the bundle of container {id} is gone") from error
        except OSError:
            fresh.unlink(missing_ok=True)
            raise

    async def remove(self, id: str) -> None:
        self._forget(id)
        await in_thread(self._remove, id)

    def _remove(self, id: str) -> None:
        step_now("bundle.remove", id)
        delete(self._paths.bundle(id))

    async def make_log(self, directory: str, path: str) -> Path:
        return await in_thread(_make_log, Path(directory), Path(path))

    async def make_log_directory(self, directory: str) -> None:
        await in_thread(_make_directory, Path(directory))

    async def read_profile(self, path: str) -> bytes:
        return await in_thread(_read_profile, path)


def _mapped_root(spec: Mapping[str, Any]) -> tuple[int, int] | None:
    """The host's ids of id 0 in the container's user namespace (OCI config-linux.md, "User namespace mappings")."""
    linux = spec.get("linux", {})
    maps = linux.get("uidMappings"), linux.get("gidMappings")
    return (maps[0][0]["hostID"], maps[1][0]["hostID"]) if all(maps) else None


def _make_directory(directory: Path) -> None:
    step_now("log.directory", str(directory))
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise Invalid(f"log directory {directory} exists and is not a directory") from error


def _make_log(directory: Path, path: Path) -> Path:
    """Walk from `directory` to `path` by file descriptors: no component may be a symlink."""
    relative = path.relative_to(directory)
    _make_directory(directory)
    step_now("log.file", str(path))
    with ExitStack() as opened:
        here = _opened(opened, os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            for part in relative.parent.parts:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
                folder = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                here = _opened(opened, os.open(part, folder, dir_fd=here))
            flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = _opened(opened, os.open(relative.name, flags, 0o640, dir_fd=here))
        except OSError as error:
            raise Invalid(f"cannot open the log file {path}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise Invalid(f"the log file {path} exists and is not a regular file")
    return path


def _opened(stack: ExitStack, file: int) -> int:
    stack.callback(os.close, file)
    return file


def _read_profile(path: str) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise Invalid(f"cannot read the seccomp profile {path}: {error.strerror}") from error
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > PROFILE_LIMIT:
            raise Invalid(f"seccomp profile {path} is not a regular file of at most {PROFILE_LIMIT} bytes")
        return os.read(file, PROFILE_LIMIT + 1)
    except OSError as error:  # of /proc and the like
        raise Invalid(f"cannot read the seccomp profile {path}: {error.strerror}") from error
    finally:
        os.close(file)
