"""The init of a pod whose containers share a PID namespace: catatonit, alone in an empty root, under crun and conmon.

It is made when the first container that shares the namespace is, so pods that never share one never pay for it. Its OCI
id is the pod's. When it dies the kernel kills everything in the namespace, and the pod is broken.
"""

import msgspec

from sampan.config import Config, Paths
from sampan.model import ids
from sampan.model import pod as transitions
from sampan.model.pod import Pod
from sampan.model.process import ProcessRef
from sampan.runtime.exits import until_recorded
from sampan.runtime.image_ports import IdMapped
from sampan.runtime.machine import Machine
from sampan.runtime.ports import Launch, Launched
from sampan.runtime.state import State, now
from sampan.spec import sandbox, userns
from sampan.spec.facts import PodFacts
from sampan.tasks import Joined, Tasks, finish, step


class PodInit:
    """Makes, watches and removes pod inits."""

    def __init__(self, config: Config, state: State, machine: Machine, tasks: Tasks) -> None:
        self._config = config
        self._state = state
        self._machine = machine
        self._tasks = tasks
        self._joined = Joined()

    async def process(self, pod: Pod) -> ProcessRef:
        """The init of the pod's shared PID namespace; it is made if it is not there yet."""
        # as it is now: another create may have made the init meanwhile, or the pod was removed
        pod = ids.resolve("pod", self._state.pods, pod.id)
        if pod.init is None:
            pod = await self._joined.run(pod.id, self._make(pod))
        assert pod.init is not None
        return pod.init

    async def _make(self, pod: Pod) -> Pod:
        await step("pod.init", pod.id)
        handler = self._config.handlers[pod.handler]
        if pod.init_wanted:  # an earlier attempt was cut short
            await self._machine.oci.delete(handler, pod.id)
        await self._state.update_pod(pod.id, lambda now_: msgspec.structs.replace(now_, init_wanted=True))
        try:
            bundle = await self._machine.bundles.write(pod.id, self._spec(pod))
            own_users = users(pod, self._config.paths) is not None
            launched = await self._machine.oci.create(Launch(pod.id, bundle, handler, own_users=own_users))
            await self._machine.oci.start(handler, pod.id)
        except BaseException:
            await finish(self._machine.oci.delete(handler, pod.id))
            raise
        made = await self._state.update_pod(
            pod.id,
            lambda now_: msgspec.structs.replace(now_, init=launched.init, init_monitor=launched.monitor),
        )
        self.watch(made)
        return made

    def _spec(self, pod: Pod) -> dict[str, object]:
        return sandbox.build(
            pod_facts(pod, self._config.paths),
            self._machine.host_of(pod.handler),
            rootfs=str(self._config.paths.rootfs(pod.id)),
            cgroups_path=self._machine.cgroups.container_path(pod.cgroup_parent, pod.id),
            init=self._machine.pod_init,
        )

    def watch(self, pod: Pod) -> None:
        """Notice when the init of a live pod dies."""
        if pod.init is not None and pod.init_monitor is not None:
            launched = Launched(pod.init, pod.init_monitor)
            what = f"init of pod {pod.id}"
            self._tasks.start(what, until_recorded(what, lambda: self._record_end(pod.id, launched)))

    async def _record_end(self, id: str, launched: Launched) -> None:
        end = await self._machine.oci.wait(id, launched)
        pod = self._state.pods.get(id)
        if pod is not None and not pod.stopping_at:
            why = f"the init of its shared PID namespace ended with code {end.code}"
            await self._state.update_pod(id, lambda now_: transitions.broken(now_, now(), why))

    async def remove(self, pod: Pod) -> None:
        """Kill it and delete what it left. Idempotent."""
        if not pod.init_wanted:
            return
        await step("pod.init.remove", pod.id)
        await self._machine.oci.delete(self._config.handlers[pod.handler], pod.id)
        await self._machine.bundles.remove(pod.id)


def users(pod: Pod, paths: Paths) -> IdMapped | None:
    """Whose files a root file system in this pod holds; None where the pod has the host's user namespace."""
    maps = userns.mappings(pod.config.linux.security_context.namespace_options)
    return IdMapped(paths.namespace(pod.id, "user"), maps) if maps else None


def pod_facts(pod: Pod, paths: Paths, pid_namespace: str = "") -> PodFacts:
    """Where the pod's shared things are."""

    def namespace(kind: str) -> str:
        return str(paths.namespace(pod.id, kind)) if kind in pod.namespaces else ""

    directory = paths.pod(pod.id)
    return PodFacts(
        id=pod.id,
        config=pod.config,
        hostname=pod.hostname,
        network_namespace=namespace("net"),
        ipc_namespace=namespace("ipc"),
        uts_namespace=namespace("uts"),
        user_namespace=namespace("user"),
        pid_namespace=pid_namespace,
        resolv_conf=str(directory / "resolv.conf"),
        hostname_file=str(directory / "hostname"),
        hosts_file=str(directory / "hosts"),
        shm=str(paths.shm(pod.id)) if "ipc" in pod.namespaces else "/dev/shm",
        selinux_level=pod.selinux_level,
    )
