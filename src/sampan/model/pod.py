"""The Pod record: identity, the CRI config it came from, and facts. Its state is read off the facts.

(intent) --ready--> READY --broken (reboot, init died)--> NOTREADY
    |                 |                                     |
    +---stopping------+-----------stopping------------------+--> NOTREADY --stopped--> NOTREADY (nothing left)
"""

from enum import Enum

import msgspec

from sampan.api import cri_pb2 as cri
from sampan.model.process import ProcessRef


class PodState(Enum):
    """What the CRI calls SANDBOX_READY and SANDBOX_NOTREADY."""

    READY = "ready"
    NOT_READY = "not ready"


class PodKey(msgspec.Struct, frozen=True):
    """What makes a pod unique: a second run with the same key is a retry of the first."""

    namespace: str
    name: str
    uid: str
    attempt: int


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod sandbox. Times are ns since the epoch, 0 for "not yet".

    `namespaces` are those of its own (of net, ipc, uts); `conflist` is the CNI configuration recorded before ADD, so
    while it is set and `stopped_at` is 0 a DEL is owed. `overhead` and `resources` are what UpdatePodSandboxResources
    told last; None: what is in `config` holds.
    """

    id: str
    config: cri.PodSandboxConfig
    handler: str
    created_at: int
    hostname: str
    namespaces: frozenset[str] = frozenset()
    cgroup_parent: str = ""
    selinux_level: str = ""  # given to it, where the host runs SELinux and its config names none
    conflist: bytes = b""
    cni_result: bytes = b""
    ips: tuple[str, ...] = ()
    init: ProcessRef | None = None
    init_monitor: ProcessRef | None = None
    init_wanted: bool = False
    ready_at: int = 0
    broken_at: int = 0
    broken_reason: str = ""
    stopping_at: int = 0
    stopped_at: int = 0
    overhead: cri.LinuxContainerResources | None = None
    resources: cri.LinuxContainerResources | None = None

    @property
    def key(self) -> PodKey:
        meta = self.config.metadata
        return PodKey(meta.namespace, meta.name, meta.uid, meta.attempt)

    @property
    def state(self) -> PodState:
        usable = self.ready_at and not self.stopping_at and not self.broken_at
        return PodState.READY if usable else PodState.NOT_READY

    @property
    def visible(self) -> bool:
        """A pod is listed once it was ready, or once its making failed in a way that left something to remove."""
        return bool(self.ready_at or self.stopping_at)

    @property
    def network_owed(self) -> bool:
        """Whether a CNI DEL is owed."""
        return bool(self.conflist) and not self.stopped_at


def ready(pod: Pod, at: int, ips: tuple[str, ...] = (), cni_result: bytes = b"") -> Pod:
    """All of it is there; the addresses and the CNI result of a pod with a network of its own."""
    return msgspec.structs.replace(pod, ready_at=at, ips=ips, cni_result=cni_result)


def broken(pod: Pod, at: int, reason: str) -> Pod:
    """Something it stands on is gone: after a reboot, or because its init died."""
    return pod if pod.broken_at else msgspec.structs.replace(pod, broken_at=at, broken_reason=reason)


def resized(
    pod: Pod, overhead: cri.LinuxContainerResources | None, resources: cri.LinuxContainerResources | None
) -> Pod:
    """The kubelet has given its group other limits; None is no news."""
    return msgspec.structs.replace(
        pod,
        overhead=pod.overhead if overhead is None else overhead,
        resources=pod.resources if resources is None else resources,
    )


def stopping(pod: Pod, at: int) -> Pod:
    """From here on it takes no new containers, and what it has is being taken down."""
    return pod if pod.stopping_at else msgspec.structs.replace(pod, stopping_at=at)


def stopped(pod: Pod, at: int) -> Pod:
    """Nothing of it is left on the machine but its record."""
    return msgspec.structs.replace(pod, stopped_at=at, init=None, init_monitor=None, init_wanted=False)
