"""The kubelet's acceptance suite for runtimes, critest: what has once passed must go on passing.

`passing.txt` lists the specs that pass, one a line. SAMPAN_CONFORMANCE=record adds those that newly do;
only a person's hand removes any.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from sampan.api import cri_pb2 as pb
from scripts.private_daemon import Daemon, remove_pods
from tests import census
from tests.conformance.conftest import BUSYBOX, NETWORK, tool
from tests.conftest import free_port

pytestmark = [pytest.mark.root, pytest.mark.limit(1500)]  # building the tools and images takes minutes, once

PASSING = Path(__file__).with_name("passing.txt")
# Its digest is fixed upstream, so no mirror with images of its own can serve it; benchmarks are not checks.
SKIP = "public image with digest|benchmark"
SECONDS = 1200
# By default the suite's sessions are SPDY's.
OVER_WEBSOCKET = ("-websocket-exec", "-websocket-attach", "-websocket-portforward")
# What a runtime owns beside images: all of it must be gone after the suite.
GONE = ("mounts", "links", "nftables", "reservations", "cgroups", "processes")


def name(spec: dict[str, list[str]]) -> str:
    return " ".join([*(spec["ContainerHierarchyTexts"] or []), str(spec["LeafNodeText"])])


def run_suite(daemon: Daemon, directory: Path, *options: str) -> dict[str, str]:
    """Every spec of the suite and how it ended: passed, failed, skipped, timedout, ..."""
    report = directory / "report.json"
    argv = [
        str(tool("critest")),
        f"-runtime-endpoint={daemon.endpoint}",
        f"-ginkgo.skip={SKIP}",
        f"-ginkgo.json-report={report}",
        f"-ginkgo.timeout={SECONDS - 60}s",
        "-ginkgo.no-color",
        *options,
    ]
    with (directory / "critest.log").open("wb") as log:
        subprocess.run(
            argv,
            cwd=directory,
            env={**os.environ, "TMPDIR": str(directory)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=SECONDS,
            check=False,  # unlisted specs may fail
        )
    (suite,) = json.loads(report.read_text())
    return {name(spec): spec["State"] for spec in suite["SpecReports"] if spec["LeafNodeType"] == "It"}


def scope(daemon: Daemon) -> census.Scope:
    return census.Scope(
        words=(),
        roots=(daemon.root, daemon.state),
        bridges=(NETWORK.bridge,),
        subnets=(NETWORK.subnet.removesuffix("0.0/16"),),
        reservations=(daemon.directory / "addresses",),
        cgroups=("/sampan",),
    )


def warm_up(daemon: Daemon) -> None:
    """A pod with a container and a port, so that what is made once (bridge, nftables chains) is there."""
    image = pb.ImageSpec(image=BUSYBOX)
    daemon.cri.images.PullImage(pb.PullImageRequest(image=image))
    config = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name="warm-up", namespace="conformance", uid="warm-up"),
        port_mappings=[pb.PortMapping(container_port=80, host_port=free_port())],
        linux=pb.LinuxPodSandboxConfig(),
    )
    pod = daemon.cri.runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=config)).pod_sandbox_id
    container = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"), image=image, linux=pb.LinuxContainerConfig()
    )
    daemon.cri.runtime.CreateContainer(
        pb.CreateContainerRequest(pod_sandbox_id=pod, config=container, sandbox_config=config)
    )
    remove_pods(daemon)


def test_what_has_passed_still_passes_and_leaves_nothing(
    daemon: Daemon, short_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warm_up(daemon)
    before = census.categories(census.take(scope(daemon)), GONE)
    states = run_suite(daemon, short_tmp)
    passed = {spec for spec, state in states.items() if state == "passed"}
    listed = set(PASSING.read_text().splitlines())
    with capsys.disabled():
        print(
            f"\ncritest: {len(passed)} of {len(states)} specs passed;",
            f"new: {sorted(passed - listed) or 'none'}",
        )
    if os.environ.get("SAMPAN_CONFORMANCE") == "record":
        PASSING.write_text("".join(f"{spec}\n" for spec in sorted(passed | listed)))
    log = (short_tmp / "critest.log").read_text(errors="replace")
    lost = {spec: states.get(spec, "not in the suite") for spec in sorted(listed - passed)}
    assert not lost, f"{lost}\n{log[-8000:]}\n{daemon.words()}"
    remove_pods(daemon)  # those of specs that failed
    assert census.diff(before, census.take(scope(daemon))) == ""


def test_sessions_pass_over_websocket_too(daemon: Daemon, short_tmp: Path) -> None:
    try:
        states = run_suite(daemon, short_tmp, "-ginkgo.focus=Streaming", *OVER_WEBSOCKET)
    finally:
        remove_pods(daemon)
    ran = {spec: state for spec, state in states.items() if "Streaming" in spec}
    log = (short_tmp / "critest.log").read_text(errors="replace")
    assert len(ran) >= 5, log[-8000:]
    assert set(ran.values()) == {"passed"}, f"{ran}\n{log[-8000:]}\n{daemon.words()}"


def test_the_list_is_sorted_and_not_empty() -> None:
    lines = PASSING.read_text().splitlines()
    assert lines == sorted(set(lines))
    assert lines
