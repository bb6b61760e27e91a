"""Runtime handlers of a whole daemon: runc beside crun, one that is not there, what a handler adds."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.host.syscalls import mount, umount
from tests import census, oci_runtimes
from tests.daemon.conftest import SECONDS, Live

pytestmark = pytest.mark.root

COUNTER = "i=0; while :; do echo $i; i=$((i+1)); usleep 2000; done"


@pytest.fixture
def runc(daemon: Live) -> Iterator[Live]:
    """The daemon with the handlers runc and absent; runc's adds a limit and keeps devices back."""
    oci_runtimes.require("runc")
    base = daemon.own.directory / "base.json"
    base.write_text(
        '{"process": {"rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]}, "root": {"path": "x"}}'
    )
    configure(
        daemon,
        f'[runtime.handlers.runc]\nbase_runtime_spec = "{base}"\nprivileged_without_host_devices = true\n'
        'args = ["--rootless=false"]\n[runtime.handlers.absent]\npath = "/opt/none/absent"\n',
    )
    yield daemon


def configure(daemon: Live, more: str) -> None:
    daemon.kill()
    with daemon.own.config.open("a") as config:
        config.write(more)
    daemon.start()


def pod(daemon: Live, name: str = "web", *, handler: str = "runc", pid: int = cri.CONTAINER) -> str:
    config = daemon.pod_config(name, pid=pid)  # type: ignore[arg-type]  # an enum number
    request = cri.RunPodSandboxRequest(config=config, runtime_handler=handler)
    return daemon.runtime.RunPodSandbox(request, timeout=SECONDS).pod_sandbox_id


def inspected(daemon: Live, container: str) -> dict[str, object]:
    request = cri.ContainerStatusRequest(container_id=container, verbose=True)
    found: dict[str, object] = json.loads(daemon.runtime.ContainerStatus(request).info["info"])
    return found


def remove(daemon: Live, pod: str) -> None:
    daemon.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=SECONDS)
    daemon.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=SECONDS)


def cycle(daemon: Live) -> None:
    """A pod of runc with one container, made, used and removed."""
    one = pod(daemon, "k")
    container = daemon.started(one)
    assert daemon.exec(container, "true").exit_code == 0
    remove(daemon, one)


def test_a_pod_of_runc_lives_through_a_kill_of_the_daemon_and_leaves_nothing(runc: Live) -> None:
    cycle(runc)
    before = without_daemon(runc.census())
    one = pod(runc)
    container = runc.started(one, "sh", "-c", COUNTER)
    status = runc.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=one)).status
    assert status.runtime_handler == "runc" and status.network.ip
    info = inspected(runc, container)
    assert (info["runtimeHandler"], info["runtimeOptions"]["binary_name"]) == ("runc", "runc")  # type: ignore[index]
    assert runc.exec(container, "echo", "hi").stdout == b"hi\n"
    assert runc.exec(container, "sh", "-c", "exit 7").exit_code == 7
    with pytest.raises(grpc.RpcError, match="no-such"):
        runc.exec(container, "no-such")
    with pytest.raises(grpc.RpcError) as late:
        runc.exec(container, "sleep", "100", timeout=1)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    pid = info["pid"]
    runc.kill()
    time.sleep(0.2)  # it writes on while nobody serves
    runc.start()
    assert runc.status(container).state == cri.CONTAINER_RUNNING and inspected(runc, container)["pid"] == pid
    assert runc.exec(container, "echo", "again").stdout == b"again\n"
    runc.runtime.StopContainer(cri.StopContainerRequest(container_id=container, timeout=0), timeout=SECONDS)
    ended = runc.status(container)
    assert (ended.state, ended.exit_code) == (cri.CONTAINER_EXITED, 137)
    lines = runc.logged(container)
    assert lines == [str(i) for i in range(len(lines))] and len(lines) > 50
    remove(runc, one)
    assert census.diff(before, without_daemon(runc.census())) == ""


def without_daemon(found: census.Census) -> census.Census:
    """A restarted daemon has others."""
    return {kind: items for kind, items in found.items() if kind not in ("descriptors", "threads")}


def test_containers_of_runc_that_were_created_or_ended_while_the_daemon_was_away(runc: Live) -> None:
    one = pod(runc)
    waiting = runc.container(one, name="waiting")
    ended = runc.started(one, "sh", "-c", "sleep 0.5; exit 9", name="ended")
    runc.kill()
    time.sleep(1)
    runc.start()
    assert runc.status(waiting).state == cri.CONTAINER_CREATED
    runc.runtime.StartContainer(cri.StartContainerRequest(container_id=waiting), timeout=SECONDS)
    assert runc.exec(waiting, "true").exit_code == 0
    status = runc.until_exited(ended)
    assert (status.exit_code, status.reason) == (9, "Error")
    remove(runc, one)


def test_a_pod_of_runc_may_share_its_process_namespace(runc: Live) -> None:
    one = pod(runc, pid=cri.POD)
    first = runc.started(one, "sleep", "12345", name="first", pid=cri.POD)
    second = runc.started(one, name="second", pid=cri.POD)
    assert b"sleep 12345" in runc.exec(second, "ps").stdout
    runc.runtime.StopContainer(cri.StopContainerRequest(container_id=first, timeout=0), timeout=SECONDS)
    assert runc.status(first).exit_code == 137 and runc.status(second).state == cri.CONTAINER_RUNNING
    remove(runc, one)


def test_a_container_of_runc_that_runs_out_of_memory_says_so(runc: Live) -> None:
    resources = cri.LinuxContainerResources(memory_limit_in_bytes=16 << 20)
    linux = runc.container_config().linux
    linux.resources.CopyFrom(resources)
    container = runc.started(pod(runc), "tail", "/dev/zero", linux=linux)
    status = runc.until_exited(container)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_a_handler_adds_to_its_containers_and_to_no_others(runc: Live) -> None:
    for handler, core in (("runc", True), ("", False)):
        container = runc.started(pod(runc, f"p{handler}", handler=handler))
        spec = inspected(runc, container)["runtimeSpec"]
        limits = {one["type"]: one["soft"] for one in spec["process"].get("rlimits", ())}  # type: ignore[index]
        assert ("RLIMIT_CORE" in limits) is core
        said = runc.exec(container, "grep", "core file", "/proc/1/limits").stdout.split()
        assert (said[4:6] == [b"0", b"0"]) is core


def test_a_privileged_container_of_a_handler_that_keeps_devices_back_has_none(runc: Live) -> None:
    seen = {}
    for handler in ("runc", ""):
        config = runc.pod_config(f"p{handler}")
        config.linux.security_context.privileged = True
        request = cri.RunPodSandboxRequest(config=config, runtime_handler=handler)
        one = runc.runtime.RunPodSandbox(request, timeout=SECONDS).pod_sandbox_id
        linux = runc.container_config().linux
        linux.security_context.privileged = True
        container = runc.started(one, linux=linux)
        seen[handler] = set(runc.exec(container, "ls", "/dev").stdout.split())
    assert b"kmsg" in seen[""] or len(seen[""]) > len(seen["runc"])
    assert b"null" in seen["runc"] and b"kmsg" not in seen["runc"]


def test_what_a_handler_cannot_do_is_refused_and_said(runc: Live) -> None:
    answer = runc.runtime.Status(cri.StatusRequest(verbose=True))
    rows = {row.name: row.features for row in answer.runtime_handlers}
    assert list(rows) == ["", "absent", "crun", "runc"]
    assert rows[""] == rows["crun"] and rows["runc"].recursive_read_only_mounts
    assert not rows["absent"].recursive_read_only_mounts and not rows["absent"].user_namespaces
    handlers = json.loads(answer.info["handlers"])
    assert handlers["runc"]["usable"] and "not installed" in handlers["absent"]["problem"]
    with pytest.raises(grpc.RpcError) as refused:
        pod(runc, handler="absent")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "/opt/none/absent is not installed" in str(refused.value.details())
    with pytest.raises(grpc.RpcError, match="no runtime handler 'nobody'"):
        pod(runc, handler="nobody")
    assert runc.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items == []


def test_recursive_read_only_reaches_submounts(runc: Live, tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    mount("tmpfs", str(below), "tmpfs", 0, "size=1m")
    try:
        for handler in ("runc", ""):
            mounts = [
                cri.Mount(
                    host_path=str(tmp_path),
                    container_path=f"/{name}",
                    readonly=True,
                    recursive_read_only=all_,
                )
                for name, all_ in (("rro", True), ("ro", False))
            ]
            one = pod(runc, f"p{handler}", handler=handler)
            container = runc.started(one, mounts=mounts)
            assert runc.exec(container, "touch", "/rro/x").exit_code != 0
            assert runc.exec(container, "touch", "/rro/below/x").exit_code != 0
            assert runc.exec(container, "touch", "/ro/below/x").exit_code == 0
            remove(runc, one)
    finally:
        umount(str(below), 0)


def test_pods_outlive_the_configuration_of_their_handler(runc: Live) -> None:
    one = pod(runc)
    container = runc.started(one)
    runc.kill()
    text = runc.own.config.read_text()
    runc.own.config.write_text(text[: text.index("[runtime.handlers.runc]")])
    runc.start()
    assert runc.status(container).state == cri.CONTAINER_RUNNING
    remove(runc, one)
    assert runc.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items == []


def test_the_network_is_written_when_the_pod_cidr_is_known(daemon: Live) -> None:
    template, directory = daemon.own.directory / "template", daemon.own.directory / "empty.d"
    ipam = {
        "type": "host-local",
        "dataDir": str(daemon.own.directory / "addresses"),
        "ranges": [[{"subnet": "{{.PodCIDR}}"}]],
    }
    bridge = {"type": "bridge", "bridge": daemon.own.network.bridge, "isGateway": True, "ipam": ipam}
    template.write_text(json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}))
    text = daemon.own.config.read_text()
    daemon.kill()
    conf_dir = [line for line in text.splitlines() if line.startswith("conf_dir")]
    assert len(conf_dir) == 1
    daemon.own.config.write_text(
        text.replace(conf_dir[0], f'conf_dir = "{directory}"\nconf_template = "{template}"')
    )
    daemon.start()
    assert not condition(daemon, "NetworkReady").status
    subnet = daemon.own.network.subnet
    config = cri.RuntimeConfig(network_config=cri.NetworkConfig(pod_cidr=subnet))
    daemon.runtime.UpdateRuntimeConfig(cri.UpdateRuntimeConfigRequest(runtime_config=config))
    assert condition(daemon, "NetworkReady").status
    one = daemon.pod()
    status = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=one)).status
    assert status.network.ip.startswith(subnet.rpartition(".")[0])
    remove(daemon, one)


def condition(daemon: Live, name: str) -> cri.RuntimeCondition:
    conditions = daemon.runtime.Status(cri.StatusRequest()).status.conditions
    (found,) = [one for one in conditions if one.type == name]
    return found
