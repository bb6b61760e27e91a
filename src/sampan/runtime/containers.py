"""Containers: create, start, remove. How they stop is `runtime.stops`, how they end `runtime.exits`."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.config import Config
from sampan.model import container as transitions
from sampan.model import ids, signals
from sampan.model.container import Container, ContainerState
from sampan.model.errors import AlreadyExists, NotFound, SampanError, WrongState
from sampan.model.image import Image
from sampan.model.pod import Pod, PodState
from sampan.runtime import artifacts
from sampan.runtime.container_facts import Gathering
from sampan.runtime.exits import Exits
from sampan.runtime.images import Images
from sampan.runtime.limits import LimitChecks
from sampan.runtime.machine import Machine
from sampan.runtime.pod_init import PodInit
from sampan.runtime.ports import Launch, Launched
from sampan.runtime.seccomp_filters import SeccompFilters
from sampan.runtime.state import Gone, State, now
from sampan.runtime.stops import Stops
from sampan.runtime.volumes import images_of
from sampan.spec import container as container_spec
from sampan.spec import validate
from sampan.tasks import Joined, Tasks, finish, step

log = logging.getLogger("sampan.containers")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the verbs of a container work with."""

    config: Config
    state: State
    machine: Machine
    images: Images
    exits: Exits
    stops: Stops
    init: PodInit
    tasks: Tasks


class Containers:
    """The verbs of a container. A create belongs to the operation, not to its caller: a retry joins it."""

    def __init__(self, parts: Parts) -> None:
        self._config = parts.config
        self._state = parts.state
        self._machine = parts.machine
        self._images = parts.images
        self._exits = parts.exits
        self._stops = parts.stops
        self._tasks = parts.tasks
        self._filters = SeccompFilters(parts.machine.oci)
        self._gathering = Gathering(parts.config, parts.state, parts.machine, parts.init, self._filters)
        self._joined = Joined()
        # by id: starting it, giving it other limits, removing what those look at, choosing how to stop it
        self.locks = parts.stops.locks
        self._limits = LimitChecks(parts.state, parts.machine)

    # --- create ---------------------------------------------------------------------------------------------

    async def create(self, pod_id: str, config: cri.ContainerConfig) -> str:
        """Make a container, not started; returns its id. Raises NotFound (pod, image), WrongState (pod not ready),
        Invalid, AlreadyExists (name and attempt taken by another config), SignatureValidationFailed,
        ImageVolumeMountFailed, ToolFailed (the OCI runtime's words)."""
        pod = self._ready(pod_id)
        await self._machine.handlers.require(pod.handler)
        pod = self._ready(pod.id)  # a look at the handler takes its time
        validate.check_container(config, pod.config, self._machine.host_of(pod.handler))
        image = self._images.find(config.image.image)
        if image is None:
            raise NotFound(f"image {config.image.image!r} is not on this node; pull it first")
        artifacts.check_runnable(image, config.image.image)
        container = self._plan(pod, config, image, images_of(config, self._images))
        same = next((other for other in self._state.containers.values() if other.key == container.key), None)
        if self._joined.running(container.key):
            if self._joined.request(container.key) != config:
                name = config.metadata.name
                raise AlreadyExists(f"container {name!r} is being made with another configuration")
        elif same is not None and same.visible:
            return _retried(same, config)
        else:
            for used in (image.id, *container.volume_images):
                self._images.hold(used)  # already now: RemoveImage may come before the intent is on record
        return await self._joined.run(container.key, self._create(pod, container, image, same), config)

    def _ready(self, pod_id: str) -> Pod:
        pod = ids.resolve("pod", self._state.pods, pod_id)
        if pod.state is not PodState.READY:
            raise WrongState(f"pod {pod.id} is not ready: {pod.broken_reason or 'it was stopped'}")
        return pod

    def _plan(
        self, pod: Pod, config: cri.ContainerConfig, image: Image, volume_images: tuple[str, ...]
    ) -> Container:
        id = ids.new_id()
        return Container(
            id=id,
            pod_id=pod.id,
            config=config,
            handler=pod.handler,
            image_id=image.id,
            volume_images=volume_images,
            created_at=now(),
            cgroup=self._machine.cgroups.container_path(pod.cgroup_parent, id),
            log_path=validate.log_path(config, pod.config),
            stop_signal=signals.number(config.stop_signal, image.config.stop_signal),
        )

    async def _create(self, pod: Pod, container: Container, image: Image, leftover: Container | None) -> str:
        try:
            if leftover is not None:  # of a create that failed, and whose undoing failed too
                await self._teardown(leftover)
            return await self._create_anew(pod, container, image)
        finally:
            for used in (image.id, *container.volume_images):
                self._images.release(used)

    async def _create_anew(self, pod: Pod, container: Container, image: Image) -> str:
        await step("container.intent", container.id)
        images = [self._state.images.get(id) for id in (image.id, *container.volume_images)]
        await self._images.trust.may_run(container.config, images[0], images[1:])
        self._ready(pod.id)  # what stops the pod waits for a container that is on record, not for this
        await self._state.commit(container)
        try:
            if image.id not in self._state.images:  # its removal was under way before we held it
                raise NotFound(f"image {image.id} was removed just now; pull it again")
            await self._images.require(image.id, *container.volume_images)
            container = await self._make(pod, container, image)
            current = self._state.pods.get(pod.id)
            if current is None or current.state is not PodState.READY:
                raise WrongState(f"pod {pod.id} was stopped while container {container.id} was being created")
            await step("container.created", container.id)
            await self._state.commit(container)
        except BaseException:
            await finish(self._teardown(container))
            raise
        self._exits.watch(container)
        return container.id

    async def _make(self, pod: Pod, container: Container, image: Image) -> Container:
        self._tasks.start("expect a move", self._machine.cgroups.expect_move())
        async with self._gathering.facts(pod, container, image) as facts:
            launched = await self._launch(pod, container, container_spec.build(facts))
        made = transitions.created(container, launched.init, launched.monitor, facts.user)
        return await self._limits.created(made, pod.cgroup_parent)

    async def _launch(self, pod: Pod, container: Container, spec: dict[str, Any]) -> Launched:
        handler = self._config.handlers[container.handler]
        launch = Launch(
            id=container.id,
            bundle=await self._machine.bundles.write(container.id, spec),
            handler=handler,
            log=await self._log(pod, container),
            terminal=container.config.tty,
            stdin=container.config.stdin,
            stdin_once=container.config.stdin_once,
            own_users="uidMappings" in spec["linux"],
        )
        await step("container.launch", container.id)
        launched = await self._machine.oci.create(launch)
        await self._filters.learn(handler, container.id, spec)
        return launched

    async def _log(self, pod: Pod, container: Container) -> Path | None:
        if not container.log_path:
            return None
        return await self._machine.bundles.make_log(pod.config.log_directory, container.log_path)

    # --- start ------------------------------------------------------------------------------------------------

    async def start(self, id: str) -> None:
        """Let a created container run. Raises NotFound, WrongState, or ToolFailed, after which it is EXITED with
        128 and StartError, so that its status says why."""
        container = ids.resolve("container", self._state.containers, id)
        await finish(self._start(container.id))

    async def _start(self, id: str) -> None:
        async with self.locks(id):
            container = ids.resolve("container", self._state.containers, id)
            transitions.require(container, "start", ContainerState.CREATED)
            pod = self._state.pods[container.pod_id]
            if pod.state is not PodState.READY:
                raise WrongState(f"cannot start container {id}: its pod {pod.id} is not ready")
            await step("container.start", id)
            began = now()  # before, not after: it may have ended by the time that start returns
            try:
                await self._machine.oci.start(self._config.handlers[container.handler], id)
            except SampanError as error:
                why = str(error)
                await self._state.update_container(
                    id, lambda now_: transitions.start_failed(now_, now(), why)
                )
                await self._stops.kill(container)
                raise
            await step("container.started", id)
            await self._state.update_container(id, lambda now_: transitions.started(now_, began))

    # --- stop and remove --------------------------------------------------------------------------------------

    async def stop(self, id: str, seconds: int) -> None:
        """Ask it to end, kill it after `seconds` (0 or less: at once). Gone or ended is fine."""
        container = ids.find("container", self._state.containers, id)
        if container is not None and container.init is not None:
            await self._stops.stop(container, seconds)

    async def stop_all(self, pod_id: str) -> None:
        """Kill every container of a pod that is being stopped; creates in flight end first (they see the pod go)."""
        for container in self._state.containers_of(pod_id):
            await self._joined.wait(container.key)
        live = [container for container in self._state.containers_of(pod_id) if container.init is not None]
        await asyncio.gather(*(self._stops.stop(container, 0) for container in live))
        for container in live:
            await self._exits.freed(container.id)

    async def remove(self, id: str) -> None:
        """Kill it if it runs, and forget it. Unknown is fine; a second caller joins the first. Logs stay."""
        container = ids.find("container", self._state.containers, id)
        if container is not None:
            await self._joined.wait(container.key)
            await self._joined.run(("remove", container.id), self._remove(container))

    async def _remove(self, container: Container) -> None:
        if container.id not in self._state.containers:
            return
        if container.init is not None:
            await self._stops.stop(container, 0)
        await self._teardown(container)

    async def _teardown(self, container: Container) -> None:
        """The one clean-up of a container, for a failed create, a remove and a boot. Idempotent."""
        await step("container.teardown", container.id)
        await self._exits.freed(container.id)
        await self._machine.oci.delete(self._config.handlers[container.handler], container.id)
        if container.volume_images:
            await self._machine.volumes.remove(container.id)
        await self._machine.rootfs.remove(container.id)
        async with self.locks(container.id):  # an update under way must not find half of it
            await self._machine.bundles.remove(container.id)
        await step("container.forget", container.id)
        await self._state.commit(Gone("container", container.id))

    async def teardown_leftover(self, id: str) -> None:
        """At boot: a container whose create was never acknowledged."""
        await self._teardown(self._state.containers[id])

    def removing(self, id: str) -> bool:
        """Whether it is being removed just now."""
        return self._joined.running(("remove", id))

    # --- the rest ---------------------------------------------------------------------------------------------

    async def reopen_log(self, id: str) -> None:
        """After the kubelet has renamed the log: a new file exists when this returns. Raises NotFound, WrongState."""
        container = ids.resolve("container", self._state.containers, id)
        transitions.require(container, "reopen the log of", ContainerState.RUNNING)
        if not container.log_path:
            raise WrongState(f"container {container.id} has no log")
        pod = self._state.pods[container.pod_id]
        await step("container.log.reopen", container.id)
        log_path = await self._machine.bundles.make_log(pod.config.log_directory, container.log_path)
        await self._machine.oci.reopen_log(container.id, log_path)

    async def adopt_started(self, container: Container) -> None:
        """At boot: a container recorded as created may have been started just before the daemon died."""
        if await self._machine.oci.running(self._config.handlers[container.handler], container.id):
            await self._state.update_container(container.id, lambda now_: transitions.started(now_, now()))

    async def end_sessions(self, container: Container) -> None:
        """At boot: what ran in it for clients of the daemon before this one, which have lost it, is killed."""
        ended = await self._machine.oci.end_sessions(self._config.handlers[container.handler], container.id)
        if ended:
            log.info("container %s: ended %d commands of clients that lost them", container.id, ended)

    async def settle(self) -> None:
        """Wait for the operations in flight (orderly stop of the daemon)."""
        await self._joined.settle()


def _retried(container: Container, config: cri.ContainerConfig) -> str:
    if container.config == config and container.state is ContainerState.CREATED:
        return container.id
    meta = config.metadata
    raise AlreadyExists(
        f"container {meta.name!r} (attempt {meta.attempt}) of pod {container.pod_id} exists as {container.id} "
        f"({container.state.value}); remove it or use another attempt number"
    )
