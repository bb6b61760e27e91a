"""What an operator's base spec adds to containers."""

import json
from typing import Any

import pytest

from sampan.model.errors import Invalid
from sampan.spec import base_spec


def parsed(**content: Any) -> dict[str, Any]:
    return base_spec.parse(json.dumps(content).encode())[0]


def spec(**more: Any) -> dict[str, Any]:
    return {
        "process": {"args": ["sh"], "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}]},
        "mounts": [{"destination": "/proc"}, {"destination": "/data/deep"}],
        "linux": {"namespaces": []},
        **more,
    }


def applied(to: dict[str, Any], **content: Any) -> dict[str, Any]:
    base_spec.apply(to, parsed(**content))
    return to


def test_without_a_base_nothing_changes() -> None:
    for base in ({}, parsed(), parsed(process={}, linux={}, hooks={})):
        it = spec()
        base_spec.apply(it, base)
        assert it == spec()


def test_the_operators_limits_go_before_the_daemons() -> None:
    more = [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    assert applied(spec(), process={"rlimits": more})["process"]["rlimits"] == more


def test_hooks_come_before_those_that_are_there() -> None:
    device = {"path": "/cdi"}
    it = applied(
        spec(hooks={"poststop": [device]}), hooks={"poststop": [{"path": "/mine", "args": ["mine", "x"]}]}
    )
    assert it["hooks"]["poststop"] == [{"path": "/mine", "args": ["mine", "x"]}, device]
    camel = applied(spec(), hooks={"createRuntime": [{"path": "/a", "timeout": 3}]})
    assert camel["hooks"] == {"createRuntime": [{"path": "/a", "timeout": 3}]}


def test_of_annotations_and_sysctls_the_containers_own_are_kept() -> None:
    it = spec(annotations={"a": "ours"})
    it["linux"]["sysctl"] = {"kernel.x": "1"}
    applied(it, annotations={"a": "base", "b": "base"}, linux={"sysctl": {"kernel.x": "2", "kernel.y": "2"}})
    assert it["annotations"] == {"a": "ours", "b": "base"}
    assert it["linux"]["sysctl"] == {"kernel.x": "1", "kernel.y": "2"}


@pytest.mark.parametrize(
    ("destination", "order"),
    [
        ("/etc/x", ["/proc", "/data/deep", "/etc/x"]),
        ("/data", ["/proc", "/data", "/data/deep"]),
        ("/data/", ["/proc", "/data/", "/data/deep"]),
        ("/data/deep", ["/proc", "/data/deep"]),
        ("/proc/", ["/proc", "/data/deep"]),
        ("/dat", ["/proc", "/data/deep", "/dat"]),
    ],
)
def test_a_mount_hides_none_of_the_containers_own(destination: str, order: list[str]) -> None:
    it = applied(
        spec(), mounts=[{"destination": destination, "type": "bind", "source": "/s", "options": ["ro"]}]
    )
    assert [mount["destination"] for mount in it["mounts"]] == order


def test_a_whole_spec_is_taken_for_what_it_adds_and_the_rest_is_named() -> None:
    whole = {
        "ociVersion": "1.0.2",
        "root": {"path": "/"},
        "hostname": "h",
        "process": {"args": ["/bin/sh"], "user": {"uid": 0}, "rlimits": []},
        "linux": {"namespaces": [{"type": "pid"}], "seccomp": {}, "sysctl": {}},
    }
    _, passed_over = base_spec.parse(json.dumps(whole).encode())
    assert passed_over == (
        "hostname", "linux.namespaces", "linux.seccomp", "process.args", "process.user", "root",
    )  # fmt: skip


@pytest.mark.parametrize("destination", ["/run", "/run/", "//run", "/x/../run"])
def test_a_tmpfs_on_run_would_hide_what_images_have_there(destination: str) -> None:
    """`ctr oci spec` prints one."""
    tmpfs, bind = {"destination": destination, "type": "tmpfs"}, {"destination": "/run", "type": "bind"}
    below = {"destination": "/run/lock", "type": "tmpfs"}
    taken, passed_over = base_spec.parse(json.dumps({"mounts": [tmpfs, below, bind]}).encode())
    assert [(mount["destination"], mount["type"]) for mount in taken["mounts"]] == [
        ("/run/lock", "tmpfs"), ("/run", "bind"),
    ]  # fmt: skip
    assert passed_over == ("mounts: the tmpfs on /run",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "no usable"),
        (b"[]", "no usable"),
        (b'{"hooks": {"poststop": [{"path": "relative"}]}}', "hooks"),
        (b'{"mounts": [{"destination": "relative"}]}', "mounts"),
        (b'{"mounts": [{"source": "/x"}]}', "destination"),
        (b'{"process": {"rlimits": [{"type": "NOFILE", "soft": 1, "hard": 1}]}}', "rlimits"),
        (b'{"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]}}', "above its hard"),
        (b'{"linux": {"sysctl": {"a": 1}}}', "sysctl"),
        (b"{" + b" " * (1 << 20) + b"}", "larger"),
    ],
)
def test_a_base_that_cannot_be_used_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        base_spec.parse(text)
