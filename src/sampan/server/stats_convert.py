"""Samples to the CRI's stats messages, and the CRI's stats filters. Pure."""

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container, ContainerState
from sampan.runtime.stats import Layer, Sample
from sampan.server.convert import labelled


def stats_match(container: Container, filter: cri.ContainerStatsFilter) -> bool:
    """Like `container_matches`, for ListContainerStats, which leaves out what does not run."""
    return (
        container.state is ContainerState.RUNNING
        and container.id.startswith(filter.id)
        and container.pod_id.startswith(filter.pod_sandbox_id)
        and labelled(container.config.labels, filter.label_selector)
    )


def container_stats(
    container: Container, sample: Sample | None, layer: Layer | None, mountpoint: str
) -> cri.ContainerStats:
    """CPU and memory from the sample, the writable layer from the last walk."""
    config = container.config
    stats = cri.ContainerStats(
        attributes=cri.ContainerAttributes(
            id=container.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
        )
    )
    if sample is None:
        return stats
    usage, at = sample.usage, sample.usage.at
    stats.cpu.timestamp = stats.memory.timestamp = stats.swap.timestamp = at
    for message, field, value in (
        (stats.cpu, "usage_core_nano_seconds", usage.cpu_ns),
        (stats.cpu, "usage_nano_cores", sample.nano_cores),
        (stats.memory, "working_set_bytes", usage.memory_working_set),
        (stats.memory, "available_bytes", usage.memory_available),
        (stats.memory, "usage_bytes", usage.memory_usage),
        (stats.memory, "rss_bytes", usage.memory_rss),
        (stats.memory, "page_faults", usage.page_faults),
        (stats.memory, "major_page_faults", usage.major_page_faults),
        (stats.swap, "swap_usage_bytes", usage.swap_usage),
        (stats.swap, "swap_available_bytes", usage.swap_available),
    ):
        if value is not None:
            getattr(message, field).value = value
    if layer is not None:
        stats.writable_layer.timestamp = layer.at
        stats.writable_layer.fs_id.mountpoint = mountpoint
        stats.writable_layer.used_bytes.value = layer.usage.bytes
        stats.writable_layer.inodes_used.value = layer.usage.inodes
    return stats
