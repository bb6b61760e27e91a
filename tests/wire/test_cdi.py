"""CDI files."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.cdi import Device, Edits, Hook, Mount, NetDevice, Node, Rdt
from sampan.model.errors import Invalid
from sampan.wire import cdi

PATH = "/etc/cdi/v.json"


def spec(edits: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    device = {"name": "zero", "containerEdits": edits or {"env": ["A=b"]}}
    return {"cdiVersion": "1.1.0", "kind": "v.com/c", "devices": [device], **fields}


def parsed(**fields: Any) -> Any:
    return cdi.parse(json.dumps(spec(**fields)).encode(), PATH)


def test_every_field_is_read() -> None:
    edits = {
        "env": ["A=b=c", "EMPTY="],
        "deviceNodes": [
            {
                "path": "/dev/x",
                "hostPath": "/dev/y",
                "type": "b",
                "major": 8,
                "minor": 1,
                "fileMode": 432,
                "permissions": "rw",
                "uid": 1,
                "gid": 2,
            }
        ],
        "netDevices": [{"hostInterfaceName": "eth9", "name": "net1"}],
        "hooks": [
            {
                "hookName": "createContainer",
                "path": "/bin/h",
                "args": ["h", "x"],
                "env": ["C=d"],
                "timeout": 3,
            }
        ],
        "mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["ro"], "type": "none"}],
        "intelRdt": {
            "closID": "gold",
            "l3CacheSchema": "L3:0=f",
            "memBwSchema": "MB:0=5",
            "schemata": ["L3:0=1"],
            "enableMonitoring": True,
        },
        "additionalGids": [44],
    }
    read = parsed(edits=edits, annotations={"a": "b"}, containerEdits={"env": ["ALL=1"]})
    assert (read.kind, read.annotations, read.container_edits) == (
        "v.com/c",
        {"a": "b"},
        Edits(env=("ALL=1",)),
    )
    wanted = Edits(
        env=("A=b=c", "EMPTY="),
        device_nodes=(Node("/dev/x", "/dev/y", "b", 8, 1, 432, "rw", 1, 2),),
        net_devices=(NetDevice("eth9", "net1"),),
        hooks=(Hook("createContainer", "/bin/h", ("h", "x"), ("C=d",), 3),),
        mounts=(Mount("/a", "/b", ("ro",), "none"),),
        intel_rdt=Rdt("gold", "L3:0=f", "MB:0=5", ("L3:0=1",), True),
        additional_gids=(44,),
    )
    assert read.devices == (Device("zero", container_edits=wanted),)


YAML = b"""---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - path: /dev/nvidia0
          fileMode: 438
  - name: all
    containerEdits:
      env: [NVIDIA_VISIBLE_DEVICES=void]
containerEdits:
  hooks:
    - hookName: createContainer
      path: /usr/bin/nvidia-cdi-hook
      args:
        - nvidia-cdi-hook
        - create-symlinks
  mounts:
    - hostPath: /usr/bin/nvidia-smi
      containerPath: /usr/bin/nvidia-smi
      options: [ro, nosuid, nodev, bind]
"""


def test_yaml_as_vendors_write_it() -> None:
    read = cdi.parse(YAML, "/etc/cdi/nvidia.yaml")
    assert [device.name for device in read.devices] == ["0", "all"]
    assert read.devices[0].container_edits.device_nodes == (Node("/dev/nvidia0", file_mode=438),)
    assert read.container_edits.mounts[0].options == ("ro", "nosuid", "nodev", "bind")


def test_yaml_and_json_of_one_file_are_one_spec() -> None:
    text = json.dumps(spec()).encode()  # JSON is YAML
    assert cdi.parse(text, "/x.yaml") == cdi.parse(text, "/x.json")


@pytest.mark.parametrize("version", [*cdi.VERSIONS, "v0.6.0"])
def test_every_version_since_the_first_tagged_one(version: str) -> None:
    assert parsed(cdiVersion=version).devices


LATER: list[tuple[str, dict[str, Any]]] = [
    ("0.4.0", {"edits": {"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "bind"}]}}),
    ("0.5.0", {"edits": {"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/y"}]}}),
    ("0.5.0", {"devices": [{"name": "0"}]}),
    ("0.6.0", {"annotations": {"a": "b"}}),
    ("0.6.0", {"devices": [{"name": "x", "annotations": {"a": "b"}}]}),
    ("0.6.0", {"kind": "v.com/c.d"}),
    ("0.7.0", {"edits": {"intelRdt": {"closID": "x"}}}),
    ("0.7.0", {"containerEdits": {"additionalGids": [5]}}),
    ("1.1.0", {"edits": {"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}}),
    ("1.1.0", {"edits": {"intelRdt": {"schemata": ["L3:0=1"]}}}),
]


@pytest.mark.parametrize(("version", "fields"), LATER)
def test_a_field_is_read_from_its_version_on(version: str, fields: dict[str, Any]) -> None:
    assert parsed(**fields, cdiVersion=version)
    before = cdi.VERSIONS[cdi.VERSIONS.index(version) - 1]
    with pytest.raises(Invalid, match=f"needs cdiVersion {version}, and this is {before}"):
        parsed(**fields, cdiVersion=before)


def node(**fields: Any) -> dict[str, Any]:
    return {"edits": {"deviceNodes": [{"path": "/dev/x", **fields}]}}


def hook(**fields: Any) -> dict[str, Any]:
    return {"edits": {"hooks": [{"hookName": "poststop", "path": "/bin/h", **fields}]}}


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("an old version", {"cdiVersion": "0.2.0"}, "cdiVersion '0.2.0' is not one of 0.3.0"),
    ("a version to come", {"cdiVersion": "2.0.0"}, "cdiVersion"),
    ("no vendor", {"kind": "gpu"}, "kind 'gpu' is not like"),
    ("a kind with a path", {"kind": "v.com/../c"}, "kind"),
    ("no devices", {"devices": []}, "devices is empty"),
    ("a name with a path", {"devices": [{"name": "../x"}]}, "no name for a device"),
    ("a name twice", {"devices": [{"name": "x"}, {"name": "x"}]}, "device x occurs twice"),
    ("an unknown field", {"unknown": 1}, "unknown field `unknown`"),
    ("an unknown edit", {"edits": {"seccomp": {}}}, "unknown field `seccomp`"),
    ("an unknown field of a node", node(mode=1), "unknown field `mode`"),
    ("a variable without a value", {"edits": {"env": ["A"]}}, "env: 'A' is not NAME=VALUE"),
    ("a variable without a name", {"edits": {"env": ["=b"]}}, "env"),
    ("a NUL in a variable", {"edits": {"env": ["A=\0"]}}, "env"),
    ("a kind of node", node(type="s"), "unknown type 's'"),
    ("permissions", node(permissions="rx"), "permissions 'rx'"),
    ("a negative number", node(major=-1), r"major"),
    ("a mode with a kind in it", node(fileMode=0o20666), "fileMode"),
    ("the id that is none", node(uid=2**32 - 1), "uid"),
    ("a relative node", node(path="dev/x"), "not an absolute path"),
    ("a node that climbs", node(hostPath="/dev/../etc/shadow"), "without '..'"),
    ("a relative mount", {"edits": {"mounts": [{"hostPath": "/a", "containerPath": "b"}]}}, "absolute"),
    ("a mount from nowhere", {"edits": {"mounts": [{"containerPath": "/b"}]}}, "hostPath"),
    ("a hook at no known time", hook(hookName="preStart"), "'preStart' is not one of"),
    ("a relative hook", hook(path="h"), "'h' is not an absolute path"),
    ("a hook that climbs", hook(path="/usr/../h"), "without '..'"),
    ("a hook's variable", hook(env=["LD_PRELOAD"]), "env of hook /bin/h"),
    ("a NUL in an argument", hook(args=["h", "a\0b"]), "argument of /bin/h holds a NUL"),
    ("a hook that has no time", hook(timeout=0), "timeout"),
    ("a class of cache outside resctrl", {"edits": {"intelRdt": {"closID": "../x"}}}, "closID"),
    ("the root's group twice over", {"edits": {"additionalGids": [2**31]}}, "additionalGids"),
]


@pytest.mark.parametrize(("fields", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_file_is_refused_whole(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words) as error:
        parsed(**fields)
    assert PATH in str(error.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b'"x"', b"\xff", b'{"kind": "a", "kind": "b"}'])
@pytest.mark.parametrize("suffix", cdi.SUFFIXES)
def test_what_is_no_spec(data: bytes, suffix: str) -> None:
    with pytest.raises(Invalid, match="/x"):
        cdi.parse(data, f"/x{suffix}")


@pytest.mark.parametrize("suffix", cdi.SUFFIXES)
def test_a_file_may_have_a_mebibyte(suffix: str) -> None:
    with pytest.raises(Invalid, match="larger than 1048576 bytes"):
        cdi.parse(b" " * (cdi.LIMIT + 1), f"/x{suffix}")


fields = st.sampled_from(
    [
        "cdiVersion",
        "kind",
        "devices",
        "name",
        "containerEdits",
        "env",
        "deviceNodes",
        "path",
        "hooks",
        "hookName",
    ]
)
scalars = (
    st.none() | st.integers() | st.sampled_from(["0.6.0", "v.com/c", "x", "/dev/x", "A=b", "poststop", ""])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_nothing_but_a_spec_or_an_error_comes_of_a_file(value: Any) -> None:
    try:
        assert cdi.parse(json.dumps(value).encode(), PATH).devices
    except Invalid as error:
        assert str(error).startswith(PATH)
