"""The pod network: CNI. The configuration that counts, attachments, and whether the network is ready.

The rules are in `wire/cni*.py`, the plugins in `host/cni/`. Here they meet the runtime's `Network` port.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sampan.host.cni import conf_template, nftables
from sampan.host.cni.chain import Chain, read
from sampan.host.cni.confdir import ConfDir
from sampan.host.cni.executed import Executed
from sampan.host.threads import in_thread
from sampan.model.errors import Invalid, SampanError, Unavailable
from sampan.runtime.ports import Attached, Attachment, NetworkDetails, NetworkStatus
from sampan.tasks import Tasks
from sampan.wire import cni_request, cni_result, cni_template
from sampan.wire.cni import Choice
from sampan.wire.cni_request import Target

IFNAME = "eth0"
NOT_READY = "NetworkPluginNotReady"
STATUS_SECONDS = 10.0  # how old the plugins' own word on their readiness may get


class CniNetwork:
    """The `Network` port by CNI. `builtin` allows the built-in plugins; what they do not know is executed."""

    def __init__(
        self,
        conf_dir: Path,
        bin_dirs: Sequence[Path],
        *,
        builtin: bool = True,
        template: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._conf = ConfDir(conf_dir)
        self._template = template
        self._bin_dirs = tuple(map(str, bin_dirs))
        self._executed = Executed(bin_dirs)
        self._tasks = Tasks()
        self._chain = Chain(self._executed, self._tasks, builtin)
        self._gate = _Gate()
        self._clock = clock
        self._asked: tuple[bytes, float] = (b"", 0.0)
        self._complaint = ""

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._tasks.stop()
        await in_thread(nftables.close)

    async def load(self) -> bytes:
        """The conflist to use now, as JSON. Raises Unavailable naming the directory and what is wrong with
        it."""
        choice = await in_thread(self._conf.read)
        if choice.conflist is None:
            raise Unavailable(self._conf.complaint(choice))
        return choice.conflist.encode()

    async def attach(self, attachment: Attachment) -> Attached:
        """ADD the chain. On failure raises; the caller owes a `detach`."""
        target = _target(attachment)
        async with self._gate.shared():
            result = await self._chain.add(attachment.conflist, target)
        try:
            return Attached(cni_result.addresses(result), cni_result.encode(result))
        except Invalid as error:
            raise Unavailable(f"the CNI chain for pod {attachment.pod_id} is done, but {error}") from None

    async def detach(self, attachment: Attachment) -> None:
        """DEL the chain in reverse. Idempotent; works without a netns or a result."""
        if not attachment.conflist:
            return
        async with self._gate.shared():
            await self._chain.delete(attachment.conflist, _undo_target(attachment), attachment.result)

    async def check(self, attachment: Attachment) -> None:
        """Raise unless the attachment is as ADD left it."""
        await self._chain.check(attachment.conflist, _target(attachment), attachment.result)

    async def collect(self, pods: Callable[[], Iterable[str]]) -> None:
        """GC: remove what no pod of `pods` owns. It is asked while no attachment is being made or undone."""
        choice = await in_thread(self._conf.read)
        if choice.conflist is not None:
            async with self._gate.alone():
                await self._chain.collect(choice.conflist.encode(), [(pod, IFNAME) for pod in pods()])

    async def status(self) -> NetworkStatus:
        """Never blocks on a plugin."""
        choice = await in_thread(self._conf.read)
        if choice.conflist is None:
            return NetworkStatus(False, NOT_READY, self._conf.complaint(choice))
        conflist = choice.conflist.encode()
        network, steps = read(conflist)
        for each in self._chain.programs(steps):
            if not await self._executed.find(each.plugin.type):
                return NetworkStatus(
                    False, NOT_READY, str(self._executed.missing(each.plugin.type, each.refusal))
                )
        if network.at_least("1.1.0"):
            self._ask(conflist)
            if self._complaint:
                return NetworkStatus(False, NOT_READY, self._complaint)
        return NetworkStatus(True, "", _remark(choice))

    async def details(self) -> NetworkDetails:
        """Which configuration is used, and where the plugins are looked for."""
        choice = await in_thread(self._conf.read)
        where = (str(self._conf.path), self._bin_dirs)
        if choice.conflist is None:
            return NetworkDetails(b"", "", *where, self._conf.complaint(choice))
        return NetworkDetails(choice.conflist.encode(), choice.file, *where)

    async def pod_cidrs(self, cidrs: Sequence[str]) -> None:
        """Write the network from the template, if there is one and no usable network yet."""
        values = cni_template.values(cidrs)
        choice = await in_thread(self._conf.read)
        if self._template and choice.conflist is None:
            await in_thread(conf_template.write, Path(self._template), self._conf.path, values)

    def _ask(self, conflist: bytes) -> None:
        """Have the executed plugins asked in the background, if their last word is old or of another
        network."""
        asked, at = self._asked
        now = self._clock()
        if asked != conflist:
            self._complaint = ""
        elif now - at < STATUS_SECONDS:
            return
        self._asked = (conflist, now)
        self._tasks.start("CNI STATUS", self._status(conflist))

    async def _status(self, conflist: bytes) -> None:
        network, steps = read(conflist)
        complaint = ""
        for each in self._chain.programs(steps):
            try:
                await self._executed.call(
                    "STATUS", each.plugin.type, cni_request.configuration(network, each.plugin)
                )
            except (SampanError, OSError) as error:
                complaint = f"CNI plugin {each.plugin.type} is not ready: {error}"
                break
        if self._asked[0] == conflist:
            self._complaint = complaint


class _Gate:
    """Many attachments at once, or one garbage collection alone (CNI specification 1.1, section 3)."""

    def __init__(self) -> None:
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._open = asyncio.Event()
        self._open.set()
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._one:
            self._open.clear()
            try:
                await self._empty.wait()
                yield
            finally:
                self._open.set()


def _target(attachment: Attachment) -> Target:
    """What the plugins are told. Invalid for names or annotations that cannot be passed on."""
    args = cni_request.pod_args(attachment.namespace, attachment.name, attachment.pod_id, attachment.uid)
    capabilities = _capabilities(attachment)
    if limits := cni_request.bandwidth(attachment.annotations):
        capabilities["bandwidth"] = limits
    return Target(attachment.pod_id, attachment.netns, IFNAME, args, capabilities)


def _undo_target(attachment: Attachment) -> Target:
    """The same for DEL, where nothing may stand in the way: what cannot be passed on never was."""
    try:
        return _target(attachment)
    except Invalid:
        args = cni_request.pod_args("", "", attachment.pod_id, "")
        return Target(attachment.pod_id, attachment.netns, IFNAME, args, _capabilities(attachment))


def _capabilities(attachment: Attachment) -> dict[str, Any]:
    """The capability arguments, by the names of CNI's CONVENTIONS.md."""
    ports = [
        {
            "hostPort": mapping.host_port,
            "containerPort": mapping.container_port,
            "protocol": mapping.protocol.lower(),
            **({"hostIP": mapping.host_ip} if mapping.host_ip else {}),
        }
        for mapping in attachment.port_mappings
        if mapping.host_port
    ]
    offered: dict[str, Any] = {
        "portMappings": ports,
        "dns": dict(attachment.dns),
        "cgroupPath": attachment.cgroup_path,
        "io.kubernetes.cri.pod-annotations": dict(attachment.annotations),
    }
    return {name: value for name, value in offered.items() if value}


def _remark(choice: Choice) -> str:
    """Files that were passed over although they come first: no reason not to work, but one to look."""
    return "; ".join(choice.problems)
