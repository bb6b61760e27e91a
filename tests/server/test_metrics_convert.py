"""Metrics as the CRI's messages; the values are tested with `runtime.metrics`, the labels with the RPC."""

import msgspec

from sampan.api import cri_pb2 as cri
from sampan.runtime.pod_usage import PodSample, Sample
from sampan.runtime.ports import CgroupUsage
from sampan.server import metrics_convert
from sampan.server.metrics_convert import Measured
from sampan.wire.cgroup_paths import CGROUPFS, SYSTEMD
from tests.server.test_convert import CONTAINER, IMAGE, POD

SAMPLE = Sample(CgroupUsage(at=1_700_000_000_000_000_000, cpu_ns=0))


def container_metrics(driver: str, parent: str) -> list[cri.Metric]:
    found = cri.ContainerMetrics()
    pod = msgspec.structs.replace(POD, cgroup_parent=parent)
    measured = Measured(CONTAINER, IMAGE, SAMPLE, None, None)
    metrics_convert.container_metrics(found, pod, measured, None, driver)
    assert found.container_id == CONTAINER.id
    return list(found.metrics)


def test_zero_is_a_value() -> None:
    (usage,) = [one for one in container_metrics(CGROUPFS, "/a") if "cpu_usage" in one.name]
    assert usage.HasField("value") and usage.value.value == 0
    assert list(usage.label_values) == [
        f"/a/{CONTAINER.id}", CONTAINER.id, "box:1", "web", "ns", "app", "total",
    ]  # fmt: skip
    assert usage.timestamp == SAMPLE.usage.at


def test_the_id_is_the_path_of_the_control_group() -> None:
    found = container_metrics(SYSTEMD, "a-b.slice")
    assert found[0].label_values[0] == f"/a.slice/a-b.slice/sampan-{CONTAINER.id}.scope"


def test_a_pod_from_the_days_of_another_driver_breaks_nothing() -> None:
    assert container_metrics(SYSTEMD, "/kubepods")[0].label_values[0] == "/kubepods"
    found = cri.PodSandboxMetrics()
    pod = msgspec.structs.replace(POD, cgroup_parent="a.slice")
    metrics_convert.pod_metrics(found, pod, PodSample(1, SAMPLE), None, CGROUPFS)
    assert found.metrics[0].label_values[0] == "a.slice"
