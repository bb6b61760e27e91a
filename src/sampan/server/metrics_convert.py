"""Values of metrics to CRI messages, with the labels that cAdvisor gives them. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container
from sampan.model.errors import Invalid
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
    found: cri.PodSandboxMetrics, pod: Pod, sample: PodSample, details: CgroupDetails | None, driver: str
) -> None:
    """Fill in what the pod itself has: its network, and its control group if that is its own."""
    base = [
        _place(driver, pod.cgroup_parent),
        "",
        "",
        pod.config.metadata.name,
        pod.config.metadata.namespace,
        "",
    ]
    found.pod_sandbox_id = pod.id
    _fill(found, metrics.of_network(sample.interfaces), base, sample.at)
    if sample.group is not None:
        _fill(found, metrics.of_group(sample.group, details), base, sample.group.usage.at)


def container_metrics(
    found: cri.ContainerMetrics, pod: Pod, measured: Measured, filesystem: Filesystem | None, driver: str
) -> None:
    """Fill in what one of the pod's containers has."""
    container, sample, details, layer = measured.container, measured.sample, measured.details, measured.layer
    base = [
        _place(driver, pod.cgroup_parent, container.id),
        container.id,
        _image_name(container, measured.image),
        pod.config.metadata.name,
        pod.config.metadata.namespace,
        container.config.metadata.name,
    ]
    disk = Disk(layer.usage if layer else None, filesystem) if filesystem else None
    asked = container.limits.cpu_shares
    found.container_id = container.id
    _fill(found, metrics.of_group(sample, details, asked), base, sample.usage.at)
    _fill(found, metrics.of_container(container.started_at, details, disk), base, sample.usage.at)


def _fill(
    found: cri.PodSandboxMetrics | cri.ContainerMetrics, values: Iterable[Value], base: list[str], at: int
) -> None:
    """In place: a message that is put into another is copied, with all that is in it."""
    add = found.metrics.add
    for name, labels, value in values:
        message = add(name=name, timestamp=at, metric_type=KINDS[name], label_values=[*base, *labels])
        message.value.SetInParent()  # zero is a value
        message.value.value = value


def _place(driver: str, parent: str, id: str = "") -> str:
    """The path of a control group; of a parent from the days of another driver, its name."""
    try:
        if not id:
            return "/" + cgroup_paths.parent_directory(driver, parent)
        return "/" + cgroup_paths.directory(driver, parent, id)
    except Invalid:
        return parent


def _image_name(container: Container, image: Image | None) -> str:
    asked = container.config.image
    return asked.user_specified_image or (image.tags[0] if image and image.tags else asked.image)
