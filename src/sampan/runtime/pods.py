"""Pods: run, stop, remove, and the one idempotent teardown that a failed run, StopPodSandbox and a boot share.

Network namespaces are pinned, not held by a pause process. A pod whose containers share a PID namespace gets an init,
made when the first such container is created (`PodInit`).
"""

import asyncio
import logging
from collections.abc import Mapping

import msgspec

from sampan.api import cri_pb2 as cri
from sampan.config import Config
from sampan.model import ids
from sampan.model import pod as transitions
from sampan.model.errors import AlreadyExists, Invalid
from sampan.model.pod import Pod, PodState
from sampan.runtime.containers import Containers
from sampan.runtime.machine import Machine
from sampan.runtime.pod_init import PodInit, pod_facts
from sampan.runtime.ports import Attached, Attachment, PortMapping, SandboxPlan
from sampan.runtime.state import Gone, State, now
from sampan.spec import dns, namespaces, selinux, sysctls, userns, validate
from sampan.spec.hosts import hosts
from sampan.tasks import Joined, Tasks, both, bounded, finish, step

CNI_SECONDS = 90.0  # for the whole chain; each executed plugin has 60 of its own
UNDO_SECONDS = 5.0  # between attempts to undo a failed run
DEFAULT_PARENT = {"cgroupfs": "/sampan", "systemd": "sampan.slice"}
PROTOCOLS = {cri.TCP: "tcp", cri.UDP: "udp", cri.SCTP: "sctp"}

log = logging.getLogger("sampan.pods")


class Pods:
    """The verbs of a pod. Work belongs to the operation: a caller that goes away does not undo it, a retry joins it."""

    def __init__(
        self,
        config: Config,
        state: State,
        machine: Machine,
        containers: Containers,
        init: PodInit,
        tasks: Tasks,
    ) -> None:
        self._config = config
        self._state = state
        self._machine = machine
        self._containers = containers
        self._init = init
        self._tasks = tasks
        self._joined = Joined()

    # --- run ----------------------------------------------------------------------------------------------

    async def run(self, config: cri.PodSandboxConfig, handler: str) -> str:
        """Make a pod and return its id. The same name, uid, namespace and attempt again is a retry: it joins the run in
        flight, or gets the id of the ready pod. Raises Invalid, AlreadyExists, Unavailable (no network yet)."""
        handler = self._handler(handler)
        await self._machine.handlers.require(handler)
        validate.check_pod(config, self._machine.host_of(handler))
        pod = self._plan(config, handler)
        while self._joined.running(pod.key) and self._joined.request(pod.key) is None:
            await self._joined.wait(pod.key)  # what is left of an earlier run is being cleaned up
        same = next((other for other in self._state.pods.values() if other.key == pod.key), None)
        if self._joined.running(pod.key):
            if self._joined.request(pod.key) != config:
                raise AlreadyExists(f"pod {_name(config)} is being made with another configuration")
        elif same is not None and same.ready_at:
            return self._retried(same, config)
        return await self._joined.run(pod.key, self._run(pod, same), config)

    def _handler(self, name: str) -> str:
        name = name or self._config.runtime.default_handler
        if name not in self._config.handlers:
            known = ", ".join(sorted(self._config.handlers))
            raise Invalid(f"no runtime handler {name!r} is configured; known are: {known}")
        return name

    def _plan(self, config: cri.PodSandboxConfig, handler: str) -> Pod:
        driver = "systemd" if self._machine.host.systemd_cgroup else "cgroupfs"
        id = ids.new_id()
        return Pod(
            id=id,
            config=config,
            handler=handler,
            created_at=now(),
            hostname=validate.hostname(config, self._machine.node),
            namespaces=namespaces.owned(config.linux.security_context.namespace_options),
            cgroup_parent=config.linux.cgroup_parent or DEFAULT_PARENT[driver],
            selinux_level=self._selinux_level(id, config),
        )

    def _selinux_level(self, id: str, config: cri.PodSandboxConfig) -> str:
        """A level that no other pod has; it is free again when the record is gone."""
        if not self._machine.host.selinux or config.linux.security_context.selinux_options.level:
            return ""
        return selinux.level(id, {pod.selinux_level for pod in self._state.pods.values()})

    def _retried(self, pod: Pod, config: cri.PodSandboxConfig) -> str:
        if pod.state is PodState.READY and pod.config == config:
            return pod.id
        what = "with another configuration" if pod.state is PodState.READY else "no longer ready"
        raise AlreadyExists(
            f"pod {_name(config)} exists as {pod.id}, {what}; remove it or use another attempt number"
        )

    async def _run(self, pod: Pod, leftover: Pod | None) -> str:
        if leftover is not None:  # of a run that failed, and whose undoing failed too
            await self._undo(leftover.id)
        if "net" in pod.namespaces:
            pod = msgspec.structs.replace(pod, conflist=await self._machine.network.load())
        await step("pod.intent", pod.id)
        await self._state.commit(pod)
        try:
            attached = await self._make(pod)
            await step("pod.ready", pod.id)
            await self._state.update_pod(
                pod.id, lambda now_: transitions.ready(now_, now(), attached.ips, attached.result)
            )
        except BaseException:
            await finish(self._undo_or_later(pod.id))
            raise
        return pod.id

    async def _make(self, pod: Pod) -> Attached:
        plan = await self._sandbox_plan(pod)
        await both(self._machine.sandboxes.create(plan), self._make_places(pod))
        if not pod.conflist:
            return Attached((), b"")
        await step("pod.network", pod.id)
        async with bounded(CNI_SECONDS, f"attaching pod {pod.id} to the network (CNI ADD)"):
            return await self._machine.network.attach(self._attachment(pod))

    async def _make_places(self, pod: Pod) -> None:
        if pod.config.log_directory:
            await self._machine.bundles.make_log_directory(pod.config.log_directory)
        await step("pod.cgroup", pod.id)
        await self._machine.cgroups.make_parent(pod.cgroup_parent)

    async def _sandbox_plan(self, pod: Pod) -> SandboxPlan:
        host_file = self._machine.facts.host_file
        own_network = "net" in pod.namespaces
        files = {
            "hostname": pod.hostname.encode() + b"\n",
            "resolv.conf": dns.resolv_conf(pod.config.dns_config) or await host_file("/etc/resolv.conf"),
            "hosts": hosts(
                own_network=own_network, node=b"" if own_network else await host_file("/etc/hosts")
            ),
        }
        return SandboxPlan(
            id=pod.id,
            namespaces=pod.namespaces,
            hostname=pod.hostname,
            sysctls=sysctls.resolved(pod.config),
            files=files,
            shm_size=(64 << 20) if "ipc" in pod.namespaces else 0,
            userns=userns.mappings(pod.config.linux.security_context.namespace_options),
            label=self._mount_label(pod),
        )

    def _mount_label(self, pod: Pod) -> str:
        """Of what all containers of the pod share."""
        if not self._machine.host_of(pod.handler).selinux:
            return ""
        return selinux.of_init(pod_facts(pod, self._config.paths)).mount

    async def _undo_or_later(self, id: str) -> None:
        try:
            await self._undo(id)
        except Exception:
            log.exception("could not undo the failed run of pod %s; trying again", id)
            self._tasks.start(f"undo pod {id}", self._undo_later(id))

    async def _undo_later(self, id: str) -> None:
        while id in self._state.pods:
            await asyncio.sleep(UNDO_SECONDS)
            if pod := self._state.pods.get(id):
                try:
                    await self._joined.wait(pod.key)
                    await self._joined.run(pod.key, self._undo(id))
                except Exception:
                    log.exception("pod %s is still not undone", id)

    async def _undo(self, id: str) -> None:
        """After a failed run: nothing may be left. If that fails too the pod is shown, not ready, to be removed."""
        if id not in self._state.pods:
            return
        await self._state.update_pod(id, lambda pod: transitions.stopping(pod, now()))
        await self._teardown(id)
        await self._forget(id)

    # --- stop and remove ------------------------------------------------------------------------------------

    async def stop(self, id: str) -> None:
        """Kill its containers and free all it holds; what is gone already is fine. Raises what the teardown met; the
        pod then stays not ready, and the next call tries again."""
        pod = ids.find("pod", self._state.pods, id)
        if pod is None or pod.stopped_at:
            return
        await self._joined.run(("stop", pod.id), self._stop(pod))

    async def _stop(self, pod: Pod) -> None:
        await step("pod.stop", pod.id)
        await self._joined.wait(pod.key)  # half a pod cannot be stopped while the other half is being made
        if pod.id in self._state.pods:
            await self._state.update_pod(pod.id, lambda now_: transitions.stopping(now_, now()))
            await self._teardown(pod.id)

    async def remove(self, id: str) -> None:
        """Stop it, remove its containers and forget it. Unknown is fine."""
        pod = ids.find("pod", self._state.pods, id)
        if pod is not None:
            await self._joined.run(("remove", pod.id), self._remove(pod))

    async def _remove(self, pod: Pod) -> None:
        await self.stop(pod.id)
        containers = self._state.containers_of(pod.id)
        await asyncio.gather(*(self._containers.remove(container.id) for container in containers))
        if pod.id in self._state.pods:
            await self._forget(pod.id)

    async def _forget(self, id: str) -> None:
        pod = self._state.pods[id]
        others = (other for other in self._state.pods.values() if other.id != id)
        if not any(other.cgroup_parent == pod.cgroup_parent for other in others):
            await step("pod.cgroup.remove", id)
            await self._machine.cgroups.remove_parent(pod.cgroup_parent)
        await step("pod.forget", id)
        await self._state.commit(Gone("pod", id))

    # --- the one teardown -------------------------------------------------------------------------------------

    async def _teardown(self, id: str) -> None:
        """Take down whatever of the pod is there, from the outside in. Idempotent: every part tolerates absence."""
        pod = self._state.pods[id]
        await self._containers.stop_all(id)
        await self._init.remove(pod)
        if pod.network_owed:
            await step("pod.network.detach", id)
            async with bounded(CNI_SECONDS, f"detaching pod {id} from the network (CNI DEL)"):
                await self._machine.network.detach(self._attachment(pod))
        await self._machine.sandboxes.remove(id)
        await step("pod.stopped", id)
        await self._state.update_pod(id, lambda now_: transitions.stopped(now_, now()))

    async def teardown_leftover(self, id: str) -> None:
        """At boot: a pod whose run was never acknowledged, or whose stop was cut short."""
        pod = self._state.pods[id]
        if not pod.ready_at:
            await self._joined.run(pod.key, self._undo_or_later(id))
        elif pod.stopping_at:
            await self.stop(id)

    async def settle(self) -> None:
        """Wait for the operations in flight (orderly stop of the daemon)."""
        await self._joined.settle()

    # --- facts ------------------------------------------------------------------------------------------------

    def _attachment(self, pod: Pod) -> Attachment:
        meta = pod.config.metadata
        return Attachment(
            pod_id=pod.id,
            netns=str(self._config.paths.namespace(pod.id, "net")),
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            conflist=pod.conflist,
            result=pod.cni_result,
            port_mappings=port_mappings(pod.config),
            annotations=dict(pod.config.annotations),
            cgroup_path=pod.cgroup_parent,
            dns=_dns(pod.config.dns_config),
        )


def _name(config: cri.PodSandboxConfig) -> str:
    meta = config.metadata
    return f"{meta.namespace}/{meta.name} (uid {meta.uid}, attempt {meta.attempt})"


def port_mappings(config: cri.PodSandboxConfig) -> tuple[PortMapping, ...]:
    """The ports that are to be published on the host; those without a host port publish nothing."""
    return tuple(
        PortMapping(PROTOCOLS[mapping.protocol], mapping.container_port, mapping.host_port, mapping.host_ip)
        for mapping in config.port_mappings
        if mapping.host_port
    )


def _dns(config: cri.DNSConfig) -> Mapping[str, object]:
    parts = {
        "servers": list(config.servers),
        "searches": list(config.searches),
        "options": list(config.options),
    }
    return {name: values for name, values in parts.items() if values}
