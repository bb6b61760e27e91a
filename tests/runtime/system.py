"""The use cases, wired to fakes."""

from dataclasses import dataclass

from sampan.api import cri_pb2 as cri
from sampan.config import Config, load
from sampan.model.image import Image, ImageConfig
from sampan.runtime.containers import Containers, Parts
from sampan.runtime.exec import Exec
from sampan.runtime.exits import Exits
from sampan.runtime.images import Images
from sampan.runtime.machine import Machine
from sampan.runtime.pod_init import PodInit
from sampan.runtime.pods import Pods
from sampan.runtime.recovery import Recovery
from sampan.runtime.state import State
from sampan.runtime.stats import Stats
from sampan.runtime.stops import Stops
from sampan.tasks import Tasks
from tests.fakes import FakeJournal, World, machine

IMAGE = Image(id="sha256:" + "1" * 64, config=ImageConfig(cmd=("sh",)), layers=("sha256:" + "2" * 64,), tags=("docker.io/library/box:latest",))


class KnownImages(Images):
    """Images without a store or a registry: what is in the state is what there is."""

    def __init__(self, state: State) -> None:
        self._known = state

    def find(self, ref: str) -> Image | None:
        images = self._known.images.values()
        return next((one for one in images if ref in (one.id, *one.tags, "box")), None)


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

    async def pod(self, name: str = "web", **more: object) -> str:
        return await self.pods.run(pod_config(name, **more), "")

    async def container(self, pod_id: str, name: str = "app", **more: object) -> str:
        return await self.containers.create(pod_id, container_config(name, **more))

    async def started(self, pod_id: str, name: str = "app", **more: object) -> str:
        id = await self.container(pod_id, name, **more)
        await self.containers.start(id)
        return id


def wire(world: World | None = None, journal: FakeJournal | None = None) -> System:
    """A fresh daemon over a world and a journal, which may be another daemon's."""
    world, journal = world or World(), journal or FakeJournal()
    config = load(None, {"root": "/tmp/sampan-root", "state": "/tmp/sampan-state"})
    state, tasks, host = State(journal), Tasks(), machine(world)
    state.adopt([IMAGE, *journal.rows.values()])
    exits = Exits(config, state, host, tasks)
    init = PodInit(config, state, host, tasks)
    stops = Stops(config, state, host, exits)
    containers = Containers(Parts(config, state, host, KnownImages(state), exits, stops, init))
    pods = Pods(config, state, host, containers, init)
    recovery = Recovery(state, host, pods, containers, (exits, init), tasks)
    return System(
        config, world, journal, state, host, pods, containers, exits, stops,
        Exec(config, state, host), Stats(state, host), recovery, tasks,
    )  # fmt: skip


def pod_config(name: str = "web", **more: object) -> cri.PodSandboxConfig:
    config = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        log_directory="/var/log/pods/" + name,
        linux=cri.LinuxPodSandboxConfig(
            cgroup_parent="/tests",
            security_context=cri.LinuxSandboxSecurityContext(namespace_options=cri.NamespaceOption(pid=cri.CONTAINER)),
        ),
    )
    config.MergeFrom(cri.PodSandboxConfig(**more))  # type: ignore[arg-type]  # fields as keywords
    return config


def container_config(name: str = "app", **more: object) -> cri.ContainerConfig:
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name),
        image=cri.ImageSpec(image="box"),
        log_path=f"{name}.log",
        linux=cri.LinuxContainerConfig(
            security_context=cri.LinuxContainerSecurityContext(namespace_options=cri.NamespaceOption(pid=cri.CONTAINER))
        ),
    )
    config.MergeFrom(cri.ContainerConfig(**more))  # type: ignore[arg-type]  # fields as keywords
    return config


def shared_pid() -> cri.LinuxContainerConfig:
    options = cri.NamespaceOption(pid=cri.POD)
    return cri.LinuxContainerConfig(security_context=cri.LinuxContainerSecurityContext(namespace_options=options))


