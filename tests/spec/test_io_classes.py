"""Which class of block I/O or RDT a container asks for."""

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.model.io_classes import DeviceLimits, Limits
from sampan.spec import io_classes

POD, APP = "blockio.resources.beta.kubernetes.io/pod", "blockio.resources.beta.kubernetes.io/container.app"


def asked(container: dict[str, str], pod: dict[str, str]) -> str:
    config = cri.ContainerConfig(metadata=cri.ContainerMetadata(name="app"), annotations=container)
    return io_classes.block_io_class(config, cri.PodSandboxConfig(annotations=pod))


@pytest.mark.parametrize(
    ("container", "pod", "name"),
    [
        ({}, {}, ""),
        ({}, {POD: "slow"}, "slow"),
        ({}, {POD: "slow", APP: "fast"}, "fast"),
        ({}, {APP.replace("app", "other"): "fast"}, ""),
        ({POD: "mine"}, {POD: "slow"}, "mine"),
        ({POD: "mine"}, {APP: "fast"}, "fast"),
        ({APP: "mine"}, {APP: "fast"}, "mine"),
        ({}, {POD: "slow", APP: ""}, ""),  # none, said of this one container
        ({"io.kubernetes.cri.blockio-class": "x"}, {"blockio": "x"}, ""),
        ({}, {POD.replace("blockio", "rdt"): "gold"}, ""),
    ],
)
def test_the_more_particular_annotation_counts(
    container: dict[str, str], pod: dict[str, str], name: str
) -> None:
    assert asked(container, pod) == name


@pytest.mark.parametrize("name", ["../../etc", "a/b", ".", "..", "a\nb", "x" * 256, "\0"])
def test_what_is_no_class(name: str) -> None:
    with pytest.raises(Invalid, match=f"annotation {POD}"):
        asked({}, {POD: name})


def test_the_root_class_of_rdt_is_none() -> None:
    for name, wanted in (("system/default", ""), ("gold", "gold")):
        pod = cri.PodSandboxConfig(annotations={"rdt.resources.beta.kubernetes.io/pod": name})
        assert io_classes.rdt_class(cri.ContainerConfig(), pod) == wanted
    with pytest.raises(Invalid):
        asked({}, {POD: "system/default"})


def test_no_limits_are_no_section() -> None:
    assert io_classes.block_io(()) == {}
    assert io_classes.block_io((DeviceLimits(Limits(("/dev/absent",), read_bps=5)),)) == {}


def test_no_rate_at_all_is_not_the_rate_nought() -> None:
    limits = (DeviceLimits(Limits(("/dev/x",), read_bps=0), ((8, 0),)),)
    assert io_classes.block_io(limits) == {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]}
