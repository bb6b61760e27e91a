"""One attachment taken through the chain of plugins, each built in where we know all that is asked of it,
else executed.

Who undoes an ADD is read off what it made, not off the configuration of today: so a node may be switched
between built-in and executed plugins while its pods run. Source: CNI specification 1.1, section 3.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from sampan.host import process
from sampan.host.cni import bridge, host_local, podns, portmap
from sampan.host.cni.executed import Executed
from sampan.host.threads import in_own_thread, in_thread
from sampan.model.errors import Invalid, SampanError, Unavailable
from sampan.tasks import Tasks, finish, step
from sampan.wire import cni_builtin, cni_request, cni_result
from sampan.wire.cni import Conflist, Plugin, parse
from sampan.wire.cni_builtin import Bridge, Loopback, Portmap, Program
from sampan.wire.cni_request import Target
from sampan.wire.cni_result import Result

T = TypeVar("T")
log = logging.getLogger("sampan")


@dataclass(frozen=True, slots=True)
class Step:
    """A plugin of the chain; what the built-in one would do, or why it cannot."""

    plugin: Plugin
    program: Program | None
    refusal: str = ""


@lru_cache(maxsize=8)
def read(conflist: bytes) -> tuple[Conflist, tuple[Step, ...]]:
    """A recorded configuration. Invalid if it is damaged."""
    network = parse(conflist)
    return network, tuple(_step(network, plugin) for plugin in network.plugins)


def _step(network: Conflist, plugin: Plugin) -> Step:
    try:
        return Step(plugin, cni_builtin.understand(plugin.type, cni_request.configuration(network, plugin)))
    except Invalid as error:
        return Step(plugin, None, str(error))


class Chain:
    """Runs chains. `builtin` says whether new attachments may use the built-in plugins."""

    def __init__(self, executed: Executed, tasks: Tasks, builtin: bool) -> None:
        self._executed = executed
        self._tasks = tasks
        self._builtin = builtin
        self._loading = (
            asyncio.Lock()
        )  # one nft at a time: two that load the same rules would fail one another

    def programs(self, steps: Sequence[Step]) -> list[Step]:
        """Those of the steps that are executed."""
        return [each for each in steps if not self._builtin or each.program is None]

    async def add(self, conflist: bytes, target: Target) -> Result:
        """ADD along the chain; the last result. On a failure DEL is owed."""
        network, steps = read(conflist)
        if self.programs(steps[:1]) or not isinstance(steps[0].program, Bridge):
            await finish(in_own_thread(lambda: podns.loopback_up(target.netns)))
        result: Result | None = None
        for each in steps:
            result = await self._add(network, each, target, result)
        if result is None:
            raise Invalid(f"network {network.name} names no plugins")
        return result

    async def _add(self, network: Conflist, each: Step, target: Target, before: Result | None) -> Result:
        refusal = self._refusal(each, target)
        if not refusal:
            match each.program:
                case Bridge() as conf if before is None:
                    return await self._add_bridge(conf, network, target)
                case Portmap() as conf if before is not None:
                    return await self._add_portmap(conf, network, target, before)
                case Loopback() if before is not None:
                    return before
            refusal = f"{each.plugin.type} stands in an unusual place of the chain"
        previous = cni_result.encode(before) if before else None
        conf_ = cni_request.configuration(network, each.plugin, target, previous)
        kind = each.plugin.type
        output = await self._executed.call("ADD", kind, conf_, target, refusal)
        try:
            return cni_result.parse(output, network.version)
        except Invalid as error:
            raise Unavailable(f"CNI ADD of plugin {kind} for {target.container_id}: {error}") from None

    def _refusal(self, each: Step, target: Target) -> str:
        if not self._builtin:
            return "the built-in plugins are turned off"
        if each.program is None:
            return each.refusal
        asked = cni_builtin.unread(each.plugin.type, cni_request.runtime_config(each.plugin, target))
        return f"capability argument {asked} is not built in" if asked else ""

    async def _add_bridge(self, conf: Bridge, network: Conflist, target: Target) -> Result:
        what = f"network {network.name} for {target.container_id}"

        def work() -> tuple[bytes, Result]:
            rules = bridge.missing_rules(conf, network.name)  # before the thread enters the pod's namespace
            return rules, bridge.add(conf, network.name, target)

        rules, result = await _told(what, finish(in_own_thread(work)))
        if rules:
            await self._load(rules, "cni.nft.masquerade", network.name)
        return cni_result.convert(result, network.version)

    async def _add_portmap(self, conf: Portmap, network: Conflist, target: Target, before: Result) -> Result:
        if portmap.mappings(target):
            what = f"published ports of {target.container_id}"
            rules = await _told(what, in_thread(portmap.missing_rules, conf, network.name, before))
            if rules:
                await self._load(rules, "cni.nft.ports", network.name)
            await _told(what, finish(in_thread(portmap.add, conf, network.name, target, before)))
        return before

    async def _load(self, rules: bytes, name: str, subject: str) -> None:
        async with self._loading:
            await step(name, subject)
            await finish(process.run(["nft", "-f", "-"], stdin=rules))

    async def delete(self, conflist: bytes, target: Target, result: bytes) -> None:
        """DEL along the chain in reverse; every plugin gets its turn, then the failures are raised
        together."""
        network, steps = read(conflist)
        if target.netns and not await in_thread(podns.exists, target.netns):
            target = Target(target.container_id, "", target.ifname, target.args, target.capabilities)
        made = _parse(result, network)
        failures: list[str] = []
        for each in reversed(steps):
            try:
                await self._delete(network, each, target, made)
            except (SampanError, OSError) as error:
                failures.append(f"{each.plugin.type}: {error}")
        if failures:
            raise Unavailable(f"network {network.name} of {target.container_id}: {'; '.join(failures)}")

    async def _delete(self, network: Conflist, each: Step, target: Target, made: Result | None) -> None:
        ours = made is not None and bridge.made_here(made, target)
        match each.program:
            case Bridge() as conf:
                if ours or made is None:
                    await finish(self._delete_bridge(conf, network, target, made))
            case Portmap():
                if not portmap.mappings(target):
                    return  # nothing was done by whoever did it
                ours = (
                    await finish(in_thread(portmap.remove, network.name, target.container_id, target.ifname))
                    or ours
                )
            case Loopback():
                return
        if ours and each.program is not None:
            return
        # Without a result it is not known who did it. The built-in part is undone by now; so that a chain cut
        # off under other settings leaves nothing either, the program gets its turn too, if there is one.
        unsure = made is None and each.program is not None and self._builtin
        if unsure and not await self._executed.find(each.plugin.type):
            return
        try:
            await self._execute_delete(network, each, target, made)
        except SampanError:
            if not unsure:
                raise
            log.debug(
                "executed DEL of %s for %s failed", each.plugin.type, target.container_id, exc_info=True
            )

    async def _execute_delete(
        self, network: Conflist, each: Step, target: Target, made: Result | None
    ) -> None:
        previous = cni_result.encode(made) if made else None
        conf = cni_request.configuration(network, each.plugin, target, previous)
        await self._executed.call("DEL", each.plugin.type, conf, target, each.refusal)

    async def _delete_bridge(
        self, conf: Bridge, network: Conflist, target: Target, made: Result | None
    ) -> None:
        """The link first, then its addresses: they must not be somebody else's while it still has them.

        Deletion and wait have threads of their own: in a pool, waits could keep out the deletions waited for.
        """
        name = bridge.host_end(target.container_id, target.ifname)
        known = [ip.address.partition("/")[0] for ip in made.ips] if made else []
        failure: list[OSError] = []
        deletion: asyncio.Task[None] | None = None
        if await in_thread(bridge.present, name):
            await step("cni.bridge.unlink", target.container_id)
            deletion = self._tasks.start(f"delete link {name}", _unlink(name, failure))

        def rest() -> None:
            if deletion:
                bridge.await_gone(name, deletion.done)
            if not failure:
                host_local.release(conf.ipam, network.name, target.container_id, target.ifname, known)

        await in_own_thread(rest)
        if failure:
            raise failure[0]

    async def check(self, conflist: bytes, target: Target, result: bytes) -> None:
        """CHECK along the chain. Raises what the first plugin that is not content says."""
        network, steps = read(conflist)
        if network.disable_check or not network.at_least("0.4.0"):
            return
        made = cni_result.parse(result, network.version)
        ours = bridge.made_here(made, target)
        for each in steps:
            match each.program:
                case Bridge() as conf if ours:
                    await _own(bridge.check, conf, network.name, target, made)
                case Portmap() as conf if ours:
                    await in_thread(portmap.check, conf, network.name, target, made)
                case Loopback():
                    continue
                case _:
                    conf_ = cni_request.configuration(network, each.plugin, target, result)
                    await self._executed.call("CHECK", each.plugin.type, conf_, target, each.refusal)

    async def collect(self, conflist: bytes, valid: Sequence[tuple[str, str]]) -> None:
        """GC: let every plugin remove what belongs to no attachment of `valid`. Nothing else may be going
        on."""
        network, steps = read(conflist)
        if network.disable_gc:
            return
        alive = frozenset(valid)
        ids = frozenset(container_id for container_id, _ in valid)

        def is_alive(container_id: str, ifname: str) -> bool:
            return (container_id, ifname) in alive or (not ifname and container_id in ids)

        for each in steps:
            match each.program:
                case Bridge() as conf:
                    await in_thread(host_local.collect, conf.ipam, network.name, is_alive)
                case Portmap():
                    await in_thread(portmap.collect, network.name, is_alive)
        for each in self.programs(steps) if network.at_least("1.1.0") else ():
            request = cni_request.gc_configuration(network, each.plugin, valid)
            await self._executed.call("GC", each.plugin.type, request, None, each.refusal)


async def _unlink(name: str, failure: list[OSError]) -> None:
    """Delete a link. Ends when the kernel has freed the last of it, long after the link is out of sight."""
    try:
        await in_own_thread(lambda: bridge.unlink(name))
    except OSError as error:
        failure.append(error)


async def _own(work: Callable[..., None], *args: object) -> None:
    await in_own_thread(lambda: work(*args))


async def _told(what: str, work: Awaitable[T]) -> T:
    """The kernel's refusals, with the name of what was refused."""
    try:
        return await work
    except OSError as error:
        raise Unavailable(f"{what}: {error}") from error


def _parse(result: bytes, network: Conflist) -> Result | None:
    try:
        return cni_result.parse(result, network.version) if result else None
    except Invalid:
        return None  # a damaged record: undo as if the ADD had not come back
