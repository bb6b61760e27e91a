"""Samples to the CRI's stats messages, and the CRI's stats filters. Pure."""

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container, ContainerState
from sampan.model.pod import Pod, PodState
from sampan.runtime.pod_usage import PodSample, Sample
from sampan.runtime.ports import CgroupUsage
from sampan.runtime.stats import Layer
from sampan.server.convert import labelled
from sampan.wire import net_dev
from sampan.wire.net_dev import Interface
from sampan.wire.psi import Pressure, Stall


def stats_match(container: Container, filter: cri.ContainerStatsFilter) -> bool:
    """Like `selecting_containers`, for ListContainerStats, which leaves out what does not run."""
    return (
        container.state is ContainerState.RUNNING
        and container.id.startswith(filter.id)
        and container.pod_id.startswith(filter.pod_sandbox_id)
        and labelled(container.config.labels, filter.label_selector)
    )


def pod_stats_match(pod: Pod, filter: cri.PodSandboxStatsFilter) -> bool:
    """Like `selecting_pods`, for ListPodSandboxStats, which leaves out what is not ready."""
    return (
        pod.state is PodState.READY
        and pod.id.startswith(filter.id)
        and labelled(pod.config.labels, filter.label_selector)
    )


def container_stats(
    stats: cri.ContainerStats,
    container: Container,
    sample: Sample | None,
    layer: Layer | None,
    mountpoint: str,
) -> cri.ContainerStats:
    """Fill in CPU, memory, swap and pressure from the sample, the writable layer from the last walk. In place: a
    message that is put into another is copied, with all that is in it."""
    config = container.config
    attributes = stats.attributes
    attributes.id = container.id
    attributes.metadata.CopyFrom(config.metadata)
    attributes.labels.MergeFrom(config.labels)
    attributes.annotations.MergeFrom(config.annotations)
    if sample is None:
        return stats
    usage = sample.usage
    _processor(stats.cpu, sample)
    _memory(stats.memory, sample)
    _io(stats.io, sample)
    _swap(stats.swap, usage)
    if layer is not None:
        written = stats.writable_layer
        written.timestamp = layer.at
        written.fs_id.mountpoint = mountpoint
        written.used_bytes.value = layer.usage.bytes
        written.inodes_used.value = layer.usage.inodes
    return stats


def pod_stats(found: cri.PodSandboxStats, pod: Pod, sample: PodSample, whole: Sample) -> cri.PodSandboxStats:
    """Fill in the pod as a whole; its containers are yet to be added. A pod in the host's network has none of its
    own."""
    config = pod.config
    found.attributes.id = pod.id
    found.attributes.metadata.CopyFrom(config.metadata)
    found.attributes.labels.MergeFrom(config.labels)
    found.attributes.annotations.MergeFrom(config.annotations)
    linux = found.linux
    _processor(linux.cpu, whole)
    _memory(linux.memory, whole)
    _io(linux.io, whole)
    linux.process.timestamp = whole.usage.at
    if whole.usage.processes is not None:
        linux.process.process_count.value = whole.usage.processes
    if (default := net_dev.default(sample.interfaces)) is not None:  # the kubelet cannot do without a default
        linux.network.timestamp = sample.at
        linux.network.default_interface.CopyFrom(_interface(default))
        linux.network.interfaces.extend(map(_interface, sample.interfaces))
    return found


def _processor(message: cri.CpuUsage, sample: Sample) -> None:
    message.timestamp = sample.usage.at
    if sample.usage.cpu_ns is not None:
        message.usage_core_nano_seconds.value = sample.usage.cpu_ns
    if sample.nano_cores is not None:
        message.usage_nano_cores.value = sample.nano_cores
    if sample.usage.cpu_pressure is not None:
        _pressure(message.psi, sample.usage.cpu_pressure)


def _memory(message: cri.MemoryUsage, sample: Sample) -> None:
    usage = sample.usage
    message.timestamp = usage.at
    if usage.memory_working_set is not None:
        message.working_set_bytes.value = usage.memory_working_set
    if usage.memory_available is not None:
        message.available_bytes.value = usage.memory_available
    if usage.memory_usage is not None:
        message.usage_bytes.value = usage.memory_usage
    if usage.memory_rss is not None:
        message.rss_bytes.value = usage.memory_rss
    if usage.page_faults is not None:
        message.page_faults.value = usage.page_faults
    if usage.major_page_faults is not None:
        message.major_page_faults.value = usage.major_page_faults
    if usage.memory_pressure is not None:
        _pressure(message.psi, usage.memory_pressure)


def _io(message: cri.IoUsage, sample: Sample) -> None:
    if sample.usage.io_pressure is not None:
        message.timestamp = sample.usage.at
        _pressure(message.psi, sample.usage.io_pressure)


def _swap(message: cri.SwapUsage, usage: CgroupUsage) -> None:
    message.timestamp = usage.at
    if usage.swap_usage is not None:
        message.swap_usage_bytes.value = usage.swap_usage
    if usage.swap_available is not None:
        message.swap_available_bytes.value = usage.swap_available


def _pressure(message: cri.PsiStats, pressure: Pressure) -> None:
    _stall(message.Full, pressure.full)
    _stall(message.Some, pressure.some)


def _stall(message: cri.PsiData, stall: Stall) -> None:
    message.Total = stall.total_ns
    message.Avg10, message.Avg60, message.Avg300 = stall.avg10, stall.avg60, stall.avg300


def _interface(interface: Interface) -> cri.NetworkInterfaceUsage:
    return cri.NetworkInterfaceUsage(
        name=interface.name,
        rx_bytes=cri.UInt64Value(value=interface.rx_bytes),
        rx_errors=cri.UInt64Value(value=interface.rx_errors),
        tx_bytes=cri.UInt64Value(value=interface.tx_bytes),
        tx_errors=cri.UInt64Value(value=interface.tx_errors),
    )
