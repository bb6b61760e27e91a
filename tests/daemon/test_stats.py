"""Usage through the whole daemon: what a pod does shows, and what has ended is gone."""

import time
from collections.abc import Callable

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.runtime.metric_names import METRICS
from tests.daemon.conftest import SECONDS, Live

pytestmark = pytest.mark.root

# What needs block I/O that reaches a device, huge pages, or pressure and peaks that some kernels do not record.
OPTIONAL = {
    "container_blkio_device_usage_total",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
    "container_hugetlb_max_usage_bytes",
    "container_hugetlb_usage_bytes",
}
BUSY = "while :; do :; done & dd if=/dev/zero of=/written bs=1M count=8 2>/dev/null; sleep 100000"


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


def pod_stats(daemon: Live, pod: str) -> cri.LinuxPodSandboxStats:
    request = cri.PodSandboxStatsRequest(pod_sandbox_id=pod)
    return daemon.runtime.PodSandboxStats(request, timeout=SECONDS).stats.linux


def metrics(daemon: Live) -> list[cri.PodSandboxMetrics]:
    return list(
        daemon.runtime.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest(), timeout=SECONDS).pod_metrics
    )


def limited() -> cri.LinuxContainerConfig:
    resources = cri.LinuxContainerResources(
        cpu_period=100000, cpu_quota=20000, cpu_shares=1024, memory_limit_in_bytes=64 << 20
    )
    return cri.LinuxContainerConfig(resources=resources)


def test_what_a_pod_does_shows_and_leaves_when_it_is_stopped(daemon: Live) -> None:
    pod = daemon.pod()
    container = daemon.started(pod, "sh", "-c", BUSY, linux=limited())
    first = pod_stats(daemon, pod)
    assert [one.attributes.id for one in first.containers] == [container]
    gateway = daemon.own.network.subnet.rpartition(".")[0] + ".1"
    daemon.exec(container, "wget", "-q", "-T", "1", "-O", "/dev/null", f"http://{gateway}:1/")

    def moved() -> bool:
        now = pod_stats(daemon, pod)
        (inner,) = now.containers
        return (
            inner.cpu.usage_nano_cores.value > 50_000_000
            and inner.cpu.usage_core_nano_seconds.value > first.cpu.usage_core_nano_seconds.value
            and inner.writable_layer.used_bytes.value >= 8 << 20
            and now.network.default_interface.tx_bytes.value > first.network.default_interface.tx_bytes.value
        )

    until(moved, 45)
    now = pod_stats(daemon, pod)
    assert now.network.default_interface.name == "eth0"
    assert [one.name for one in now.network.interfaces] == ["eth0"]
    assert now.process.process_count.value >= 2
    assert 0 < now.memory.working_set_bytes.value <= 64 << 20
    assert now.cpu.usage_nano_cores.value > 50_000_000
    daemon.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=SECONDS)
    with pytest.raises(grpc.RpcError) as refused:
        pod_stats(daemon, pod)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert metrics(daemon) == []
    assert not daemon.runtime.ListPodSandboxStats(cri.ListPodSandboxStatsRequest()).stats
    assert not daemon.runtime.ListContainerStats(cri.ListContainerStatsRequest()).stats


def test_a_running_pod_has_a_value_for_every_metric(daemon: Live) -> None:
    pod = daemon.pod()
    container = daemon.started(pod, "sh", "-c", BUSY, linux=limited())

    def walked() -> bool:
        return "container_fs_usage_bytes" in str(metrics(daemon))

    until(walked)  # in the background: no request waits for it
    (found,) = metrics(daemon)
    assert found.pod_sandbox_id == pod
    (inner,) = found.container_metrics
    assert inner.container_id == container
    values = {}
    for one in [*found.metrics, *inner.metrics]:
        values[one.name] = one
        assert len(one.label_values) == len(METRICS[one.name].label_keys)
        assert one.timestamp > 1_700_000_000_000_000_000
    assert METRICS.keys() - values.keys() <= OPTIONAL
    assert values["container_spec_cpu_quota"].value.value == 20000
    assert values["container_spec_cpu_shares"].value.value == 1024
    assert values["container_spec_memory_limit_bytes"].value.value == 64 << 20
    assert list(values["container_threads"].label_values)[1:] == [
        container, "localhost/box:1", "web", "tests", "app",
    ]  # fmt: skip
    assert values["container_file_descriptors"].value.value >= 2
    assert values["container_fs_limit_bytes"].value.value > 1 << 20


def test_lists_in_parts_are_the_lists(daemon: Live) -> None:
    pod = daemon.pod()
    daemon.started(pod)
    runtime = daemon.runtime
    parts = list(runtime.StreamPodSandboxes(cri.StreamPodSandboxesRequest(), timeout=SECONDS))
    assert [one.id for part in parts for one in part.pod_sandboxes] == [pod]
    listed = runtime.ListContainers(cri.ListContainersRequest()).containers
    streamed = list(runtime.StreamContainers(cri.StreamContainersRequest(), timeout=SECONDS))
    assert [one for part in streamed for one in part.containers] == list(listed)
    (stats,) = runtime.StreamContainerStats(cri.StreamContainerStatsRequest(), timeout=SECONDS)
    assert [one.attributes.id for one in stats.container_stats] == [listed[0].id]
    (pods,) = runtime.StreamPodSandboxStats(cri.StreamPodSandboxStatsRequest(), timeout=SECONDS)
    assert [one.attributes.id for one in pods.pod_sandbox_stats] == [pod]
    (told,) = runtime.StreamPodSandboxMetrics(cri.StreamPodSandboxMetricsRequest(), timeout=SECONDS)
    assert [one.pod_sandbox_id for one in told.pod_sandbox_metrics] == [pod]
    (images,) = daemon.images.StreamImages(cri.StreamImagesRequest(), timeout=SECONDS)
    assert list(images.images) == list(daemon.images.ListImages(cri.ListImagesRequest()).images)
    nothing = cri.StreamContainersRequest(filter=cri.ContainerFilter(id="f" * 64))
    assert list(runtime.StreamContainers(nothing, timeout=SECONDS)) == []
