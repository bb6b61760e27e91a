"""The use cases, wired to fakes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from sampan.api import cri_pb2 as cri
from sampan.config import Config, load
from sampan.model.image import Image, ImageConfig
from sampan.runtime.containers import Containers, Parts
from sampan.runtime.exec import Exec
from sampan.runtime.exits import Exits
from sampan.runtime.image_ports import Registry
from sampan.runtime.images import Images, Supply
from sampan.runtime.limits import Resources
from sampan.runtime.machine import Machine
from sampan.runtime.pod_init import PodInit
from sampan.runtime.pods import Pods
from sampan.runtime.recovery import Recovery
from sampan.runtime.state import State
from sampan.runtime.stats import Stats
from sampan.runtime.stops import Stops
from sampan.tasks import Tasks
from tests.fake_layers import FakeLayers
from tests.fakes import FakeJournal, World, machine

IMAGE = Image(
    id="sha256:" + "1" * 64,
    config=ImageConfig(cmd=("sh",)),
    layers=("sha256:" + "2" * 64,),
    tags=("docker.io/library/box:latest",),
)


@dataclass
class System:
    config: Config
    world: World
    journal: FakeJournal
    state: State
    machine: Machine
    pods: Pods
    containers: Containers
    exits: Exits
    stops: Stops
    exec: Exec
    stats: Stats
    recovery: Recovery
    tasks: Tasks
    images: Images
    resources: Resources

    async def pod(self, name: str = "web", **more: Any) -> str:
        return await self.pods.run(pod_config(name, **more), "")

    async def container(self, pod_id: str, name: str = "app", **more: Any) -> str:
        return await self.containers.create(pod_id, container_config(name, **more))

    async def started(self, pod_id: str, name: str = "app", **more: Any) -> str:
        id = await self.container(pod_id, name, **more)
        await self.containers.start(id)
        return id


def wire(
    world: World | None = None, journal: FakeJournal | None = None, registry: Registry | None = None
) -> System:
    """A fresh daemon over a world and a journal, which may be another daemon's."""
    world, journal = world or World(), journal or FakeJournal()
    config = load(None, {"root": "/tmp/sampan-root", "state": "/tmp/sampan-state"})
    state, tasks, host = State(journal), Tasks(), machine(world)
    state.adopt([IMAGE, *journal.rows.values()])
    supply = Supply(
        cast(Any, registry), cast(Any, None), "x86_64"
    )  # without a registry it only finds and removes
    images = Images(state, FakeLayers(), supply, tasks)
    exits = Exits(config, state, host, tasks)
    init = PodInit(config, state, host, tasks)
    stops = Stops(config, state, host, exits)
    containers = Containers(Parts(config, state, host, images, exits, stops, init, tasks))
    pods = Pods(config, state, host, containers, init, tasks)
    recovery = Recovery(state, host, pods, containers, (exits, init), tasks)
    return System(
        config, world, journal, state, host, pods, containers, exits, stops,
        Exec(config, state, host, tasks), Stats(state, host), recovery, tasks, images,
        Resources(config, state, host, containers.locks),
    )  # fmt: skip


def pod_config(
    name: str = "web", *, pid: "cri.NamespaceMode.ValueType" = cri.CONTAINER, **more: Any
) -> cri.PodSandboxConfig:
    config = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        log_directory="/var/log/pods/" + name,
        linux=cri.LinuxPodSandboxConfig(
            cgroup_parent="/tests",
            security_context=cri.LinuxSandboxSecurityContext(namespace_options=cri.NamespaceOption(pid=pid)),
        ),
    )
    config.MergeFrom(cri.PodSandboxConfig(**more))
    return config


def container_config(
    name: str = "app", *, pid: "cri.NamespaceMode.ValueType" = cri.CONTAINER, **more: Any
) -> cri.ContainerConfig:
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name),
        image=cri.ImageSpec(image="box"),
        log_path=f"{name}.log",
        linux=cri.LinuxContainerConfig(
            security_context=cri.LinuxContainerSecurityContext(namespace_options=cri.NamespaceOption(pid=pid))
        ),
    )
    config.MergeFrom(cri.ContainerConfig(**more))
    return config


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks run until the condition holds."""
    for turn in range(3000):
        if condition():
            return
        await asyncio.sleep(0 if turn < 1000 else 0.005)
    raise AssertionError("it never came to be")
