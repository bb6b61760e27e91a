"""Which namespaces a pod owns, and which a container makes, joins or shares with the host (namespaces(7)).

In a container's options POD means "what the pod has": the kubelet sends both the same, other clients say
nothing in one of them. A container never reaches further into the host than its pod.
"""

from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec import userns
from sampan.spec.facts import ContainerFacts

KINDS = ("network", "ipc")  # those that a pod's options name, beside pid


def owned(options: cri.NamespaceOption) -> frozenset[str]:
    """Which of "net", "ipc", "uts" and "user" the pod has for itself (for SandboxPlan.namespaces)."""
    kinds = {"net", "uts"} if options.network != cri.NODE else set()
    if options.ipc != cri.NODE:
        kinds.add("ipc")
    return frozenset(kinds | {"user"} if userns.mappings(options) else kinds)


def shares_pid(container: cri.NamespaceOption, pod: cri.NamespaceOption) -> bool:
    """Whether a container is in the one PID namespace of its pod, which the pod's init must hold."""
    return container.pid == cri.POD and pod.pid == cri.POD


def joins_pid(container: cri.NamespaceOption, pod: cri.NamespaceOption) -> bool:
    """Whether a container is in a PID namespace that is there before it: its pod's, or another container's."""
    return container.pid == cri.TARGET or shares_pid(container, pod)


def check_pod(options: cri.NamespaceOption) -> None:
    """Raise Invalid for modes that no pod can have."""
    for kind in KINDS:
        _mode(kind, getattr(options, kind), cri.POD, cri.NODE)
    _mode("pid", options.pid, cri.POD, cri.CONTAINER, cri.NODE)
    if userns.mappings(options) is None:
        return
    for kind in ("ipc", "pid"):  # what a container needs of these, only their owner may mount (mqueue, proc)
        if getattr(options, kind) == cri.NODE:
            raise Invalid(
                f"namespace_options.{kind} is NODE, which a pod with namespace_options.userns_options cannot have"
            )


def check_container(options: cri.NamespaceOption, pod: cri.NamespaceOption) -> None:
    """Raise Invalid for modes that no container can have, or not in this pod."""
    for kind in KINDS:
        _mode(kind, getattr(options, kind), cri.POD, cri.NODE)
    _mode("pid", options.pid, cri.POD, cri.CONTAINER, cri.NODE, cri.TARGET)
    for kind in (*KINDS, "pid"):
        if getattr(options, kind) == cri.NODE and getattr(pod, kind) != cri.NODE:
            raise Invalid(f"namespace_options.{kind} is NODE, but the pod does not share the host's")
    if options.pid == cri.TARGET and not options.target_id:
        raise Invalid("namespace_options.target_id is empty, but pid is TARGET")
    userns.check_container(options, pod)


def build(facts: ContainerFacts) -> list[dict[str, Any]]:
    """The `linux.namespaces` of a container. Raises ValueError where the facts lack a namespace that the pod
    owns: leaving it out would put the container into the host's."""
    pod = facts.pod
    shared = owned(pod.config.linux.security_context.namespace_options)
    result: list[dict[str, Any]] = [{"type": "mount"}]
    for kind, name, path in (
        ("network", "net", pod.network_namespace),
        ("ipc", "ipc", pod.ipc_namespace),
        ("uts", "uts", pod.uts_namespace),
        ("user", "user", pod.user_namespace),
    ):
        if name in shared:
            result.append({"type": kind, "path": _present(path, kind, facts)})
    result += _pid(facts)
    if facts.host.cgroup_v2 and not facts.config.linux.security_context.privileged:
        result.append({"type": "cgroup"})
    return result


def _pid(facts: ContainerFacts) -> list[dict[str, Any]]:
    mode = facts.config.linux.security_context.namespace_options.pid
    if mode == cri.TARGET:
        return [{"type": "pid", "path": _present(facts.target_pid_namespace, "target's pid", facts)}]
    if mode == cri.POD:
        mode = facts.pod.config.linux.security_context.namespace_options.pid
        if mode == cri.POD:
            return [{"type": "pid", "path": _present(facts.pod.pid_namespace, "pid", facts)}]
    return [] if mode == cri.NODE else [{"type": "pid"}]


def _present(path: str, kind: str, facts: ContainerFacts) -> str:
    if not path:
        raise ValueError(f"container {facts.id}: the {kind} namespace of pod {facts.pod.id} is not known")
    return path


def _mode(kind: str, mode: int, *allowed: int) -> None:
    if mode not in allowed:
        known = {int(value): name for name, value in cri.NamespaceMode.items()}
        raise Invalid(f"namespace_options.{kind}: mode {known.get(mode, str(mode))} is not possible")
