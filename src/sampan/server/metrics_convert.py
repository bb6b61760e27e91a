"""Values of metrics to CRI messages, with the labels that cAdvisor gives them. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container
from sampan.model.image import Image
from sampan.model.pod import Pod
from sampan.runtime import metrics
from sampan.runtime.image_ports import Filesystem
from sampan.runtime.metric_names import METRICS
from sampan.runtime.metrics import Disk, Value
from sampan.runtime.pod_usage import PodSample, Sample
from sampan.runtime.ports import CgroupDetails
from sampan.runtime.stats import Layer
from sampan.wire import cgroup_paths

KINDS = {name: cri.COUNTER if one.counter else cri.GAUGE for name, one in METRICS.items()}


@dataclass(frozen=True, slots=True)
class Measured:
    """One container and all that is known of its usage."""

    container: Container
    image: Image | None
    sample: Sample
    details: CgroupDetails | None
    layer: Layer | None


def descriptors() -> list[cri.MetricDescriptor]:
    """What ListMetricDescriptors says, always."""
    return [
        cri.MetricDescriptor(name=one.name, help=one.help, label_keys=one.label_keys)
        for one in METRICS.values()
    ]


def pod_metrics(
    pod: Pod, sample: PodSample, details: CgroupDetails | None, driver: str
) -> cri.PodSandboxMetrics:
    """What the pod itself has: its network, and its control group if that is its own. Containers are added to it."""
    place = "/" + cgroup_paths.parent_directory(driver, pod.cgroup_parent)
    base = [place, "", "", pod.config.metadata.name, pod.config.metadata.namespace, ""]
    found = _metrics(metrics.of_network(sample.interfaces), base, sample.at)
    if sample.group is not None:
        found += _metrics(metrics.of_group(sample.group, details), base, sample.group.usage.at)
    return cri.PodSandboxMetrics(pod_sandbox_id=pod.id, metrics=found)


def container_metrics(
    pod: Pod, measured: Measured, filesystem: Filesystem | None, driver: str
) -> cri.ContainerMetrics:
    """What one of its containers has."""
    container, sample, details, layer = measured.container, measured.sample, measured.details, measured.layer
    base = [
        "/" + cgroup_paths.directory(driver, pod.cgroup_parent, container.id),
        container.id,
        _image_name(container, measured.image),
        pod.config.metadata.name,
        pod.config.metadata.namespace,
        container.config.metadata.name,
    ]
    disk = Disk(layer.usage if layer else None, filesystem) if filesystem else None
    asked = container.config.linux.resources.cpu_shares
    values = [
        *metrics.of_group(sample, details, asked),
        *metrics.of_container(container.started_at, details, disk),
    ]
    return cri.ContainerMetrics(container_id=container.id, metrics=_metrics(values, base, sample.usage.at))


def _metrics(values: Iterable[Value], base: list[str], at: int) -> list[cri.Metric]:
    return [
        cri.Metric(
            name=name,
            timestamp=at,
            metric_type=KINDS[name],
            label_values=[*base, *labels],
            value=cri.UInt64Value(value=value),
        )
        for name, labels, value in values
    ]


def _image_name(container: Container, image: Image | None) -> str:
    asked = container.config.image
    return asked.user_specified_image or (image.tags[0] if image and image.tags else asked.image)
