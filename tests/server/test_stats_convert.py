"""Samples as the CRI's messages."""

from sampan.api import cri_pb2 as cri
from sampan.runtime.image_ports import Usage
from sampan.runtime.pod_usage import PodSample, Sample
from sampan.runtime.ports import CgroupUsage
from sampan.runtime.stats import Layer
from sampan.server import stats_convert
from sampan.wire.psi import Pressure, Stall
from tests.server.test_convert import CONTAINER, POD

PRESSURE = Pressure(some=Stall(1500, 0.5, 1.0, 2.0), full=Stall(700, 0.1, 0.2, 0.3))
USAGE = CgroupUsage(
    at=5,
    cpu_ns=9,
    memory_usage=8,
    memory_working_set=7,
    memory_available=6,
    swap_usage=0,
    processes=3,
    cpu_pressure=PRESSURE,
    memory_pressure=Pressure(some=Stall()),
    io_pressure=PRESSURE,
)


def container_stats(sample: Sample, layer: Layer | None) -> cri.ContainerStats:
    return stats_convert.container_stats(cri.ContainerStats(), CONTAINER, sample, layer, "/root")


def test_a_container_under_pressure() -> None:
    stats = stats_convert.container_stats(
        cri.ContainerStats(), CONTAINER, Sample(USAGE, 4), Layer(Usage(3, 2), 1), "/root"
    )
    expected = cri.PsiStats(
        Full=cri.PsiData(Total=700, Avg10=0.1, Avg60=0.2, Avg300=0.3),
        Some=cri.PsiData(Total=1500, Avg10=0.5, Avg60=1.0, Avg300=2.0),
    )
    assert stats.cpu.psi == stats.io.psi == expected
    assert (stats.io.timestamp, stats.cpu.timestamp, stats.memory.timestamp, stats.swap.timestamp) == (5,) * 4
    assert stats.memory.psi.HasField("Full") and stats.memory.psi.HasField("Some")
    assert stats.swap.HasField("swap_usage_bytes") and not stats.swap.HasField("swap_available_bytes")
    assert stats.cpu.usage_nano_cores.value == 4
    assert (stats.writable_layer.used_bytes.value, stats.writable_layer.inodes_used.value) == (3, 2)


def test_without_pressure_there_is_none() -> None:
    stats = stats_convert.container_stats(
        cri.ContainerStats(), CONTAINER, Sample(CgroupUsage(at=5, cpu_ns=9)), None, "/root"
    )
    assert not stats.HasField("io")
    assert not stats.cpu.HasField("psi")
    assert not stats.memory.HasField("psi")
    assert not stats.HasField("writable_layer")


def test_a_pod_says_what_its_own_group_says() -> None:
    stats = stats_convert.pod_stats(cri.PodSandboxStats(), POD, PodSample(1), Sample(USAGE, 4))
    assert stats.attributes.id == POD.id
    assert stats.attributes.annotations == POD.config.annotations
    assert stats.linux.memory.available_bytes.value == 6
    assert (stats.linux.process.timestamp, stats.linux.process.process_count.value) == (5, 3)
    assert (stats.linux.cpu.timestamp, stats.linux.memory.timestamp, stats.linux.io.timestamp) == (5, 5, 5)
    assert stats.linux.io.psi.Some.Total == 1500
    assert not stats.linux.HasField("network")
