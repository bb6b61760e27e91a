"""The config.json of a pod's init, which exists only in pods whose containers share a PID namespace.

It is the namespace's pid 1: it reaps what the containers orphan and does nothing else, so it may do nothing
else.
"""

import base64
from collections.abc import Mapping
from typing import Any

from sampan.model.user import User
from sampan.spec import process, seccomp, security, selinux, userns
from sampan.spec.container import COMPILED_FILTER, VERSION
from sampan.spec.devices import DENY_ALL
from sampan.spec.facts import Host, PodFacts

PROGRAM = "/init"
OOM_SCORE_ADJ = -998  # the last to be killed: with it dies every container of the pod
CPU_SHARES = 2  # the least there is
NOBODY = User(65534, 65534, (65534,))


def build(
    pod: PodFacts,
    host: Host,
    *,
    rootfs: str,
    cgroups_path: str,
    init: str = "/usr/bin/catatonit",
    seccomp_programs: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """An init in a new PID namespace, in the pod's others: `init` (a path on the host) alone in the root
    `rootfs`.

    `rootfs` is an existing empty directory in which the OCI runtime may make mount points. The process sees
    it read-only, is nobody, owns no capability and gains no privilege.
    """
    profile = seccomp.default((), host.architecture) if host.seccomp else None
    maps = userns.mappings(pod.config.linux.security_context.namespace_options)
    spec: dict[str, Any] = {
        "ociVersion": VERSION,
        "root": {"path": rootfs, "readonly": True},
        "process": _process(host, maps),
        "mounts": _mounts(init),
        "linux": {
            "cgroupsPath": cgroups_path,
            "namespaces": _namespaces(pod, host),
            "resources": {"cpu": {"shares": CPU_SHARES}, "devices": [DENY_ALL]},
            "maskedPaths": [*security.MASKED_PATHS],
            "readonlyPaths": [*security.READONLY_PATHS],
            **userns.linux(maps),
        },
    }
    if host.selinux:  # else it kept the daemon's label, and its containers could not reach it
        labels = selinux.of_init(pod)
        spec["process"]["selinuxLabel"], spec["linux"]["mountLabel"] = labels.process, labels.mount
    if profile:
        spec["linux"]["seccomp"] = profile
        if program := (seccomp_programs or {}).get(seccomp.fingerprint(profile)):
            spec["annotations"] = {COMPILED_FILTER: base64.b64encode(program).decode()}
    return spec


def _process(host: Host, maps: userns.Mappings | None) -> dict[str, Any]:
    return {
        "terminal": False,
        "user": process.user(_nobody(maps)),
        # catatonit(1) reaps orphans only while it has a child of its own: one that waits for ever
        "args": [PROGRAM, "--", PROGRAM, "-P"],
        "env": [f"PATH={process.PATH}"],
        "cwd": "/",
        "capabilities": {"bounding": [], "effective": [], "permitted": []},
        "noNewPrivileges": True,
        "oomScoreAdj": max(OOM_SCORE_ADJ, host.oom_score_floor),
    }


def _nobody(maps: userns.Mappings | None) -> User:
    """Nobody, or the last that a small user namespace has."""
    if maps is None:
        return NOBODY
    uid, gid = min(NOBODY.uid, maps.uids.length - 1), min(NOBODY.gid, maps.gids.length - 1)
    return User(uid, gid, (gid,))


def _mounts(init: str) -> list[dict[str, Any]]:
    tight = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": tight},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"],
        },
        {
            "destination": PROGRAM,
            "type": "bind",
            "source": init,
            "options": ["bind", "rprivate", "nosuid", "nodev", "ro"],
        },
    ]


def _namespaces(pod: PodFacts, host: Host) -> list[dict[str, Any]]:
    """Its own mount and PID namespaces, and the pod's where it has them."""
    joined = (
        ("network", pod.network_namespace),
        ("ipc", pod.ipc_namespace),
        ("uts", pod.uts_namespace),
        ("user", pod.user_namespace),
    )
    result: list[dict[str, Any]] = [{"type": "mount"}, {"type": "pid"}]
    result += [{"type": kind, "path": path} for kind, path in joined if path]
    return [*result, {"type": "cgroup"}] if host.cgroup_v2 else result
