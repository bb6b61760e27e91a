"""Samples to the CRI's stats messages, and the CRI's stats filters. Pure."""

from collections.abc import Iterable

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container, ContainerState
from sampan.model.pod import Pod, PodState
from sampan.runtime.pod_usage import PodSample, Sample
from sampan.runtime.stats import Layer
from sampan.server.convert import labelled
from sampan.wire import net_dev
from sampan.wire.net_dev import Interface
from sampan.wire.psi import Pressure, Stall


def stats_match(container: Container, filter: cri.ContainerStatsFilter) -> bool:
    """Like `container_matches`, for ListContainerStats, which leaves out what does not run."""
    return (
        container.state is ContainerState.RUNNING
        and container.id.startswith(filter.id)
        and container.pod_id.startswith(filter.pod_sandbox_id)
        and labelled(container.config.labels, filter.label_selector)
    )


def pod_stats_match(pod: Pod, filter: cri.PodSandboxStatsFilter) -> bool:
    """Like `pod_matches`, for ListPodSandboxStats, which leaves out what is not ready."""
    return (
        pod.state is PodState.READY
        and pod.id.startswith(filter.id)
        and labelled(pod.config.labels, filter.label_selector)
    )


def container_stats(
    container: Container, sample: Sample | None, layer: Layer | None, mountpoint: str
) -> cri.ContainerStats:
    """CPU, memory, swap and pressure from the sample, the writable layer from the last walk."""
    config = container.config
    stats = cri.ContainerStats()
    stats.attributes.id = container.id
    stats.attributes.metadata.CopyFrom(config.metadata)
    stats.attributes.labels.MergeFrom(config.labels)
    stats.attributes.annotations.MergeFrom(config.annotations)
    if sample is None:
        return stats
    usage = sample.usage
    _processor(stats.cpu, sample)
    _memory(stats.memory, sample)
    _io(stats.io, sample)
    stats.swap.timestamp = usage.at
    _set(stats.swap, (("swap_usage_bytes", usage.swap_usage), ("swap_available_bytes", usage.swap_available)))
    if layer is not None:
        stats.writable_layer.timestamp = layer.at
        stats.writable_layer.fs_id.mountpoint = mountpoint
        stats.writable_layer.used_bytes.value = layer.usage.bytes
        stats.writable_layer.inodes_used.value = layer.usage.inodes
    return stats


def pod_stats(
    pod: Pod, sample: PodSample, whole: Sample, stats: Iterable[cri.ContainerStats]
) -> cri.PodSandboxStats:
    """The pod, as a `whole` and, in `stats`, its containers. A pod in the host's network has none of its own."""
    config = pod.config
    found = cri.PodSandboxStats(
        attributes=cri.PodSandboxAttributes(
            id=pod.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
        ),
        linux=cri.LinuxPodSandboxStats(containers=stats),
    )
    linux = found.linux
    _processor(linux.cpu, whole)
    _memory(linux.memory, whole)
    _io(linux.io, whole)
    linux.process.timestamp = whole.usage.at
    _set(linux.process, (("process_count", whole.usage.processes),))
    if (default := net_dev.default(sample.interfaces)) is not None:  # the kubelet cannot do without a default
        linux.network.timestamp = sample.at
        linux.network.default_interface.CopyFrom(_interface(default))
        linux.network.interfaces.extend(map(_interface, sample.interfaces))
    return found


def _processor(message: cri.CpuUsage, sample: Sample) -> None:
    message.timestamp = sample.usage.at
    _set(message, (("usage_core_nano_seconds", sample.usage.cpu_ns), ("usage_nano_cores", sample.nano_cores)))
    if sample.usage.cpu_pressure is not None:
        _pressure(message.psi, sample.usage.cpu_pressure)


def _memory(message: cri.MemoryUsage, sample: Sample) -> None:
    usage = sample.usage
    message.timestamp = usage.at
    figures = (
        ("working_set_bytes", usage.memory_working_set),
        ("available_bytes", usage.memory_available),
        ("usage_bytes", usage.memory_usage),
        ("rss_bytes", usage.memory_rss),
        ("page_faults", usage.page_faults),
        ("major_page_faults", usage.major_page_faults),
    )
    _set(message, figures)
    if usage.memory_pressure is not None:
        _pressure(message.psi, usage.memory_pressure)


def _io(message: cri.IoUsage, sample: Sample) -> None:
    if sample.usage.io_pressure is not None:
        message.timestamp = sample.usage.at
        _pressure(message.psi, sample.usage.io_pressure)


def _set(message: object, figures: Iterable[tuple[str, int | None]]) -> None:
    for field, value in figures:
        if value is not None:
            getattr(message, field).value = value


def _pressure(message: cri.PsiStats, pressure: Pressure) -> None:
    _stall(message.Full, pressure.full)
    _stall(message.Some, pressure.some)


def _stall(message: cri.PsiData, stall: Stall) -> None:
    message.SetInParent()  # also where nothing ever waited
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
