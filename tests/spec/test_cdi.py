# ruff: noqa: E501 - one row of a table, one line
"""What a request says of CDI, and what cannot be done of what a file wishes. What can is in golden/cdi-*."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.cdi import Edits, Given
from sampan.model.errors import Invalid
from sampan.model.image import ImageConfig
from sampan.spec import cdi, container
from sampan.spec.facts import ContainerFacts, DeviceNode, Host, PodFacts, Source, User

FILE = "/etc/cdi/v.json"
NAMESPACES = {f"{kind}_namespace": f"/n/{kind}" for kind in ("network", "ipc", "uts", "pid")}


def config(*names: str, **annotations: str) -> cri.ContainerConfig:
    notes = {key.replace("__", "/").replace("_", "."): value for key, value in annotations.items()}
    return cri.ContainerConfig(CDI_devices=[cri.CDIDevice(name=name) for name in names], annotations=notes)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (config(), ()),
        (config("v.com/gpu=1", "v.com/gpu=0"), ("v.com/gpu=1", "v.com/gpu=0")),
        (config("v.com/gpu=0", "v.com/gpu=0"), ("v.com/gpu=0",)),
        (config(cdi_k8s_io__a="v.com/gpu=0,v.com/gpu=1"), ("v.com/gpu=0", "v.com/gpu=1")),
        (config("v.com/gpu=1", cdi_k8s_io__b="v.com/gpu=2", cdi_k8s_io__a="v.com/gpu=1,v.com/gpu=0"), ("v.com/gpu=1", "v.com/gpu=0", "v.com/gpu=2")),
        (config(cdi_k8s_io="v.com/gpu=0", other_io__cdi="x", cdi_k8s_iox__a="y"), ()),
    ],
)  # fmt: skip
def test_field_and_annotations_are_one_list(asked: cri.ContainerConfig, names: tuple[str, ...]) -> None:
    assert cdi.names(asked) == names


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (config("gpu"), r"CDI_devices\[0\].name: 'gpu'"),
        (config("v.com/gpu=0", "v.com/gpu=../../x"), r"CDI_devices\[1\].name"),
        (config(""), r"CDI_devices\[0\].name"),
        (config(cdi_k8s_io__a=""), "annotation cdi.k8s.io/a: ''"),
        (config(cdi_k8s_io__a="v.com/gpu=0, v.com/gpu=1"), "annotation cdi.k8s.io/a: ' v.com/gpu=1'"),
        (config(cdi_k8s_io__a="v.com/gpu=0,"), "annotation cdi.k8s.io/a"),
    ],
)
def test_what_is_no_name_is_refused(asked: cri.ContainerConfig, field: str) -> None:
    with pytest.raises(Invalid, match=field):
        cdi.names(asked)


def facts(edits: dict[str, Any], **changes: Any) -> ContainerFacts:
    made = ContainerFacts(
        id="c",
        config=cri.ContainerConfig(),
        image=ImageConfig(entrypoint=("/app",)),
        pod=PodFacts(id="p", config=cri.PodSandboxConfig(), hostname="h", **NAMESPACES),
        host=Host(),
        user=User(),
        rootfs="/r",
        cgroups_path="/c",
        cdi=(Given(FILE, msgspec.convert(edits, Edits)),),
    )
    return replace(made, **changes)


def test_the_pods_annotations_give_no_device() -> None:
    """Only the kubelet writes a container's; a user writes the pod's (CVE-2026-53492)."""
    pod = cri.PodSandboxConfig(annotations={"cdi.k8s.io/x": "v.com/gpu=0"})
    known = facts({})
    assert container.build(replace(known, pod=replace(known.pod, config=pod))) == container.build(known)
    assert cdi.names(cri.ContainerConfig()) == ()


def test_what_the_host_is_asked_to_look_at() -> None:
    given = facts(
        {
            "deviceNodes": [{"path": "/dev/a"}, {"path": "/dev/b", "hostPath": "/dev/real"}],
            "mounts": [
                {"hostPath": "/lib/x", "containerPath": "/x"},
                {"hostPath": "/tmpfs", "containerPath": "/y", "type": "tmpfs"},
                {"hostPath": "/lib/z", "containerPath": "/z", "type": "odd", "options": ["rbind"]},
            ],
        }
    ).cdi
    assert cdi.host_devices(given) == ("/dev/a", "/dev/real")
    assert cdi.host_mounts(given) == ("/lib/x", "/lib/z")
    assert not cdi.wants_rdt(given)
    assert cdi.wants_rdt(facts({"intelRdt": {"closID": "x"}}).cdi)


NODE = {"/dev/x": (DeviceNode("/dev/x", "c", 1, 3, 0o600),)}
FOLDER = {"/dev/x": (DeviceNode("/dev/x/y", "c", 1, 3, 0o600),)}
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (
        "a device that is not there",
        {"deviceNodes": [{"path": "/dev/x"}]},
        {},
        "/dev/x is not a device on this host",
    ),
    (
        "a folder of devices",
        {"deviceNodes": [{"path": "/dev/x"}]},
        {"device_nodes": FOLDER},
        "/dev/x is not a device",
    ),
    ("half a device", {"deviceNodes": [{"path": "/dev/x", "type": "c"}]}, {}, "/dev/x is not a device"),
    (
        "another kind of device",
        {"deviceNodes": [{"path": "/dev/x", "type": "b"}]},
        {"device_nodes": NODE},
        "of type c on this host, not b",
    ),
    (
        "a device in place of all",
        {"deviceNodes": [{"path": "/dev", "hostPath": "/dev/x"}]},
        {"device_nodes": NODE},
        "no place for a device",
    ),
    (
        "a file that is not there",
        {"mounts": [{"hostPath": "/a", "containerPath": "/b"}]},
        {},
        "'/a' does not exist on this host",
    ),
    (
        "a mount over the root",
        {"mounts": [{"hostPath": "/a", "containerPath": "/"}]},
        {"sources": {"/a": Source("/a", True, "private")}},
        "root itself",
    ),
    (
        "an option with a line",
        {"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "tmpfs", "options": ["a\nb"]}]},
        {},
        "control character",
    ),
    ("an interface", {"netDevices": [{"hostInterfaceName": "eth1", "name": "a"}]}, {}, "netDevices"),
    ("RDT without resctrl", {"intelRdt": {"closID": "gold"}}, {}, "resctrl is not mounted"),
    ("monitoring", {"intelRdt": {"enableMonitoring": True}}, {"resctrl": True}, "enableMonitoring"),
    ("two classes", {"intelRdt": {"closID": "gold"}}, {"resctrl": True, "rdt_class": "tin"}, "has one class"),
]


@pytest.mark.parametrize(
    ("edits", "known", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_wish_that_cannot_be_met_is_refused_with_its_file(
    edits: dict[str, Any], known: dict[str, Any], words: str
) -> None:
    with pytest.raises(Invalid, match=words) as error:
        container.build(facts(edits, **known))
    assert str(error.value).startswith(f"CDI file {FILE}: ")


def built(edits: dict[str, Any], **known: Any) -> dict[str, Any]:
    return container.build(facts(edits, **known))


def test_a_device_of_cdi_replaces_one_of_the_request() -> None:
    asked = cri.ContainerConfig(
        devices=[cri.Device(host_path="/dev/y", container_path="/dev/x", permissions="r")]
    )
    nodes = {**NODE, "/dev/y": (DeviceNode("/dev/y", "c", 10, 229, 0o666),)}
    spec = built({"deviceNodes": [{"path": "/dev/x"}]}, device_nodes=nodes, config=asked)
    assert [(device["path"], device["major"]) for device in spec["linux"]["devices"]] == [("/dev/x", 1)]


def test_a_device_without_permissions_gets_no_rule() -> None:
    spec = built({"deviceNodes": [{"path": "/dev/x", "permissions": "none"}]}, device_nodes=NODE)
    assert spec["linux"]["devices"]
    assert spec["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]


def test_an_unbuffered_device_is_a_character_device() -> None:
    spec = built({"deviceNodes": [{"path": "/dev/x", "type": "u", "major": 7}]})
    assert spec["linux"]["devices"] == [
        {"path": "/dev/x", "type": "c", "major": 7, "minor": 0, "uid": 0, "gid": 0}
    ]


def test_the_same_class_twice_is_one() -> None:
    spec = built({"intelRdt": {"closID": "gold"}}, resctrl=True, rdt_class="gold")
    assert spec["linux"]["intelRdt"] == {"closID": "gold"}


def test_a_mount_replaces_one_at_its_place_and_none_hides_another() -> None:
    source = {path: Source(path, True, "private") for path in ("/a", "/b", "/c")}
    asked = cri.ContainerConfig(
        mounts=[
            cri.Mount(container_path="/data/deep", host_path="/b"),
            cri.Mount(container_path="/x", host_path="/c"),
        ]
    )
    mounts = [{"hostPath": "/a", "containerPath": place} for place in ("/data", "/x")]
    spec = built({"mounts": mounts}, sources=source, config=asked)
    places = [mount["destination"] for mount in spec["mounts"]]
    assert places.index("/data") < places.index("/data/deep")
    assert places.count("/x") == 1
    assert next(mount["source"] for mount in spec["mounts"] if mount["destination"] == "/x") == "/a"
    for below, above in (("/dev/pts", "/dev"), ("/sys/fs/cgroup", "/sys")):
        assert places.index(above) < places.index(below)


def test_a_mount_above_keeps_the_order_of_all_others() -> None:
    """A VOLUME of the image lies beneath what the request mounts over it, and stays there."""
    asked = cri.ContainerConfig(mounts=[cri.Mount(container_path="/data", host_path="/b")])
    known = {
        "sources": {path: Source(path, True, "private") for path in ("/a", "/b")},
        "config": asked,
        "volumes": {"/data/cache/deep": "/v/0", "/lib/x": "/v/1"},
    }

    def places(edits: dict[str, Any]) -> list[str]:
        return [mount["destination"] for mount in built(edits, **known)["mounts"]]

    plain = places({})
    assert plain.index("/data/cache/deep") < plain.index("/data")
    added = places({"mounts": [{"hostPath": "/a", "containerPath": place} for place in ("/z", "/lib")]})
    assert [place for place in added if place not in ("/z", "/lib")] == plain
    assert added.index("/lib") == added.index("/lib/x") - 1
    instead = {"mounts": [{"hostPath": "/a", "containerPath": "/data"}]}
    assert places(instead) == plain
    assert built(instead, **known)["mounts"][plain.index("/data")]["source"] == "/a"


def of_own_users(known: ContainerFacts, length: int = 65536) -> ContainerFacts:
    """The same in a pod with a user namespace."""
    users = cri.UserNamespace(
        mode=cri.POD, **{kind: [cri.IDMapping(host_id=65536, length=length)] for kind in ("uids", "gids")}
    )
    pod = cri.PodSandboxConfig()
    pod.linux.security_context.namespace_options.userns_options.CopyFrom(users)
    return replace(known, pod=replace(known.pod, config=pod, user_namespace="/n/user"))


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"additionalGids": [44, 70000]}, "additionalGids: group 70000 does not exist in the pod's user"),
        ({"deviceNodes": [{"path": "/dev/x", "uid": 65536}]}, "deviceNodes.uid 65536 does not exist"),
        ({"deviceNodes": [{"path": "/dev/x", "gid": 65536}]}, "deviceNodes.gid 65536 .* ids 0 to 65535"),
    ],
)
def test_ids_that_the_pod_does_not_have_are_refused_with_their_file(
    edits: dict[str, Any], words: str
) -> None:
    known = facts(edits, device_nodes=NODE)
    assert container.build(known)
    with pytest.raises(Invalid, match=words) as error:
        container.build(of_own_users(known))
    assert str(error.value).startswith(f"CDI file {FILE}: ")
    fitting = facts({"additionalGids": [65535], "deviceNodes": [{"path": "/dev/x", "gid": 65535}]})
    spec = container.build(of_own_users(replace(fitting, device_nodes=NODE)))
    assert spec["process"]["user"]["additionalGids"] == [65535]


def brought(*modes: int, **changes: Any) -> dict[str, Any]:
    """A privileged container in a user namespace, on a host with devices of these modes."""
    nodes = tuple(DeviceNode(f"/dev/d{mode:o}", "c", 10, mode, mode, 0, 6) for mode in modes)
    known = of_own_users(
        facts({}, host_devices=(*nodes, DeviceNode("/dev/null", "c", 1, 3, 0o666)), **changes)
    )
    known.pod.config.linux.security_context.privileged = True
    known.config.linux.security_context.privileged = True
    return container.build(known)


def test_privileged_in_a_user_namespace_brings_along_what_everybody_on_the_host_may_open() -> None:
    """And as the host's own file: one that is made would belong to the pod's root, who might open it for that."""
    spec = brought(0o600, 0o660, 0o666, 0o664)
    assert "devices" not in spec["linux"]
    binds = {
        mount["destination"]: mount for mount in spec["mounts"] if mount["destination"].startswith("/dev/d")
    }
    assert {place: mount["source"] for place, mount in binds.items()} == {
        "/dev/d666": "/dev/d666",
        "/dev/d664": "/dev/d664",
    }
    assert spec["linux"]["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 0o666, "access": "rw"},
        {"allow": True, "type": "c", "major": 10, "minor": 0o664, "access": "r"},
    ]


def test_privileged_in_a_user_namespace_gets_what_is_named_as_its_own() -> None:
    asked = cri.ContainerConfig(
        devices=[cri.Device(host_path="/dev/d600", container_path="/dev/d600", permissions="rw")]
    )
    node = DeviceNode("/dev/d600", "c", 10, 0o600, 0o600, 0, 0)
    spec = brought(0o600, config=asked, device_nodes={"/dev/d600": (node,)})
    assert [device["path"] for device in spec["linux"]["devices"]] == ["/dev/d600"]
    assert spec["linux"]["resources"]["devices"][1:] == [
        {"allow": True, "type": "c", "major": 10, "minor": 0o600, "access": "rw"}
    ]


def test_in_a_user_namespace_a_mount_of_which_crun_would_drop_parts_is_refused() -> None:
    def known(option: str) -> ContainerFacts:
        edits = {"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": [option]}]}
        sources = {"/a": Source("/a", True, "private", submounts=True)}
        return facts(edits, sources=sources, host=Host(keeps_submounts=False))

    assert container.build(known("rbind"))
    assert container.build(of_own_users(known("bind")))  # which takes none of them along
    with pytest.raises(Invalid, match=r"mounts\.hostPath '/a' has other mounts beneath it"):
        container.build(of_own_users(known("rbind")))


def test_in_a_user_namespace_of_runc_a_device_of_another_path_is_mounted() -> None:
    """It would bind the host's device of the container's path there: another one."""
    pod = of_own_users(facts({})).pod.config
    asked = cri.ContainerConfig(
        devices=[cri.Device(host_path="/dev/x", container_path="/dev/y", permissions="r")]
    )
    edits = {"deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/x"}, {"path": "/dev/x"}]}
    known = facts(edits, device_nodes=NODE, config=asked)
    plain = container.build(known)
    assert [device["path"] for device in plain["linux"]["devices"]] == ["/dev/y", "/dev/a", "/dev/x"]
    assert not [device for device in plain["linux"]["devices"] if "hostPath" in device]
    inside = replace(known, pod=replace(known.pod, config=pod, user_namespace="/n/user"))
    assert container.build(inside)["linux"]["devices"] == plain["linux"]["devices"]  # crun makes them
    spec = container.build(replace(inside, host=replace(inside.host, binds_devices=True)))
    assert [device["path"] for device in spec["linux"]["devices"]] == ["/dev/x"]
    assert spec["linux"]["resources"]["devices"] == plain["linux"]["resources"]["devices"]
    binds = [(mount["source"], mount["destination"]) for mount in spec["mounts"] if mount["type"] == "bind"]
    assert {("/dev/x", "/dev/y"), ("/dev/x", "/dev/a")} <= set(binds)
