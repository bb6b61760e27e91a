"""Records to CRI messages, and the CRI's list filters. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model import signals
from sampan.model.container import Container, ContainerState
from sampan.model.errors import Invalid
from sampan.model.image import Image
from sampan.model.pod import Pod, PodState
from sampan.spec import volumes

POD_STATES = {PodState.READY: cri.SANDBOX_READY, PodState.NOT_READY: cri.SANDBOX_NOTREADY}
CONTAINER_STATES = {
    ContainerState.CREATED: cri.CONTAINER_CREATED,
    ContainerState.RUNNING: cri.CONTAINER_RUNNING,
    ContainerState.EXITED: cri.CONTAINER_EXITED,
}


# --- pods -------------------------------------------------------------------------------------------------------


def pod_item(pod: Pod) -> cri.PodSandbox:
    """A row of ListPodSandbox."""
    return cri.PodSandbox(
        id=pod.id,
        metadata=pod.config.metadata,
        state=POD_STATES[pod.state],
        created_at=pod.created_at,
        labels=pod.config.labels,
        annotations=pod.config.annotations,
        runtime_handler=pod.handler,
    )


def pod_status(pod: Pod) -> cri.PodSandboxStatus:
    """PodSandboxStatus.status: the first address is `network.ip`, the others follow."""
    ips = pod.ips if pod.state is PodState.READY else ()
    return cri.PodSandboxStatus(
        id=pod.id,
        metadata=pod.config.metadata,
        state=POD_STATES[pod.state],
        created_at=pod.created_at,
        network=cri.PodSandboxNetworkStatus(
            ip=ips[0] if ips else "", additional_ips=[cri.PodIP(ip=ip) for ip in ips[1:]]
        ),
        linux=cri.LinuxPodSandboxStatus(
            namespaces=cri.Namespace(options=pod.config.linux.security_context.namespace_options)
        ),
        labels=pod.config.labels,
        annotations=pod.config.annotations,
        runtime_handler=pod.handler,
    )


def selecting_pods(filter: cri.PodSandboxFilter) -> Callable[[Pod], bool]:
    """Whether a pod is meant: all of the filter's parts must hold; an id may be a prefix. The filter is read once."""
    id, selector = filter.id, dict(filter.label_selector)
    states = {filter.state.state} if filter.HasField("state") else set(POD_STATES.values())

    def matches(pod: Pod) -> bool:
        if not pod.visible or not pod.id.startswith(id) or POD_STATES[pod.state] not in states:
            return False
        return not selector or labelled(pod.config.labels, selector)

    return matches


# --- containers -------------------------------------------------------------------------------------------------


def container_item(container: Container, image: Image | None) -> cri.Container:
    """A row of ListContainers."""
    return cri.Container(
        id=container.id,
        pod_sandbox_id=container.pod_id,
        metadata=container.config.metadata,
        image=_image_spec(container, image),
        image_ref=container.image_id,
        image_id=container.image_id,
        state=CONTAINER_STATES[container.state],
        created_at=container.created_at,
        labels=container.config.labels,
        annotations=container.config.annotations,
    )


def container_status(container: Container, image: Image | None) -> cri.ContainerStatus:
    """ContainerStatus.status, mounts and resources as they were asked for."""
    ended = container.state is ContainerState.EXITED
    return cri.ContainerStatus(
        id=container.id,
        metadata=container.config.metadata,
        state=CONTAINER_STATES[container.state],
        created_at=container.created_at,
        started_at=container.started_at,
        finished_at=container.finished_at,
        exit_code=container.exit_code if ended else 0,
        image=_image_spec(container, image),
        image_ref=container.image_id,
        image_id=container.image_id,
        reason=container.reason,
        message=container.message,
        labels=container.config.labels,
        annotations=container.config.annotations,
        mounts=_mounts(container),
        log_path=container.log_path,
        resources=cri.ContainerResources(linux=container.limits_in_force),
        user=cri.ContainerUser(
            linux=cri.LinuxContainerUser(
                uid=container.user.uid, gid=container.user.gid, supplemental_groups=container.user.groups
            )
        ),
        stop_signal=signals.enum(container.stop_signal),  # type: ignore[arg-type]  # an enum number
    )


def _mounts(container: Container) -> list[cri.Mount]:
    """The mounts as they were asked for; those of images also say which image it is, as PullImage does."""
    if not container.volume_images:
        return list(container.config.mounts)
    mounts = []
    ids = iter(container.volume_images)
    for asked in container.config.mounts:
        mount = cri.Mount()
        mount.CopyFrom(asked)
        if volumes.is_image(asked):
            mount.image.image_ref = next(ids, "")
        mounts.append(mount)
    return mounts


def _image_spec(container: Container, image: Image | None) -> cri.ImageSpec:
    """The image under a name people know: what the user wrote, else its first tag, else what was asked for."""
    asked = container.config.image
    spec = cri.ImageSpec()
    spec.CopyFrom(asked)
    spec.image = asked.user_specified_image or (image.tags[0] if image and image.tags else asked.image)
    return spec


def selecting_containers(filter: cri.ContainerFilter) -> Callable[[Container], bool]:
    """Whether a container is meant: all of the filter's parts must hold; ids may be prefixes. The filter is read
    once."""
    id, pod_id, selector = filter.id, filter.pod_sandbox_id, dict(filter.label_selector)
    states = {filter.state.state} if filter.HasField("state") else set(CONTAINER_STATES.values())

    def matches(container: Container) -> bool:
        if (
            not container.visible
            or not container.id.startswith(id)
            or not container.pod_id.startswith(pod_id)
        ):
            return False
        if CONTAINER_STATES[container.state] not in states:
            return False
        return not selector or labelled(container.config.labels, selector)

    return matches


# --- shared -----------------------------------------------------------------------------------------------------


def labelled(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether every label of the selector is there with that value."""
    return all(labels.get(key) == value for key, value in selector.items())


def require_config(present: bool, field: str) -> None:
    """Raise Invalid where a request lacks a message it cannot do without."""
    if not present:
        raise Invalid(f"the request has no {field}")


def newest_first(items: Iterable[Any]) -> list[Any]:
    """Lists come newest first, as the peers give them."""
    return sorted(items, key=lambda item: -item.created_at)
