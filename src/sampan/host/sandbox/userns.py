"""Making a pod's user namespace, and the namespaces that it owns (user_namespaces(7), namespaces(7)).

A process with threads cannot enter a new user namespace, so children do (`unshare` and `nsenter`, of util-linux): one
makes the user namespace, and once the daemon has written its maps, another makes the rest in it, as its root. What
the kernel makes along with a namespace belongs to whoever made it: in one go, before there are maps, /proc/net and
the root of the message queues would be nobody's. Each child says that it is done, and waits for its stdin to end: it
ends with the daemon, whatever happens. Measured: 5 ms.

Descriptors of the namespaces are opened while the child is known to live: nothing here can meet a process that got
the number of a dead one.
"""

import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

from sampan.host.process import Child, read_until, spawn
from sampan.host.threads import in_thread
from sampan.model.errors import ToolFailed
from sampan.spec.userns import Mappings
from sampan.tasks import bounded

MAKE_SECONDS = 10.0
_SAY = 3  # the child's descriptor to say it with
WAIT = ("sh", "-c", f"echo made >&{_SAY}; read -r end")
_MAPS = ("uid_map", "gid_map")


@asynccontextmanager
async def made(kinds: Iterable[str], maps: Mappings) -> AsyncIterator[Mapping[str, int]]:
    """A new user namespace with these maps, and in it new ones of the other kinds ("net", "ipc", "uts"). Descriptors
    of them by kind, for the block; what is not pinned by its end is gone.

    ToolFailed with the kernel's reason: no user namespaces here, or too many (user.max_user_namespaces).
    """
    others = sorted({*kinds} - {"user"})
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(_waiting(["unshare", "--user"], ("ns/user", *_MAPS)))
        await in_thread(_map, first, maps)
        result = {"user": first["ns/user"]}
        if others:
            enter = ["nsenter", f"--user=/proc/self/fd/{_SAY + 1}", "--setuid=0", "--setgid=0", "--"]
            make = ["unshare", *(f"--{kind}" for kind in others)]
            names = tuple(f"ns/{kind}" for kind in others)
            files = await stack.enter_async_context(_waiting([*enter, *make], names, first["ns/user"]))
            result |= {kind: files[f"ns/{kind}"] for kind in others}
        yield result


@asynccontextmanager
async def _waiting(
    argv: Sequence[str], names: Sequence[str], *given: int
) -> AsyncIterator[Mapping[str, int]]:
    """A child that `argv` made, with `given` as descriptors; the files of it in /proc that are named, opened."""
    said, say = os.pipe()
    try:
        async with spawn([*argv, "--", *WAIT], stdin=True, fds=(say, *given)) as child:
            os.close(say)
            say = -1
            async with bounded(MAKE_SECONDS, "making a user namespace"):
                await _begun(child, said)
            with ExitStack() as opened:
                files = await in_thread(_opened, opened, child.pid, names)
                if not child.running:
                    raise ToolFailed(child.argv, await child.exited(), "it was killed")
                yield files
    finally:
        os.close(said)
        if say >= 0:
            os.close(say)


async def _begun(child: Child, said: int) -> None:
    if not await read_until(said, b"\n", 16):
        finished = await child.finished()
        raise ToolFailed(child.argv, finished.code, finished.stderr.decode(errors="replace"))


def _opened(stack: ExitStack, pid: int, names: Iterable[str]) -> dict[str, int]:
    files = {}
    for name in names:
        access = os.O_WRONLY if name in _MAPS else os.O_RDONLY
        files[name] = os.open(f"/proc/{pid}/{name}", access | os.O_CLOEXEC)
        stack.callback(os.close, files[name])
    return files


def _map(files: Mapping[str, int], maps: Mappings) -> None:
    """Each map is written once, in one write. Root wrote it: so setgroups(2) stays allowed in there."""
    for name, ids in zip(_MAPS, (maps.uids, maps.gids), strict=True):
        os.write(files[name], f"0 {ids.host} {ids.length}\n".encode())
