"""`stats`."""

import json

from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import FakeDaemon


def test_all_that_runs_or_those_named(sampan: Sampan, daemon: FakeDaemon) -> None:
    pod = daemon.add_pod("web")
    nginx, other = daemon.add_container(pod, "nginx"), daemon.add_container(pod, "other")
    assert [line.split()[:5] for line in sampan("stats").out.splitlines()[1:]] == [
        [nginx.id[:13], "nginx", "web", "125.0", "%"],
        [other.id[:13], "other", "web", "125.0", "%"],
    ]
    assert [line.split()[1] for line in sampan("stats", "other").out.splitlines()[1:]] == ["other"]
    found = json.loads(sampan("stats", "--json", "nginx").out)["stats"]
    assert [each["attributes"]["id"] for each in found] == [nginx.id]


def test_a_name_that_is_none_is_said(sampan: Sampan, daemon: FakeDaemon) -> None:
    ran = sampan("stats", "nobody")
    assert (ran.code, ran.out) == (1, "")
    assert "there is no container nobody" in ran.err
