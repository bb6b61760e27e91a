"""Whether pods can have user namespaces on this machine: tried once, when the daemon starts, in a few milliseconds.

Asking the kernel's version would not do: a sysctl, a container around us or the file system of `root` may say no.
"""

import errno
import logging
import os
from functools import partial
from pathlib import Path

from sampan.host import mounts, syscalls
from sampan.host.sandbox import userns
from sampan.host.storage.idmap import REFUSALS, mapped
from sampan.host.threads import in_own_thread, in_thread
from sampan.host.unpack.layout import OVERLAY_OPTIONS
from sampan.model.errors import SampanError, ToolFailed
from sampan.spec.userns import Mappings, Range
from sampan.tasks import finish, step

_MAPS = Mappings(Range(100000, 65536), Range(100000, 65536))  # nobody is anybody for that long

_NEVER = (*REFUSALS, errno.EPERM)
_NO_PROGRAM = 127
_MOST = Path("/proc/sys/user/max_user_namespaces")  # 0: how an administrator forbids them

log = logging.getLogger("sampan.userns")


async def works(root: Path, *, slow_chown: bool = False) -> bool:
    """Whether the kernel makes a user namespace and shows an overlay's layers, on the file system of `root`, with the
    ids of it. If not, the log says why; with `slow_chown` the first is enough. Where that could not be found out (no
    memory, a full disk), yes: then each pod that asks is told what is wrong."""
    try:
        async with userns.made(("user",), _MAPS) as made:
            try:
                await _shown(root, made["user"])
            except (SampanError, OSError) as error:
                if not slow_chown or not await in_thread(_for_good, error):
                    raise
                log.warning("pods with a user namespace get a copy of their whole image: %s", error)
    except (SampanError, OSError) as error:
        if not await in_thread(_for_good, error):
            log.warning("whether pods can have user namespaces is found out as they come: %s", error)
            return True
        log.warning("pods cannot have user namespaces: %s", error)
        return False
    return True


def _for_good(error: BaseException) -> bool:
    """Whether it is the answer of this kernel or file system, and not a want that passes."""
    if isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, OSError):
        return error.errno is None or error.errno in _NEVER
    if isinstance(error, ToolFailed):  # the kernel's answer, in words
        never = any(os.strerror(code) in error.stderr for code in _NEVER)
        return never or error.code == _NO_PROGRAM or _MOST.read_text().strip() == "0"
    return False


async def _shown(root: Path, namespace: int) -> None:
    probe = root / "probe"
    await step("userns.probe", str(probe))
    try:
        await finish(in_own_thread(partial(_overlay, probe, namespace)))
    finally:
        await finish(in_thread(mounts.delete_tree, probe))


def _overlay(probe: Path, namespace: int) -> None:
    """In a mount namespace of its own, which takes every mount along when the thread ends."""
    mounts.delete_tree(probe)
    for name in ("layers/one/inner", "upper", "work", "merged"):
        (probe / name).mkdir(mode=0o700, parents=True)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    with mapped(probe / "layers", probe / "mapped", namespace):
        os.chdir(probe / "mapped")
        options = f"lowerdir=one,upperdir={probe}/upper,workdir={probe}/work,{OVERLAY_OPTIONS}"
        syscalls.mount("overlay", probe / "merged", "overlay", 0, options)
        os.chdir("/")
    owner = (probe / "merged/inner").stat().st_uid
    if owner != _MAPS.uids.host:
        raise OSError(f"an overlay over layers with ids mapped shows user {owner} for {_MAPS.uids.host}")
    mounts.detach(probe / "merged")
