import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container, finished, started
from sampan.model.image import Image, ImageConfig
from sampan.model.pod import Pod, ready, stopping
from sampan.model.process import ProcessRef
from sampan.model.user import User
from sampan.runtime.image_ports import Usage
from sampan.runtime.pod_usage import Sample
from sampan.runtime.ports import CgroupUsage
from sampan.runtime.stats import Layer
from sampan.server import convert, stats_convert

POD = ready(
    Pod(
        id="ab" * 32,
        config=cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name="web", uid="u", namespace="ns", attempt=2),
            labels={"app": "web", "tier": "front"},
            annotations={"run.oci.x": "y"},
        ),
        handler="crun",
        created_at=5,
        hostname="h",
    ),
    6,
    ips=("10.0.0.2", "fd00::2"),
)
CONTAINER = Container(
    id="cd" * 32,
    pod_id=POD.id,
    config=cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name="app", attempt=1),
        image=cri.ImageSpec(image="sha256:1", user_specified_image="box:1"),
        labels={"app": "web"},
        mounts=[cri.Mount(host_path="/a", container_path="/b", readonly=True)],
    ),
    handler="crun",
    image_id="sha256:1",
    created_at=7,
    user=User(1000, 1000, (1000, 50)),
    init=ProcessRef(10, 11),
    monitor=ProcessRef(12, 13),
    stop_signal=3,
)
IMAGE = Image(id="sha256:1", config=ImageConfig(), layers=(), tags=("docker.io/library/box:1",))


def test_a_pods_status_has_every_address_and_what_the_client_gave_unaltered() -> None:
    status = convert.pod_status(POD)
    assert (status.network.ip, [ip.ip for ip in status.network.additional_ips]) == ("10.0.0.2", ["fd00::2"])
    assert status.metadata == POD.config.metadata and dict(status.annotations) == {"run.oci.x": "y"}
    assert status.state == cri.SANDBOX_READY and status.created_at == 5
    assert convert.pod_status(stopping(POD, 9)).network.ip == ""


@pytest.mark.parametrize(
    ("filter", "matches"),
    [
        (cri.PodSandboxFilter(), True),
        (cri.PodSandboxFilter(id="abab"), True),
        (cri.PodSandboxFilter(id="ba"), False),
        (cri.PodSandboxFilter(label_selector={"app": "web", "tier": "front"}), True),
        (cri.PodSandboxFilter(label_selector={"app": "web", "tier": "back"}), False),
        (cri.PodSandboxFilter(state=cri.PodSandboxStateValue(state=cri.SANDBOX_READY)), True),
        (cri.PodSandboxFilter(state=cri.PodSandboxStateValue(state=cri.SANDBOX_NOTREADY)), False),
    ],
)
def test_pod_filters(filter: cri.PodSandboxFilter, matches: bool) -> None:
    assert convert.selecting_pods(filter)(POD) is matches


def test_an_intent_is_not_listed() -> None:
    assert not convert.selecting_pods(cri.PodSandboxFilter())(msgspec.structs.replace(POD, ready_at=0))
    hidden = msgspec.structs.replace(CONTAINER, init=None)
    assert not convert.selecting_containers(cri.ContainerFilter())(hidden)


@pytest.mark.parametrize(
    ("filter", "matches"),
    [
        (cri.ContainerFilter(), True),
        (cri.ContainerFilter(id="cd", pod_sandbox_id="ab"), True),
        (cri.ContainerFilter(pod_sandbox_id="cd"), False),
        (cri.ContainerFilter(state=cri.ContainerStateValue(state=cri.CONTAINER_CREATED)), True),
        (cri.ContainerFilter(state=cri.ContainerStateValue(state=cri.CONTAINER_EXITED)), False),
        (cri.ContainerFilter(label_selector={"app": "db"}), False),
    ],
)
def test_container_filters(filter: cri.ContainerFilter, matches: bool) -> None:
    assert convert.selecting_containers(filter)(CONTAINER) is matches


def test_a_containers_status_echoes_the_request_and_tells_what_became_of_it() -> None:
    status = convert.container_status(finished(started(CONTAINER, 8), at=9, code=3), IMAGE)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 3, "Error")
    assert (status.created_at, status.started_at, status.finished_at) == (7, 8, 9)
    assert list(status.mounts) == list(CONTAINER.config.mounts)
    assert (status.image.image, status.image_ref, status.image_id) == ("box:1", "sha256:1", "sha256:1")
    assert list(status.user.linux.supplemental_groups) == [1000, 50]
    assert status.stop_signal == cri.SIGNAL_SIGQUIT


def test_a_status_echoes_every_field_of_a_mount_and_says_which_image_it_shows() -> None:
    ids = [cri.IDMapping(host_id=5000, container_id=0, length=10)]
    of_host = cri.Mount(
        container_path="/b",
        host_path="/a",
        readonly=True,
        recursive_read_only=True,
        propagation=cri.PROPAGATION_HOST_TO_CONTAINER,
        selinux_relabel=True,
        uidMappings=ids,
        gidMappings=ids,
        mount_options=["noexec", "nodev"],
    )
    of_image = cri.Mount(
        container_path="/m", readonly=True, image=cri.ImageSpec(image="models:1"), image_sub_path="small"
    )
    other = cri.Mount(container_path="/n", image=cri.ImageSpec(image="box"), readonly=True)
    both = (of_host, of_image, other)
    covered = {field.name for mount in both for field, _ in mount.ListFields()}
    assert covered == set(cri.Mount.DESCRIPTOR.fields_by_name)
    config = cri.ContainerConfig(mounts=both)
    container = msgspec.structs.replace(CONTAINER, config=config, volume_images=("sha256:7", "sha256:8"))
    told = list(convert.container_status(container, IMAGE).mounts)
    assert told[0] == of_host
    assert [mount.image.image_ref for mount in told] == ["", "sha256:7", "sha256:8"]
    for mount in told:
        mount.image.ClearField("image_ref")
    told[0].ClearField("image")
    assert told == list(both) and container.config == config


def test_stats_leave_out_what_the_kernel_does_not_say() -> None:
    sample = Sample(CgroupUsage(at=3, cpu_ns=9, memory_usage=7), nano_cores=None)
    stats = stats_convert.container_stats(
        cri.ContainerStats(), CONTAINER, sample, Layer(Usage(4096, 2), 8), "/root"
    )
    assert stats.cpu.usage_core_nano_seconds.value == 9 and not stats.cpu.HasField("usage_nano_cores")
    assert (stats.writable_layer.used_bytes.value, stats.writable_layer.timestamp) == (
        4096,
        8,
    ) and stats.writable_layer.fs_id.mountpoint == "/root"
