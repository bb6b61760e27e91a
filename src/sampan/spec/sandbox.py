"""The config.json of a pod's init, which exists only in pods whose containers share a PID namespace."""

from typing import Any

from sampan.spec.facts import Host, PodFacts


def build(
    pod: PodFacts, host: Host, *, rootfs: str, cgroups_path: str, init: str = "/usr/bin/catatonit"
) -> dict[str, Any]:
    """An init in a new PID namespace and the pod's others: `init` (on the host) alone in the empty `rootfs`.

    `rootfs` must be an existing directory with `dev`, `proc` and `sys` in it or writable to the OCI runtime; the
    process sees it read-only, owns no capability and does nothing but reap.
    """
    raise NotImplementedError
