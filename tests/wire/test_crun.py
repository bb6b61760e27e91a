"""Tests of wire.crun."""

import pytest

from sampan.wire import crun

STATUS = b"""{
    "pid": 31066, "process-start-time": 185107, "cgroup-path": "/kubepods/pod1/c1", "scope": "",
    "systemd-cgroup": false,
    "bundle": "/b", "created": "2026-11-23T18:29:27.896475Z", "owner": "root",
    "detached": true, "external_descriptors": "[]"
}"""


def test_a_status_file_is_read() -> None:
    assert crun.status(STATUS) == crun.Status(31066, 185107, "/kubepods/pod1/c1", False)


@pytest.mark.parametrize("text", [b"", b"{", b'{"pid": "x"}', b"[]", b'{"pid": 1, "cgroup-path": "\xff"}'])
def test_a_torn_status_file_is_none(text: bytes) -> None:
    assert crun.status(text) is None


@pytest.mark.parametrize(
    ("text", "start", "delete"),
    [
        (b"{}", True, True),
        (b'{"hooks": {"prestart": [{"path": "/x"}]}}', True, True),
        (b'{"hooks": {"poststart": [{"path": "/x"}]}}', False, True),
        (b'{"hooks": {"poststop": [{"path": "/x"}]}}', True, False),
        (b'{"linux": {"intelRdt": {"closID": "x"}}}', True, False),
    ],
)
def test_hooks_decide_whether_crun_must_run(text: bytes, start: bool, delete: bool) -> None:
    config = crun.config(text)
    assert config is not None
    assert (config.plain_start, config.plain_delete) == (start, delete)


def test_the_cgroup_that_a_config_asks_for_is_read() -> None:
    config = crun.config(b'{"linux": {"cgroupsPath": "/kubepods/x"}, "process": {"args": ["a"]}}')
    assert config is not None
    assert config.linux.cgroups_path == "/kubepods/x"
    assert crun.config(b"{") is None
