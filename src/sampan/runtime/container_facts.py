"""Gathers what the spec of a container is a function of: its root, its user, the host paths it names, what it joins."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.config import Config
from sampan.model import container as transitions
from sampan.model import ids
from sampan.model.container import Container, ContainerState
from sampan.model.errors import WrongState
from sampan.model.image import Image
from sampan.model.pod import Pod
from sampan.model.process import ProcessRef
from sampan.runtime import device_facts
from sampan.runtime.machine import Machine
from sampan.runtime.pod_init import PodInit, pod_facts, users
from sampan.runtime.seccomp_filters import SeccompFilters
from sampan.runtime.state import State
from sampan.runtime.volumes import VolumeWork
from sampan.spec import devices, mounts, namespaces, security, selinux
from sampan.spec.facts import ContainerFacts
from sampan.tasks import bounded
from sampan.wire import passwd

LOOK_SECONDS = 30.0  # for a look at the host paths a request names, which may lie on a dead file system
USER_FILES = ("passwd", "group")


class Gathering:
    """Makes the root of a container and looks at everything else."""

    def __init__(
        self, config: Config, state: State, machine: Machine, init: PodInit, filters: SeccompFilters
    ) -> None:
        self._config = config
        self._state = state
        self._machine = machine
        self._init = init
        self._filters = filters
        self._volumes = VolumeWork(config, state, machine)

    @asynccontextmanager
    async def facts(self, pod: Pod, container: Container, image: Image) -> AsyncIterator[ContainerFacts]:
        """The facts; the namespaces in them stay what they are while the block runs."""
        async with self._joined_pids(pod, container) as pid_namespace:
            yield await self._gather(pod, container, image, pid_namespace)

    async def _gather(
        self, pod: Pod, container: Container, image: Image, pid_namespace: str
    ) -> ContainerFacts:
        config = container.config
        context = config.linux.security_context
        owners = users(pod, self._config.paths)
        shared = pod_facts(pod, self._config.paths, pid_namespace)
        host = self._machine.host_of(container.handler)
        label = selinux.of_container(context, shared).mount if host.selinux else ""
        root = await self._machine.rootfs.prepare(container.id, image.layers, owners, label)
        databases = [
            await self._machine.rootfs.read(root, f"/etc/{name}", passwd.LIMIT) for name in USER_FILES
        ]
        made = await self._volumes.make(container, image, root, owners, label)
        looked = await self._look(config)
        facts = ContainerFacts(
            id=container.id,
            config=config,
            image=image.config,
            pod=shared,
            host=host,
            base_spec=self._machine.handlers.of(container.handler).base_spec,
            user=passwd.resolve(image.config.user, context, *databases),
            rootfs=str(root),
            cgroups_path=container.cgroup,
            target_pid_namespace=pid_namespace,
            sources=looked[0],
            image_mounts=made.image_mounts,
            volumes=made.volumes,
            device_nodes=looked[1],
            seccomp_localhost=looked[2],
            apparmor_profiles=await self._apparmor_profiles(context),
            seccomp_programs=self._filters.of(self._config.handlers[container.handler]),
            device_ownership=self._config.runtime.device_ownership_from_security_context,
        )
        await self._volumes.fit(facts, owners)
        async with bounded(LOOK_SECONDS, "looking at the devices and I/O classes that are asked for"):
            return await device_facts.added(facts, self._machine)

    async def _apparmor_profiles(self, context: cri.LinuxContainerSecurityContext) -> frozenset[str]:
        """Read for each container, so that a profile counts as soon as it is loaded."""
        if not security.looks_for_apparmor(context, self._machine.host):
            return frozenset()
        return await self._machine.facts.apparmor_profiles()

    async def _look(self, config: cri.ContainerConfig) -> tuple[Any, Any, bytes]:
        """What the host paths in the request really are."""
        facts = self._machine.facts
        sources, nodes = mounts.host_paths(config), devices.host_paths(config)
        profile = security.localhost_profile(config)
        what = f"looking at the host paths {', '.join([*sources, *nodes][:5])}"
        async with bounded(LOOK_SECONDS, what):
            return (
                await facts.sources(sources) if sources else {},
                await facts.device_nodes(nodes) if nodes else {},
                await self._machine.bundles.read_profile(profile) if profile else b"",
            )

    @asynccontextmanager
    async def _joined_pids(self, pod: Pod, container: Container) -> AsyncIterator[str]:
        """The PID namespace that the container joins, held while it is created; "" if it joins none."""
        options = container.config.linux.security_context.namespace_options
        if options.pid == cri.TARGET:
            owner = self._target(pod, options)
        elif namespaces.shares_pid(options, pod.config.linux.security_context.namespace_options):
            owner = await self._init.process(pod)
        else:
            yield ""
            return
        async with self._machine.facts.pid_namespace(owner) as path:
            yield path

    def _target(self, pod: Pod, options: cri.NamespaceOption) -> ProcessRef:
        """The first process of the running container of this pod that `target_id` names."""
        target = ids.resolve("container", self._state.containers, options.target_id)
        if target.pod_id != pod.id:
            raise WrongState(f"target container {target.id} is in another pod than {pod.id}")
        transitions.require(target, "share the PID namespace of", ContainerState.RUNNING)
        assert target.init is not None
        return target.init
