"""`version` and `info`."""

import json
from importlib.metadata import version
from pathlib import Path

import grpc

from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon


def test_versions_of_both(sampan: Sampan) -> None:
    assert sampan("version").out == f"client: {version('sampan')}\ndaemon: 9.8.7\nruntime: sampan\nCRI: v1\n"
    assert json.loads(sampan("version", "--json").out) == {
        "client": version("sampan"),
        "daemon": "9.8.7",
        "runtime": "sampan",
        "cri": "v1",
    }


def test_the_client_s_version_needs_no_daemon(sampan: Sampan, tmp_path: Path) -> None:
    nobody = f"unix://{tmp_path}/none"
    assert sampan("version", "--client", endpoint=nobody).out == f"client: {version('sampan')}\n"
    ran = sampan("version", endpoint=nobody)
    assert (ran.code, ran.out) == (3, f"client: {version('sampan')}\n")


def test_info_says_what_is_ready_and_what_is_not(sampan: Sampan, daemon: FakeDaemon) -> None:
    lines = [line.split(maxsplit=1) for line in sampan("info").out.splitlines()]
    assert ["RuntimeReady:", "yes"] in lines
    assert ["NetworkReady:", "no, NoConflist: nothing in /etc/cni/net.d"] in lines
    assert ["handler", "absent: cannot be used: absent is not installed"] in [
        [first, " ".join(rest.split())] for first, rest in lines
    ]
    able = "crun: crun 1.8.1 at /usr/bin/crun; recursive read-only mounts; no user namespaces"
    assert ["handler", able] in [[first, " ".join(rest.split())] for first, rest in lines]
    assert ["root:", str(daemon.root)] in lines
    assert f"3.0 GiB in 1234 files at {daemon.root}" in sampan("info").out


def test_info_shows_handlers_of_a_daemon_that_tells_little(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.handlers = {}
    assert "recursive read-only mounts; no user namespaces" in sampan("info").out


def test_info_as_json(sampan: Sampan, daemon: FakeDaemon) -> None:
    found = json.loads(sampan("info", "--json").out)
    assert found["version"]["runtimeVersion"] == "9.8.7"
    assert found["config"]["root"] == str(daemon.root)
    assert [each["type"] for each in found["status"]["status"]["conditions"]] == [
        "RuntimeReady",
        "NetworkReady",
    ]


def test_info_of_a_daemon_in_trouble_is_its_words(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.fails["Status"] = (grpc.StatusCode.UNAVAILABLE, "still starting")
    ran = sampan("info")
    assert (ran.code, ran.out, ran.err) == (1, "", "sampan: still starting\n")
