"""A pod's place on the host: pinned namespaces, the files its containers share, /dev/shm.

All of a pod lies on one small tmpfs at `Paths.pod(id)`: a container that writes to its /etc/hostname without
end fills that, not the host (CVE-2020-8557), and one unmount takes everything down. There is no pause
container. Measured: create 1 ms, of which the kernel needs 0.4 for the net namespace (6 ms with a user
namespace); remove 0.3 ms.
"""

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from sampan.config import Paths
from sampan.host import mounts
from sampan.host.sandbox import net_stats, netns, userns
from sampan.host.threads import in_own_thread, in_thread
from sampan.model.errors import AlreadyExists, Invalid
from sampan.runtime.ports import SandboxPlan
from sampan.tasks import finish, step, step_now
from sampan.wire.net_dev import Interface

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
SPARE = 256 << 10  # bytes of a pod's tmpfs beyond the files' first size
INODES = 64  # the same, in files


class PinnedSandboxes:
    """The `Sandboxes` port on the real kernel."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._folder_ready = False
        self._lock = asyncio.Lock()

    async def create(self, plan: SandboxPlan) -> None:
        """Make all of it, or raise and leave what `remove` can remove. AlreadyExists for an id in use."""
        self._check(plan)
        await self._hide()
        # Cancelled or not, the thread runs to its end: only then may the caller's `remove` begin.
        await finish(self._make(plan))

    async def remove(self, id: str) -> None:
        """Unmount and delete all of it, also what was made half or damaged since. Idempotent."""
        self._pod(id)
        await finish(in_thread(self._remove, id))

    async def present(self, id: str, namespaces: frozenset[str]) -> bool:
        """Whether every one of these namespaces is still pinned, and is a namespace of that kind."""
        self._pod(id)
        return await in_thread(self._present, id, namespaces)

    async def interfaces(self, ids: Sequence[str]) -> list[tuple[Interface, ...] | None]:
        """The network interfaces in each pod's own namespace, the loopback left out; None for a pod that has none."""
        return await net_stats.interfaces([self._paths.namespace(id, "net") for id in ids])

    def _check(self, plan: SandboxPlan) -> None:
        self._pod(plan.id)
        if unknown := plan.namespaces - netns.KINDS.keys():
            raise Invalid(f"pod {plan.id}: no such namespace to pin: {', '.join(sorted(unknown))}")
        if ("user" in plan.namespaces) != (plan.userns is not None):
            raise Invalid(f"pod {plan.id}: a user namespace and its maps belong together")
        for name in plan.files:
            if not _FILE.fullmatch(name) or name in ("ns", "shm"):
                raise Invalid(f"pod {plan.id}: {name!r} cannot name one of its files")

    def _pod(self, id: str) -> Path:
        if not _ID.fullmatch(id):
            raise Invalid(f"{id!r} is not the id of a pod")
        return self._paths.pod(id)

    async def _hide(self) -> None:
        """Once per daemon, by the first caller, make the folder of all pods a private mount."""
        if self._folder_ready:
            return
        async with self._lock:
            if not self._folder_ready:
                await finish(in_thread(self._make_folder))
                self._folder_ready = True

    def _make_folder(self) -> None:
        folder = self._paths.pod("x").parent
        step_now("pods.folder", str(folder))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        mounts.hide(folder)

    async def _make(self, plan: SandboxPlan) -> None:
        if plan.userns is None:
            await in_own_thread(partial(self._create, plan, {}))
            return
        await step("pod.userns", plan.id)
        async with userns.made(plan.namespaces, plan.userns) as made:
            await in_own_thread(partial(self._create, plan, made))

    # --- in a thread ------------------------------------------------------------------------------------

    def _create(self, plan: SandboxPlan, made: Mapping[str, int]) -> None:
        """`made` are the namespaces that are there already, by kind; if any are, all are."""
        pod = self._paths.pod(plan.id)
        owner = plan.userns.root if plan.userns else (0, 0)
        self._make_directory(plan, pod)
        step_now("pod.files", plan.id)
        for name, content in plan.files.items():
            _write_new(pod / name, content, owner)
        if plan.shm_size:
            step_now("pod.shm", plan.id)
            shm = self._paths.shm(plan.id)
            shm.mkdir(mode=0o700)
            mounts.tmpfs(shm, plan.shm_size, 0o1777, owner=owner, label=plan.label)
        if plan.namespaces or plan.sysctls:
            self._make_namespaces(plan, made)

    def _make_directory(self, plan: SandboxPlan, pod: Path) -> None:
        step_now("pod.directory", plan.id)
        try:
            pod.mkdir(mode=0o700)
        except FileExistsError:
            raise AlreadyExists(f"pod {plan.id}: {pod} is there already; remove the pod first") from None
        step_now("pod.mount", plan.id)
        size = SPARE + sum(_pages(content) for content in plan.files.values())
        mounts.tmpfs(pod, size, 0o700, INODES, label=plan.label)
        (pod / "ns").mkdir(mode=0o700)

    def _make_namespaces(self, plan: SandboxPlan, made: Mapping[str, int]) -> None:
        """From here on the thread is in the pod. It ends with this call, and if nothing was pinned they end
        with it."""
        places = {kind: self._paths.namespace(plan.id, kind) for kind in sorted(plan.namespaces)}
        step_now("pod.namespaces", plan.id)
        for place in places.values():
            _write_new(place, b"")
        if made:
            netns.enter(made)
        else:
            netns.enter_new(plan.namespaces)
        if "uts" in plan.namespaces:
            netns.set_hostname(plan.hostname)
        netns.write_sysctls(plan.sysctls, plan.namespaces, plan.userns.root[0] if plan.userns else 0)
        for kind, place in places.items():
            step_now(f"pod.namespaces.{kind}", plan.id)
            netns.pin(kind, place, made.get(kind))

    def _remove(self, id: str) -> None:
        pod = self._paths.pod(id)
        step_now("pod.remove.mounts", id)
        mounts.detach(pod)
        step_now("pod.remove.directory", id)
        # A service of the host with a mount namespace of its own (PrivateTmp=) took a copy of our mounts. The
        # kernel (3.18) unmounts that too when the directory it lies on is removed: nothing lives on.
        mounts.delete(pod)

    def _present(self, id: str, namespaces: frozenset[str]) -> bool:
        return all(netns.is_pinned(self._paths.namespace(id, kind), kind) for kind in namespaces)


def _write_new(path: Path, content: bytes, owner: tuple[int, int] = (0, 0)) -> None:
    """A file that is not there yet, readable by every user of a container whatever our umask is."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fchown(fd, *owner)
        os.fchmod(fd, 0o644)
    finally:
        os.close(fd)


def _pages(content: bytes) -> int:
    """The room that a file takes on a tmpfs with the largest pages there are (arm64: 64 KiB)."""
    return -(-len(content) // 65536) * 65536
