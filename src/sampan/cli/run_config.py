"""What `sampan run` was asked → the configs of its pod and its container. Pure."""

from dataclasses import dataclass

from sampan.api import cri_pb2 as cri
from sampan.cli import arguments
from sampan.cli.naming import RUN_LABEL
from sampan.spec.security import MASKED_PATHS, READONLY_PATHS

NAMESPACE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The options of one `sampan run`, parsed."""

    image: str
    command: tuple[str, ...] = ()
    name: str | None = None
    remove: bool = False
    detach: bool = False
    detach_keys: bytes = b""
    interactive: bool = False
    tty: bool = False
    publish: tuple[cri.PortMapping, ...] = ()
    env: tuple[cri.KeyValue, ...] = ()
    volume: tuple[cri.Mount, ...] = ()
    net: str = "pod"
    memory: int | None = None
    cpus: int | None = None
    user: str | None = None
    privileged: bool = False
    workdir: str = ""
    entrypoint: str | None = None
    pull: str = "missing"
    handler: str = ""


def pod(wish: Wish, name: str, uid: str, logs: str) -> cri.PodSandboxConfig:
    """A pod for one container; `logs` is the directory of its log."""
    on_host = wish.net == "host"
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace=NAMESPACE),
        hostname="" if on_host else name,
        log_directory=logs,
        port_mappings=wish.publish,
        labels={RUN_LABEL: name},
        linux=cri.LinuxPodSandboxConfig(
            security_context=cri.LinuxSandboxSecurityContext(
                namespace_options=_namespaces(wish), privileged=wish.privileged, seccomp=_seccomp(wish)
            )
        ),
    )


def container(wish: Wish, name: str, image_id: str) -> cri.ContainerConfig:
    """The container in it. Raises ValueError for a user that cannot be one."""
    context = cri.LinuxContainerSecurityContext(
        privileged=wish.privileged,
        namespace_options=_namespaces(wish),
        seccomp=_seccomp(wish),
        # an empty list means "unmasked": the kubelet always sends its own, and so do we
        masked_paths=() if wish.privileged else MASKED_PATHS,
        readonly_paths=() if wish.privileged else READONLY_PATHS,
    )
    if wish.user is not None:
        arguments.user(wish.user, context)
    resources = cri.LinuxContainerResources(memory_limit_in_bytes=wish.memory or 0)
    if wish.cpus is not None:
        resources.cpu_period, resources.cpu_quota = arguments.CPU_PERIOD, wish.cpus
    return cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name),
        image=cri.ImageSpec(image=image_id, user_specified_image=wish.image),
        command=[wish.entrypoint] if wish.entrypoint else [],
        args=wish.command,
        working_dir=wish.workdir,
        envs=wish.env,
        mounts=wish.volume,
        labels={RUN_LABEL: name},
        log_path=f"{name}.log",
        stdin=wish.interactive,
        # With a pipe's end its own input ends; who detaches from a terminal, or attaches later, finds it open.
        stdin_once=wish.interactive and not wish.tty and not wish.detach,
        tty=wish.tty,
        linux=cri.LinuxContainerConfig(resources=resources, security_context=context),
    )


def _namespaces(wish: Wish) -> cri.NamespaceOption:
    return cri.NamespaceOption(
        network=cri.NODE if wish.net == "host" else cri.POD, pid=cri.CONTAINER, ipc=cri.POD
    )


def _seccomp(wish: Wish) -> cri.SecurityProfile | None:
    """The runtime's own profile. A request without any would mean none."""
    if wish.privileged:
        return None
    return cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault)
