"""A pod's and a container's whole life through the socket, on the real machine."""

import time
import urllib.request
from pathlib import Path

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests import census, cgroup_drivers
from tests.daemon.conftest import Live

pytestmark = pytest.mark.root
with_each_driver = pytest.mark.parametrize("daemon", cgroup_drivers.DRIVERS, indirect=True)


@with_each_driver
def test_a_pod_with_a_web_server_is_reached_and_leaves_nothing(daemon: Live) -> None:
    daemon.life()
    before = census.without_threads(daemon.census())
    pod = daemon.pod()
    script = "echo hello >/tmp/index.html; echo serving; exec httpd -f -p 8080 -h /tmp"
    container = daemon.started(pod, "sh", "-c", script)
    ip = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod)).status.network.ip
    assert fetch(f"http://{ip}:8080/index.html") == "hello\n"
    assert daemon.until_logged(container) == ["serving"]
    daemon.runtime.StopContainer(cri.StopContainerRequest(container_id=container, timeout=1))
    daemon.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=container))
    daemon.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod))
    daemon.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod))
    assert census.diff(before, census.without_threads(daemon.census())) == ""


def fetch(url: str) -> str:
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                text: str = response.read().decode()
                return text
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [("exit 0", 0, "Completed"), ("exit 7", 7, "Error"), ("sh -c 'kill -9 $$'; exit $?", 137, "Error")],
)
def test_how_a_container_ended(daemon: Live, script: str, code: int, reason: str) -> None:
    container = daemon.started(daemon.pod(), "sh", "-c", script)
    status = daemon.until_exited(container)
    assert (status.exit_code, status.reason) == (code, reason)
    assert 0 < status.created_at <= status.started_at <= status.finished_at


@with_each_driver
def test_a_container_that_eats_its_memory_is_oom_killed(daemon: Live) -> None:
    resources = cri.LinuxContainerResources(memory_limit_in_bytes=16 << 20)
    context = cri.LinuxContainerSecurityContext(namespace_options=cri.NamespaceOption(pid=cri.CONTAINER))
    linux = cri.LinuxContainerConfig(resources=resources, security_context=context)
    container = daemon.started(daemon.pod(), "sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M", linux=linux)
    status = daemon.until_exited(container)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


@with_each_driver
def test_exec_gives_output_and_code_and_is_killed_at_its_timeout(daemon: Live) -> None:
    container = daemon.started(daemon.pod())
    result = daemon.exec(container, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 3)
    with pytest.raises(grpc.RpcError) as error:
        daemon.exec(container, "sleep", "54321", timeout=1)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert b"54321" not in daemon.exec(container, "ps").stdout


def test_containers_of_a_pod_share_its_network_and_on_request_its_pids(daemon: Live) -> None:
    pod = daemon.pod(pid=cri.POD)
    one = daemon.started(pod, "sleep", "12345", name="one", pid=cri.POD)
    two = daemon.started(pod, "sleep", "67890", name="two", pid=cri.POD)
    alone = daemon.started(pod, "sleep", "11111", name="alone")
    assert b"sleep 12345" in daemon.exec(two, "ps").stdout
    assert b"12345" not in daemon.exec(alone, "ps").stdout
    links = {daemon.exec(one, "readlink", "/proc/self/ns/net").stdout for one in (one, two, alone)}
    assert len(links) == 1


def test_the_log_is_reopened_after_a_rotation(daemon: Live) -> None:
    container = daemon.started(
        daemon.pod(), "sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done"
    )
    log = Path(daemon.status(container).log_path)
    while not log.stat().st_size:
        time.sleep(0.01)
    rotated = log.rename(log.with_suffix(".old"))
    daemon.runtime.ReopenContainerLog(cri.ReopenContainerLogRequest(container_id=container))
    assert log.exists()
    while not log.stat().st_size:
        time.sleep(0.01)
    daemon.runtime.StopContainer(cri.StopContainerRequest(container_id=container, timeout=0))
    lines = [line.split(" ", 3)[3] for line in (rotated.read_text() + log.read_text()).splitlines()]
    assert lines == [f"line {i}" for i in range(len(lines))]


def test_a_mount_is_seen_and_written_through(daemon: Live, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host")
    mounts = [
        cri.Mount(host_path=str(tmp_path), container_path="/data"),
        cri.Mount(host_path=str(tmp_path), container_path="/ro", readonly=True),
    ]
    container = daemon.started(daemon.pod(), mounts=mounts)
    assert daemon.exec(container, "cat", "/data/in").stdout == b"from the host"
    assert daemon.exec(container, "sh", "-c", "echo back >/data/out").exit_code == 0
    assert daemon.exec(container, "sh", "-c", "echo no >/ro/out").exit_code != 0
    assert (tmp_path / "out").read_text() == "back\n"
    assert list(daemon.status(container).mounts) == mounts


def test_identity_limits_and_isolation_are_what_was_asked_for(daemon: Live) -> None:
    context = cri.LinuxContainerSecurityContext(
        namespace_options=cri.NamespaceOption(pid=cri.CONTAINER),
        run_as_user=cri.Int64Value(value=33),
        run_as_group=cri.Int64Value(value=50),
        supplemental_groups=[1234],
        readonly_rootfs=True,
        no_new_privs=True,
        seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault),
    )
    resources = cri.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=512)
    container = daemon.started(
        daemon.pod(), linux=cri.LinuxContainerConfig(security_context=context, resources=resources),
        envs=[cri.KeyValue(key="A", value=b"b c")], working_dir="/var",
    )  # fmt: skip
    status = daemon.exec(container, "cat", "/proc/self/status").stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (fields["Uid"].split()[0], fields["Gid"].split()[0]) == ("33", "50")
    assert "1234" in fields["Groups"].split() and fields["CapInh"] == "0" * 16
    assert fields["NoNewPrivs"] == "1"
    seccomp = daemon.exec(container, "grep", "Seccomp:", "/proc/1/status").stdout.split()
    assert seccomp == [b"Seccomp:", b"2"]
    assert daemon.exec(container, "touch", "/x").exit_code != 0
    assert daemon.exec(container, "sh", "-c", "echo $A; pwd").stdout == b"b c\n/var\n"
    assert daemon.exec(container, "hostname").stdout == b"web\n"
    reported = daemon.status(container)
    assert (reported.user.linux.uid, reported.user.linux.gid) == (33, 50)


@with_each_driver
def test_stats_are_real(daemon: Live) -> None:
    container = daemon.started(
        daemon.pod(), "sh", "-c", "dd if=/dev/zero of=/tmp/big bs=1M count=3; exec sleep 9999"
    )
    request = cri.ContainerStatsRequest(container_id=container)
    stats = daemon.runtime.ContainerStats(request).stats
    assert stats.cpu.usage_core_nano_seconds.value > 100_000 and stats.memory.working_set_bytes.value > 10_000
    listed = daemon.runtime.ListContainerStats(cri.ListContainerStatsRequest()).stats
    assert [one.attributes.id for one in listed] == [container]
    while not (layer := daemon.runtime.ContainerStats(request).stats.writable_layer).inodes_used.value:
        time.sleep(0.05)  # measured in the background, soon after the start
    assert layer.fs_id.mountpoint == str(daemon.own.root)


def test_a_published_port_is_reached_on_the_host(daemon: Live) -> None:
    pod = daemon.pod(port_mappings=[cri.PortMapping(container_port=8080, host_port=18923)])
    daemon.started(pod, "sh", "-c", "echo ported >/tmp/index.html; exec httpd -f -p 8080 -h /tmp")
    assert fetch("http://127.0.0.1:18923/index.html") == "ported\n"


def test_a_host_network_pod_has_the_hosts_network_and_name(daemon: Live) -> None:
    options = cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER)
    linux = cri.LinuxPodSandboxConfig(
        security_context=cri.LinuxSandboxSecurityContext(namespace_options=options)
    )
    pod = daemon.pod(linux=linux)
    context = cri.LinuxContainerSecurityContext(namespace_options=options)
    container = daemon.started(pod, linux=cri.LinuxContainerConfig(security_context=context))
    mine = str(Path("/proc/self/ns/net").readlink()).encode()
    assert daemon.exec(container, "readlink", "/proc/self/ns/net").stdout.strip() == mine


def test_dns_hostname_and_sysctls_reach_the_container(daemon: Live) -> None:
    pod = daemon.pod(
        dns_config=cri.DNSConfig(servers=["10.9.8.7"], searches=["tests.local"], options=["ndots:3"]),
        linux=cri.LinuxPodSandboxConfig(sysctls={"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}),
    )
    container = daemon.started(pod)
    resolv = daemon.exec(container, "cat", "/etc/resolv.conf").stdout.decode()
    assert resolv == "search tests.local\nnameserver 10.9.8.7\noptions ndots:3\n"
    assert daemon.exec(container, "cat", "/proc/sys/kernel/shm_rmid_forced").stdout == b"1\n"
    assert daemon.exec(container, "cat", "/proc/sys/net/ipv4/ip_forward").stdout == b"1\n"
    assert daemon.exec(container, "cat", "/etc/hostname").stdout == b"web\n"


def test_rpcs_of_later_versions_name_themselves(daemon: Live) -> None:
    for name in ("CheckpointContainer", "CheckpointPod", "RestorePod"):
        method = cri.DESCRIPTOR.services_by_name["RuntimeService"].methods_by_name[name]
        request = getattr(cri, method.input_type.name)()
        with pytest.raises(grpc.RpcError) as error:
            answer = getattr(daemon.runtime, name)(request)
            list(answer)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED and name in str(error.value.details())
