"""The RPCs about usage over the use cases, on fakes."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import NotFound, Unavailable
from sampan.runtime.metric_names import METRICS
from sampan.server.stream_rpcs import StreamRpcs
from sampan.wire.net_dev import Interface
from tests.runtime.system import System, until, wire

ETH0 = Interface("eth0", 1, 2, 3, 4, 5, 6, 7, 8)


@pytest.fixture
def system() -> System:
    system = wire()
    system.world.interfaces = (Interface("net1", 9, 9, 9, 9, 9, 9, 9, 9), ETH0)
    return system


@pytest.fixture
def rpcs(system: System) -> StreamRpcs:
    cases = SimpleNamespace(
        state=system.state, stats=system.stats, config=system.config, machine=system.machine
    )
    return StreamRpcs(cast(Any, cases))


async def pod_stats(rpcs: StreamRpcs, id: str) -> cri.PodSandboxStats:
    return (await rpcs.PodSandboxStats(cri.PodSandboxStatsRequest(pod_sandbox_id=id), None)).stats


async def test_a_pod_in_a_shared_parent_is_the_sum_of_its_containers(
    system: System, rpcs: StreamRpcs
) -> None:
    pod, other = await system.pod("web"), await system.pod("db")
    mine = [await system.started(pod, "a"), await system.started(pod, "b")]
    await system.started(other, "c")
    stats = await pod_stats(rpcs, pod)
    assert {one.attributes.id for one in stats.linux.containers} == set(mine)
    assert stats.attributes.metadata.name == "web"
    assert stats.linux.memory.usage_bytes.value == 14
    assert stats.linux.process.process_count.value == 2
    assert not stats.linux.cpu.HasField("usage_nano_cores")
    assert not stats.linux.memory.HasField("available_bytes")


async def test_a_pod_with_a_group_of_its_own_is_what_that_says(system: System, rpcs: StreamRpcs) -> None:
    linux = cri.LinuxPodSandboxConfig(cgroup_parent="/kubepods/poduid-web")
    pod = await system.pod("web", linux=linux)
    await system.started(pod, "a")
    await system.started(pod, "b")
    assert (await pod_stats(rpcs, pod)).linux.memory.usage_bytes.value == 7
    await system.stats._sweep(system.stats._running(), system.stats._ready())
    assert (await pod_stats(rpcs, pod)).linux.cpu.usage_nano_cores.value == 250_000_000


async def test_the_network_of_a_pod_has_every_interface_and_a_default(
    system: System, rpcs: StreamRpcs
) -> None:
    network = (await pod_stats(rpcs, await system.pod())).linux.network
    assert (network.default_interface.name, network.default_interface.tx_errors.value) == ("eth0", 7)
    assert [one.name for one in network.interfaces] == ["net1", "eth0"]
    assert network.timestamp > 0


async def test_a_pod_in_the_hosts_network_has_none_of_its_own(system: System, rpcs: StreamRpcs) -> None:
    options = cri.NamespaceOption(network=cri.NODE)
    linux = cri.LinuxPodSandboxConfig(
        security_context=cri.LinuxSandboxSecurityContext(namespace_options=options)
    )
    assert not (await pod_stats(rpcs, await system.pod(linux=linux))).linux.HasField("network")


async def test_what_is_unknown_or_not_ready_has_no_stats(system: System, rpcs: StreamRpcs) -> None:
    with pytest.raises(NotFound):
        await pod_stats(rpcs, "f" * 64)
    pod = await system.pod()
    await system.started(pod)
    await system.pods.stop(pod)
    with pytest.raises(Unavailable, match="not ready"):
        await pod_stats(rpcs, pod)
    assert not (await rpcs.ListPodSandboxStats(cri.ListPodSandboxStatsRequest(), None)).stats
    assert not (await rpcs.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest(), None)).pod_metrics


@pytest.mark.parametrize(
    ("filter", "names"),
    [
        (cri.PodSandboxStatsFilter(), ["db", "web"]),
        (cri.PodSandboxStatsFilter(label_selector={"tier": "front"}), ["web"]),
        (cri.PodSandboxStatsFilter(label_selector={"tier": "back"}), []),
        (cri.PodSandboxStatsFilter(id="nothing"), []),
    ],
)
async def test_pods_are_filtered(
    system: System, rpcs: StreamRpcs, filter: cri.PodSandboxStatsFilter, names: list[str]
) -> None:
    await system.pod("web", labels={"tier": "front"})
    await system.pod("db")
    found = await rpcs.ListPodSandboxStats(cri.ListPodSandboxStatsRequest(filter=filter), None)
    assert sorted(one.attributes.metadata.name for one in found.stats) == names
    if names == ["web"]:
        id = found.stats[0].attributes.id
        by_id = cri.ListPodSandboxStatsRequest(filter=cri.PodSandboxStatsFilter(id=id))
        assert len((await rpcs.ListPodSandboxStats(by_id, None)).stats) == 1


async def test_descriptors_are_always_the_same(rpcs: StreamRpcs) -> None:
    first = await rpcs.ListMetricDescriptors(cri.ListMetricDescriptorsRequest(), None)
    assert first == await rpcs.ListMetricDescriptors(cri.ListMetricDescriptorsRequest(), None)
    assert [one.name for one in first.descriptors] == list(METRICS)
    assert all(one.help and one.label_keys for one in first.descriptors)


async def test_metrics_have_the_labels_of_their_descriptors(system: System, rpcs: StreamRpcs) -> None:
    pod = await system.pod("web")
    container = await system.started(pod, "app")
    (found,) = (await rpcs.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest(), None)).pod_metrics
    (inner,) = found.container_metrics
    assert (found.pod_sandbox_id, inner.container_id) == (pod, container)
    descriptors = (await rpcs.ListMetricDescriptors(cri.ListMetricDescriptorsRequest(), None)).descriptors
    keys = {one.name: list(one.label_keys) for one in descriptors}
    for metric in inner.metrics:
        labels = dict(zip(keys[metric.name], metric.label_values, strict=True))
        assert labels["id"] == f"/tests/{container}"
        assert (labels["name"], labels["container"]) == (container, "app")
        assert (labels["pod"], labels["namespace"]) == ("web", "default")
        assert labels["image"] == "docker.io/library/box:latest"
        assert metric.HasField("value")
        assert metric.metric_type == (cri.COUNTER if METRICS[metric.name].counter else cri.GAUGE)
    network = {metric.name: metric for metric in found.metrics if metric.label_values[-1] == "eth0"}
    assert list(network["container_network_receive_bytes_total"].label_values) == [
        "/tests", "", "", "web", "default", "", "eth0",
    ]  # fmt: skip
    assert network["container_network_transmit_errors_total"].value.value == 7
    assert not [metric for metric in found.metrics if "memory" in metric.name]


async def test_a_pods_own_group_has_metrics_without_a_container(system: System, rpcs: StreamRpcs) -> None:
    linux = cri.LinuxPodSandboxConfig(cgroup_parent="/kubepods/poduid-web")
    await system.pod("web", linux=linux)
    (found,) = (await rpcs.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest(), None)).pod_metrics
    (memory,) = [one for one in found.metrics if one.name == "container_memory_usage_bytes"]
    assert list(memory.label_values) == ["/kubepods/poduid-web", "", "", "web", "default", ""]
    assert memory.value.value == 7
    seen = [(one.name, *one.label_values) for one in found.metrics]
    assert len(seen) == len(set(seen))


async def test_stats_of_a_container_that_ended_are_only_its_attributes(
    system: System, rpcs: StreamRpcs
) -> None:
    pod = await system.pod()
    id = await system.started(pod)
    running = system.state.containers[id]
    ended = msgspec.structs.replace(running, finished_at=running.started_at + 1)
    await system.state.commit(ended)
    request = cri.ContainerStatsRequest(container_id=id)
    stats = (await rpcs.ContainerStats(request, None)).stats
    assert stats.attributes.id == id
    assert not stats.HasField("cpu")
    assert not (await pod_stats(rpcs, pod)).linux.containers


async def test_the_sum_does_not_fall_when_a_container_ends(system: System, rpcs: StreamRpcs) -> None:
    pod = await system.pod()
    first, second = await system.started(pod, "a"), await system.started(pod, "b")
    both = (await pod_stats(rpcs, pod)).linux.cpu.usage_core_nano_seconds.value
    for left, id in ((1, first), (0, second)):
        await system.containers.stop(id, 0)
        linux = (await pod_stats(rpcs, pod)).linux
        assert len(linux.containers) == left
        assert linux.cpu.usage_core_nano_seconds.value == both > 0


async def test_a_container_that_cannot_be_measured_is_left_out_of_its_pod(
    system: System, rpcs: StreamRpcs
) -> None:
    pod = await system.pod()
    ended, running = await system.started(pod, "a"), await system.started(pod, "b")
    del system.world.processes[ended]  # its group is gone, and nobody has noticed yet
    assert [one.attributes.id for one in (await pod_stats(rpcs, pod)).linux.containers] == [running]
    (found,) = (await rpcs.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest(), None)).pod_metrics
    assert [one.container_id for one in found.container_metrics] == [running]


async def test_others_get_their_turn_after_each_pod_of_the_metrics(system: System, rpcs: StreamRpcs) -> None:
    for name in ("a", "b", "c"):
        await system.started(await system.pod(name))
    await rpcs.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest(), None)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    try:
        found = await rpcs.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest(), None)
        assert turns >= len(found.pod_metrics) == 3
    finally:
        other.cancel()


async def test_a_stuck_walk_over_a_layer_keeps_no_request_waiting(system: System, rpcs: StreamRpcs) -> None:
    pod = await system.pod()
    id = await system.started(pod)
    system.world.hang("rootfs.usage")
    system.tasks.start("stats collector", system.stats.collect())
    await until(lambda: "rootfs.usage" in system.world.calls)
    async with asyncio.timeout(5):
        assert (
            await rpcs.ContainerStats(cri.ContainerStatsRequest(container_id=id), None)
        ).stats.cpu.timestamp
        assert (await rpcs.ListContainerStats(cri.ListContainerStatsRequest(), None)).stats
        assert (await pod_stats(rpcs, pod)).linux.containers
        assert (await rpcs.ListPodSandboxStats(cri.ListPodSandboxStatsRequest(), None)).stats
        (found,) = (await rpcs.ListPodSandboxMetrics(cri.ListPodSandboxMetricsRequest(), None)).pod_metrics
        for parts in (
            rpcs.StreamContainerStats(cri.StreamContainerStatsRequest(), None),
            rpcs.StreamPodSandboxStats(cri.StreamPodSandboxStatsRequest(), None),
            rpcs.StreamPodSandboxMetrics(cri.StreamPodSandboxMetricsRequest(), None),
        ):
            assert len([part async for part in parts]) == 1
    names = {metric.name for (one,) in [found.container_metrics] for metric in one.metrics}
    assert "container_fs_limit_bytes" in names and "container_fs_usage_bytes" not in names
    await system.tasks.stop()
