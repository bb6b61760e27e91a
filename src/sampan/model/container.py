"""The Container record: identity, the CRI config it came from, and facts. Its state is read off the facts.

(intent) --created--> CREATED --started--> RUNNING --finished--> EXITED
                         |                                         ^
                         +------------ finished, start failed -----+
"""

from enum import Enum

import msgspec

from sampan.api import cri_pb2 as cri
from sampan.model.errors import WrongState
from sampan.model.oom import OomKill, OomScope
from sampan.model.oom import told as oom_text
from sampan.model.process import ProcessRef
from sampan.model.user import User

SIGKILLED = 137  # 128 + SIGKILL, as shells and conmon say it


class ContainerState(Enum):
    """What the CRI calls CONTAINER_CREATED, CONTAINER_RUNNING and CONTAINER_EXITED."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container. Times are ns since the epoch, 0 for "not yet"; `stop_signal` is a signal number.

    `init` and `monitor` are known once the OCI runtime has created it; a record without them is an intent that
    nobody was told of. `volume_images` are the ids of the images that its mounts show, in their
    order. `cgroup` is the path as the OCI runtime takes it, `log_path` is absolute or "". `asked` are the limits that
    were asked for by updates, those of `config` included, None before the first; `resources` what was read back from
    the kernel, None where nobody looked. `killed_at` is when we first were about to send SIGKILL.
    """

    id: str
    pod_id: str
    config: cri.ContainerConfig
    handler: str
    image_id: str
    created_at: int
    volume_images: tuple[str, ...] = ()
    cgroup: str = ""
    log_path: str = ""
    user: User = User()
    stop_signal: int = 15
    init: ProcessRef | None = None
    monitor: ProcessRef | None = None
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    reason: str = ""
    message: str = ""
    asked: cri.LinuxContainerResources | None = None
    resources: cri.LinuxContainerResources | None = None
    killed_at: int = 0

    @property
    def limits(self) -> cri.LinuxContainerResources:
        """The limits as asked for, and updated since: what further updates and comparisons are made from."""
        return self.config.linux.resources if self.asked is None else self.asked

    @property
    def limits_in_force(self) -> cri.LinuxContainerResources:
        """The same with the values that the kernel has made of them. To be shown: it is no request."""
        return self.limits if self.resources is None else self.resources

    @property
    def state(self) -> ContainerState:
        if self.finished_at:
            return ContainerState.EXITED
        return ContainerState.RUNNING if self.started_at else ContainerState.CREATED

    @property
    def visible(self) -> bool:
        """Listed once it was created, or ended while being created."""
        return self.init is not None or bool(self.finished_at)

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it unique: a second create with the same key is a retry of the first."""
        return (self.pod_id, self.config.metadata.name, self.config.metadata.attempt)


def created(container: Container, init: ProcessRef, monitor: ProcessRef, user: User) -> Container:
    """The OCI runtime has made it, and it waits to be started."""
    return msgspec.structs.replace(container, init=init, monitor=monitor, user=user)


def started(container: Container, at: int) -> Container:
    """It runs; one that has ended already keeps its end, and cannot have begun after it."""
    return msgspec.structs.replace(container, started_at=min(at, container.finished_at or at))


def start_failed(container: Container, at: int, why: str) -> Container:
    """The OCI runtime could not start it: exited with 128 and the reason StartError, as containerd shows it."""
    return msgspec.structs.replace(
        container, started_at=0, finished_at=at, exit_code=128, reason="StartError", message=why[:4096]
    )


def finished(
    container: Container,
    *,
    at: int,
    code: int,
    oom: bool = False,
    lost: bool = False,
    kill: OomKill | None = None,
) -> Container:
    """It has ended. The first end that is recorded stays. The end comes from a file's time, which the kernel takes
    from a coarser clock than ours: it is not let fall before the beginning.

    `oom`: the kernel killed some process of it for memory. OOMKilled it is only where that ended it: a SIGKILL that was
    not ours, or that the first process is known to have got from the kernel. A program that lost a child and went on
    has an end of its own, and the loss is told in the message.
    """
    if container.finished_at:
        return container
    at = max(at, container.created_at, container.started_at)
    if oom:
        kill = _with_limit(container, kill or OomKill())
    fatal = kill is not None and code == SIGKILLED and (kill.first_process or not container.killed_at)
    reason, message = _ending(code, lost)
    if kill is not None:
        reason = "OOMKilled" if fatal else reason
        message = oom_text(kill) if fatal else "; ".join(filter(None, [message, oom_text(kill)]))
    return msgspec.structs.replace(
        container, finished_at=at, exit_code=code, oom_killed=fatal, reason=reason, message=message
    )


def _with_limit(container: Container, kill: OomKill) -> OomKill:
    """systemd may have removed the group before its limit was read; ours is on record."""
    limit = container.limits.memory_limit_in_bytes
    if kill.scope is OomScope.CONTAINER and kill.limit is None and limit > 0:
        return msgspec.structs.replace(kill, limit=limit)
    return kill


def _ending(code: int, lost: bool) -> tuple[str, str]:
    if lost:
        return "Unknown", "its end was not observed: the monitor or the machine went down with it"
    return ("Completed", "") if code == 0 else ("Error", "")


def limited(
    container: Container,
    limits: cri.LinuxContainerResources,
    asked: cri.LinuxContainerResources | None = None,
) -> Container:
    """Its limits are now these, as the kernel has them; `asked` for by an update, if it was one."""
    return msgspec.structs.replace(
        container, resources=limits, asked=container.asked if asked is None else asked
    )


def killed(container: Container, at: int) -> Container:
    """We are about to send it SIGKILL: from now on that code is no sign of a kill for memory."""
    if container.killed_at or container.finished_at:
        return container
    return msgspec.structs.replace(container, killed_at=at)


def require(container: Container, verb: str, *states: ContainerState) -> None:
    """Raise WrongState unless the container is in one of `states`."""
    if container.state not in states:
        wanted = " or ".join(state.value for state in states)
        raise WrongState(
            f"cannot {verb} container {container.id}: it is {container.state.value}, not {wanted}"
        )
