"""The ports in memory, for tests of the use cases.

One `World` holds what exists; every fake method takes its effect first and then meets its fault, because a real call
that fails has often done half of its work. `tests/contracts/` holds the fakes to what the real ports do.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan.config import Handler
from sampan.model.errors import Invalid, NotFound, ToolFailed, Unavailable
from sampan.model.oom import OomKill
from sampan.model.process import ProcessRef
from sampan.runtime.handler_ports import HandlerStatus, Trouble
from sampan.runtime.image_ports import Filesystem, IdMapped, Usage
from sampan.runtime.machine import Machine
from sampan.runtime.ports import (
    Attached,
    Attachment,
    CgroupDetails,
    CgroupUsage,
    ExecResult,
    Exit,
    Launch,
    Launched,
    NetworkDetails,
    NetworkStatus,
    SandboxPlan,
)
from sampan.runtime.state import Record
from sampan.spec.facts import DeviceNode, Host, Source
from sampan.wire import cni_template
from sampan.wire.cgroup_stats import Details
from sampan.wire.cgroupfs import Limits
from sampan.wire.net_dev import Interface
from sampan.wire.oci_features import Features
from tests.fake_devices import FakeCdi, FakeIoClasses
from tests.fake_limits import FakeReadBack, FakeUpdates, Groups
from tests.fake_streams import FakeAttachments, FakeCommands, FakeDialer
from tests.fake_volumes import FakeVolumes

ABLE = HandlerStatus(
    "crun",
    "/usr/bin/crun",
    Features(
        name="crun",
        version=(1, 28),
        told=True,
        seccomp=True,
        apparmor=True,
        selinux=True,
        recursive_read_only=True,
        idmapped_mounts=True,
        user_namespaces=True,
    ),
)


@dataclass
class Process:
    """A container under a monitor."""

    launched: Launched
    running: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    exit: Exit | None = None
    signals: list[int] = field(default_factory=list)


@dataclass
class World:
    """Everything the fakes have made, and what is to go wrong."""

    sandboxes: dict[str, SandboxPlan] = field(default_factory=dict)
    attachments: dict[str, Attachment] = field(default_factory=dict)
    cgroups: set[str] = field(default_factory=set)
    our_cgroups: set[str] = field(default_factory=set)  # marked, as the real ones are
    roots: set[str] = field(default_factory=set)
    users: dict[str, IdMapped | None] = field(default_factory=dict)  # whose files each root ever made holds
    labels: dict[str, str] = field(default_factory=dict)  # the SELinux label of each
    shown: set[str] = field(default_factory=set)  # containers that images are shown to
    bundles: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    lost_sessions: dict[str, int] = field(
        default_factory=dict
    )  # by container: commands of a daemon that died
    logs: set[Path] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    devices: dict[str, tuple[DeviceNode, ...]] = field(default_factory=dict)
    apparmor_profiles: set[str] = field(default_factory=set)
    interfaces: tuple[Interface, ...] = ()  # of every pod with a network of its own
    seconds: int = 0  # between readings of control groups, a quarter of which each group uses the CPU
    groups: Groups = field(default_factory=Groups)
    host: Host = field(default_factory=lambda: Host(capabilities=("CAP_CHOWN", "CAP_KILL")))
    network_ready: bool = True
    handlers: dict[str, HandlerStatus] = field(default_factory=lambda: {"crun": ABLE})
    trouble: Trouble | None = None
    ignores_term: bool = False
    calls: list[str] = field(default_factory=list)
    failing: dict[str, BaseException] = field(default_factory=dict)
    hanging: dict[str, asyncio.Event] = field(default_factory=dict)
    next_pid: int = 1000

    async def did(self, call: str) -> None:
        """The effect of `call` has taken place; now its fault, once."""
        self.calls.append(call)
        if call in self.hanging:
            await self.hanging.pop(call).wait()
        if call in self.failing:
            raise self.failing.pop(call)

    def fail(self, call: str, error: BaseException | None = None) -> None:
        self.failing[call] = error or ToolFailed([call], 1, "injected")

    def hang(self, call: str) -> asyncio.Event:
        """Let the next `call` wait; set the event that is returned to let it go on."""
        return self.hanging.setdefault(call, asyncio.Event())

    def census(self) -> dict[str, list[str]]:
        """What is there, by kind; empty kinds left out."""
        kinds: dict[str, Iterable[str]] = {
            "sandboxes": self.sandboxes,
            "attachments": self.attachments,
            "cgroups": self.cgroups,
            "roots": self.roots,
            "shown": self.shown,
            "bundles": self.bundles,
            "processes": self.processes,
        }
        return {name: sorted(items) for name, items in kinds.items() if items}

    def end(
        self, id: str, code: int, *, oom: bool = False, lost: bool = False, kill: OomKill | None = None
    ) -> None:
        """The container's process ends by itself."""
        process = self.processes[id]
        if process.exit is None:
            process.exit = Exit(code, at=1_700_000_000_000_000_000, oom=oom, lost=lost, kill=kill)
            process.ended.set()


class FakeOci(FakeUpdates):
    def __init__(self, world: World) -> None:
        self._world: World = world

    async def create(self, launch: Launch) -> Launched:
        if launch.id in self._world.processes:
            raise ToolFailed(["crun", "create", launch.id], 1, "container already exists")
        self._world.next_pid += 2
        pid = self._world.next_pid
        launched = Launched(init=ProcessRef(pid, 1), monitor=ProcessRef(pid + 1, 1))
        self._world.processes[launch.id] = Process(launched)
        await self._world.did("oci.create")
        return launched

    async def start(self, handler: Handler, id: str) -> None:
        self._world.processes[id].running = True
        await self._world.did("oci.start")

    async def compiled_filter(self, handler: Handler, id: str) -> bytes:
        self._world.calls.append("oci.compiled_filter")
        return b"filter"

    async def running(self, handler: Handler, id: str) -> bool:
        process = self._world.processes.get(id)
        return process is not None and process.running

    async def signal(self, process: ProcessRef, number: int) -> bool:
        for id, known in self._world.processes.items():
            if known.launched.init == process and known.exit is None:
                known.signals.append(number)
                if number == 9 or not self._world.ignores_term:
                    self._world.end(id, 128 + number)
                await self._world.did("oci.signal")
                return True
        return False

    async def kill_all(self, handler: Handler, id: str) -> None:
        if id in self._world.processes:
            self._world.end(id, 137)
        await self._world.did("oci.kill_all")

    async def wait(self, id: str, launched: Launched) -> Exit:
        process = self._world.processes.get(id)
        if process is None or process.launched != launched:
            return Exit(255, at=1_700_000_000_000_000_000, lost=True)
        await process.ended.wait()
        assert process.exit is not None
        return process.exit

    async def delete(self, handler: Handler, id: str) -> None:
        if id in self._world.processes:
            self._world.end(id, 137)
            del self._world.processes[id]
        await self._world.did("oci.delete")

    async def exec_sync(
        self, handler: Handler, id: str, process: Mapping[str, Any], seconds: float
    ) -> ExecResult:
        await self._world.did("oci.exec_sync")
        return ExecResult(0, " ".join(process["args"]).encode(), b"")

    async def end_sessions(self, handler: Handler, id: str) -> int:
        await self._world.did("oci.end_sessions")
        return self._world.lost_sessions.pop(id, 0)

    async def reopen_log(self, id: str, log: Path) -> None:
        await self._world.did("oci.reopen_log")


class FakeBundles:
    def __init__(self, world: World) -> None:
        self._world = world

    async def write(self, id: str, spec: Mapping[str, Any]) -> Path:
        self._world.bundles[id] = spec
        await self._world.did("bundles.write")
        return Path("/bundles") / id

    async def rewrite(self, id: str, spec: Mapping[str, Any]) -> None:
        if id not in self._world.bundles:
            raise NotFound(f"the bundle of container {id} is gone")
        self._world.bundles[id] = spec
        await self._world.did("bundles.rewrite")

    async def read(self, id: str) -> dict[str, Any] | None:
        spec = self._world.bundles.get(id)
        return dict(spec) if spec is not None else None

    async def process(self, id: str) -> dict[str, Any] | None:
        spec = self._world.bundles.get(id)
        return dict(spec["process"]) if spec is not None else None

    async def remove(self, id: str) -> None:
        self._world.bundles.pop(id, None)
        await self._world.did("bundles.remove")

    async def make_log(self, directory: str, path: str) -> Path:
        self._world.logs.add(Path(path))
        await self._world.did("bundles.make_log")
        return Path(path)

    async def make_log_directory(self, directory: str) -> None:
        await self._world.did("bundles.make_log_directory")

    async def read_profile(self, path: str) -> bytes:
        if path not in self._world.files:
            raise Invalid(f"cannot read the seccomp profile {path}: No such file or directory")
        return self._world.files[path]


class FakeFacts:
    def __init__(self, world: World) -> None:
        self._world = world

    async def sources(self, paths: Iterable[str]) -> dict[str, Source]:
        await self._world.did("facts.sources")
        return {path: self._world.sources[path] for path in paths if path in self._world.sources}

    async def device_nodes(self, paths: Iterable[str]) -> dict[str, tuple[DeviceNode, ...]]:
        return {path: self._world.devices[path] for path in paths if path in self._world.devices}

    async def all_devices(self) -> tuple[DeviceNode, ...]:
        return tuple(node for nodes in self._world.devices.values() for node in nodes)

    @asynccontextmanager
    async def pid_namespace(self, process: ProcessRef) -> AsyncIterator[str]:
        yield f"/proc/{process.pid}/ns/pid"

    async def host_file(self, path: str) -> bytes:
        return self._world.files.get(path, b"")

    async def apparmor_profiles(self) -> frozenset[str]:
        self._world.calls.append("facts.apparmor_profiles")
        return frozenset(self._world.apparmor_profiles)


class FakeSandboxes:
    def __init__(self, world: World) -> None:
        self._world = world

    async def create(self, plan: SandboxPlan) -> None:
        self._world.sandboxes[plan.id] = plan
        await self._world.did("sandboxes.create")

    async def remove(self, id: str) -> None:
        self._world.sandboxes.pop(id, None)
        await self._world.did("sandboxes.remove")

    async def present(self, id: str, namespaces: frozenset[str]) -> bool:
        plan = self._world.sandboxes.get(id)
        return not namespaces or (plan is not None and namespaces <= plan.namespaces)

    async def interfaces(self, ids: Sequence[str]) -> list[tuple[Interface, ...] | None]:
        await self._world.did("sandboxes.interfaces")
        plans = [self._world.sandboxes.get(id) for id in ids]
        return [self._world.interfaces if plan and "net" in plan.namespaces else None for plan in plans]


class FakeCgroups(FakeReadBack):
    def __init__(self, world: World) -> None:
        self._world: World = world

    async def make_parent(self, parent: str) -> bool:
        made = parent not in self._world.cgroups
        self._world.cgroups.add(parent)
        if made:
            self._world.our_cgroups.add(parent)
        await self._world.did("cgroups.make_parent")
        return made

    async def expect_move(self) -> None:
        pass

    async def remove_parent(self, parent: str) -> None:
        if parent in self._world.our_cgroups:
            self._world.our_cgroups.discard(parent)
            self._world.cgroups.discard(parent)
        await self._world.did("cgroups.remove_parent")

    async def usage_many(self, groups: Sequence[tuple[str, str]]) -> list[CgroupUsage | None]:
        await self._world.did("cgroups.usage_many")
        self._world.seconds += 1
        usage = CgroupUsage(
            at=(1_700_000_000 + self._world.seconds) * 1_000_000_000,
            cpu_ns=self._world.seconds * 250_000_000,
            memory_usage=7,
            memory_working_set=self._world.groups.used,
            processes=1,
        )
        return [usage if self._there(parent, id) else None for parent, id in groups]

    async def details_many(self, groups: Sequence[tuple[str, str, int]]) -> list[CgroupDetails | None]:
        await self._world.did("cgroups.details_many")
        details = CgroupDetails(
            at=1_700_000_000_000_000_000, stats=Details(cpu_user_ns=5), limits=Limits(), processes=1
        )
        return [details if self._there(parent, id) else None for parent, id, _ in groups]

    def _there(self, parent: str, id: str) -> bool:
        return id in self._world.processes if id else parent in self._world.cgroups

    def container_path(self, parent: str, id: str) -> str:
        return f"{parent}/{id}"


class FakeNetwork:
    def __init__(self, world: World) -> None:
        self._world = world

    async def load(self) -> bytes:
        if not self._world.network_ready:
            raise Unavailable("no network configuration in /nowhere")
        return b'{"name":"fake"}'

    async def attach(self, attachment: Attachment) -> Attached:
        self._world.attachments[attachment.pod_id] = attachment
        await self._world.did("network.attach")
        return Attached(("10.1.0.2", "fd00::2"), b"{}")

    async def detach(self, attachment: Attachment) -> None:
        self._world.attachments.pop(attachment.pod_id, None)
        await self._world.did("network.detach")

    async def details(self) -> NetworkDetails:
        where = ("/nowhere", ("/nobin",))
        if self._world.network_ready:
            plugins = b'{"cniVersion": "1.0.0", "name": "fake", "plugins": [{"type": "bridge"}]}'
            return NetworkDetails(plugins, "10-fake.conflist", *where)
        return NetworkDetails(b"", "", *where, "no network configuration in /nowhere")

    async def pod_cidrs(self, cidrs: Sequence[str]) -> None:
        cni_template.values(cidrs)
        self._world.calls.append(f"network.pod_cidrs {','.join(cidrs)}")

    async def status(self) -> NetworkStatus:
        if self._world.network_ready:
            return NetworkStatus(True)
        return NetworkStatus(False, "NetworkPluginNotReady", "no network configuration in /nowhere")


class FakeHandlers:
    """What is in `World.handlers` can be used, as far as it has no problem."""

    def __init__(self, world: World) -> None:
        self._world = world

    def of(self, name: str) -> HandlerStatus:
        known = self._world.handlers
        return known.get(name) or HandlerStatus(name, problem=f"no runtime handler {name!r} is configured")

    async def require(self, name: str) -> HandlerStatus:
        found = self.of(name)
        if found.problem:
            raise Unavailable(f"runtime handler {name} cannot be used: {found.problem}")
        return found

    def trouble(self) -> Trouble | None:
        return self._world.trouble


class FakeRootfs:
    def __init__(self, world: World) -> None:
        self._world = world

    async def prepare(
        self, id: str, layers: Sequence[str], users: IdMapped | None = None, label: str = ""
    ) -> Path:
        self._world.roots.add(id)
        self._world.labels[id] = label
        self._world.users[id] = users
        await self._world.did("rootfs.prepare")
        return Path("/roots") / id

    async def remove(self, id: str) -> None:
        self._world.roots.discard(id)
        await self._world.did("rootfs.remove")

    async def usage(self, id: str) -> Usage:
        await self._world.did("rootfs.usage")
        return Usage(4096, 1)

    async def filesystem(self) -> Filesystem:
        return Filesystem("/dev/fake", 1 << 30, 1000, 900)

    async def read(self, root: Path, path: str, limit: int) -> bytes | None:
        return self._world.files.get(path)


class FakeJournal:
    """Durable rows. A write that fails has written nothing."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Record] = {}
        self.failing: list[BaseException] = []

    async def write(self, changes: Iterable[tuple[str, str, Record | None]]) -> None:
        await asyncio.sleep(0)
        if self.failing:
            raise self.failing.pop(0)
        for kind, id, record in changes:
            if record is None:
                self.rows.pop((kind, id), None)
            else:
                self.rows[(kind, id)] = record


def machine(world: World) -> Machine:
    """A machine of fakes."""
    return Machine(
        oci=FakeOci(world),
        sandboxes=FakeSandboxes(world),
        cgroups=FakeCgroups(world),
        network=FakeNetwork(world),
        rootfs=FakeRootfs(world),
        volumes=FakeVolumes(world.shown, world.did),
        bundles=FakeBundles(world),
        facts=FakeFacts(world),
        handlers=FakeHandlers(world),
        cdi=FakeCdi(),
        io_classes=FakeIoClasses(),
        commands=FakeCommands(),
        attachments=FakeAttachments(),
        dialer=FakeDialer(),
        host=world.host,
        node="node-1",
    )
