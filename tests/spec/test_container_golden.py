"""Whole requests to whole config.json files: `golden/<case>/request.json` → `expected.json`.

SAMPAN_GOLDEN=update rewrites what is expected; the diff is the review. A request names only what differs from
the baseline below.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format

from sampan.api import cri_pb2 as cri
from sampan.model.cdi import Given
from sampan.model.image import ImageConfig
from sampan.model.io_classes import DeviceLimits
from sampan.spec import capabilities, container, sandbox
from sampan.spec.facts import ContainerFacts, DeviceNode, Host, PodFacts, Source, User

CASES = sorted(path.parent for path in (Path(__file__).parent / "golden").glob("*/request.json"))

HOST = Host(
    controllers=frozenset({"cpu", "cpuset", "memory", "hugetlb", "pids"}),
    capabilities=capabilities.KNOWN,
    oom_score_floor=-999,
)
POD = {"metadata": {"name": "web", "namespace": "shop", "uid": "3f1c"}, "log_directory": "/var/log/pods/web"}
POD_FACTS = PodFacts(
    id="p" * 64,
    config=cri.PodSandboxConfig(),
    hostname="web-0",
    network_namespace="/run/sampan/pods/p/ns/net",
    ipc_namespace="/run/sampan/pods/p/ns/ipc",
    uts_namespace="/run/sampan/pods/p/ns/uts",
    pid_namespace="/proc/4242/ns/pid",
    resolv_conf="/run/sampan/pods/p/resolv.conf",
    hostname_file="/run/sampan/pods/p/hostname",
    shm="/run/sampan/pods/p/shm",
)
CONTAINER = {"metadata": {"name": "app"}, "image": {"image": "app:1"}}
IMAGE = {"entrypoint": ["/app"], "env": ["LANG=C.UTF-8"], "working_dir": "/srv"}


def facts(request: dict[str, Any]) -> ContainerFacts:
    """The baseline with what a request changes."""
    pod = json_format.ParseDict(POD | request.get("pod", {}), cri.PodSandboxConfig())
    config = json_format.ParseDict(CONTAINER | request.get("container", {}), cri.ContainerConfig())
    sources = {path: Source(**source) for path, source in request.get("sources", {}).items()}
    nodes = {
        path: tuple(DeviceNode(**node) for node in found)
        for path, found in request.get("device_nodes", {}).items()
    }
    made = ContainerFacts(
        id="c" * 64,
        config=config,
        image=msgspec.convert(IMAGE | request.get("image", {}), ImageConfig),
        pod=replace(POD_FACTS, config=pod, **request.get("pod_facts", {})),
        host=host(request),
        user=msgspec.convert({"groups": [0], "home": "/root"} | request.get("user", {}), User),
        rootfs="/run/sampan/containers/c/rootfs",
        cgroups_path="/kubepods/pod1/c",
        sources=sources,
        device_nodes=nodes,
    )
    extra = request.get("facts", {})
    if "seccomp_localhost" in extra:
        extra["seccomp_localhost"] = json.dumps(extra["seccomp_localhost"]).encode()
    if "image_mounts" in extra:
        extra["image_mounts"] = {int(number): path for number, path in extra["image_mounts"].items()}
    tables = {
        "cdi": tuple[Given, ...],
        "block_io": tuple[DeviceLimits, ...],
        "host_devices": tuple[DeviceNode, ...],
    }
    for name, kind in tables.items():
        if name in extra:
            extra[name] = msgspec.convert(extra[name], kind)
    return replace(made, **extra)


def host(request: dict[str, Any]) -> Host:
    return replace(HOST, **request.get("host", {}))


def built(request: dict[str, Any]) -> dict[str, Any]:
    known = facts(request)
    if request.get("builds") == "init":
        return sandbox.build(
            known.pod, known.host, rootfs="/run/sampan/containers/p/rootfs", cgroups_path="/kubepods/p"
        )
    return container.build(known)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request_becomes_this_config(case: Path) -> None:
    spec = json.loads(msgspec.json.encode(built(json.loads((case / "request.json").read_text()))))
    expected = case / "expected.json"
    if os.environ.get("SAMPAN_GOLDEN") == "update":
        expected.write_text(json.dumps(spec, indent=2) + "\n")
    assert spec == json.loads(expected.read_text())


def test_every_golden_case_has_both_files() -> None:
    folders = [path for path in (Path(__file__).parent / "golden").iterdir() if path.is_dir()]
    assert len(folders) >= 25
    assert {path.name for path in folders} == {case.name for case in CASES}
