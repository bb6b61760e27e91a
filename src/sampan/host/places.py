"""The daemon's own places: its directories, the lock that keeps a second daemon out, and the socket's file."""

import fcntl
import os
import resource
import socket
from pathlib import Path

from sampan.config import Paths
from sampan.model.errors import AlreadyExists, Invalid


def claim(paths: Paths) -> tuple[int, ...]:
    """Make root, state and the place of images (0700) and lock them for this process; returns the locks' descriptors,
    to be kept open. AlreadyExists if another daemon has one of them."""
    places = (paths.root, paths.state, *([paths.images] if paths.images else []))
    for directory in places:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        except OSError as error:
            raise Invalid(f"cannot use the directory {directory}: {error.strerror}") from error
    # pods may come to pass through `state` (`host.oci.bundles`), so nothing in it may be left to a default mode
    (paths.state / "runtime").mkdir(mode=0o700, exist_ok=True)
    return tuple(_locked(directory) for directory in places)


def _locked(directory: Path) -> int:
    lock = os.open(directory / "lock", os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise AlreadyExists(
            f"another sampand already works on {directory}; stop it, or give this one its own --root, --state"
            " and --listen"
        ) from None
    return lock


def raise_descriptor_limit() -> tuple[int, int]:
    """Let this process open as many files as it may: it holds a few for each container. Returns the limits that it was
    started with, (soft, hard), which containers shall go on having (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def clear_socket(path: Path) -> None:
    """Make way for the socket: its directory exists, and no file that a dead daemon left is there.
    AlreadyExists if somebody listens on it, Invalid if something else than a socket is in the way."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Invalid(f"cannot make the socket's directory {path.parent}: {error.strerror}") from error
    if not path.exists():
        return
    if not path.is_socket():
        raise Invalid(f"{path} exists and is not a socket; remove it or choose another --listen")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError as error:
            raise Invalid(f"cannot use the socket {path}: {error.strerror}") from error
        else:
            raise AlreadyExists(f"the socket {path} is in use by another process; choose another --listen")
