"""`ps`, `pods`, `images`."""

import json

import pytest

from sampan.api import cri_pb2 as cri
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import IMAGE_ID, FakeDaemon


@pytest.fixture
def node(daemon: FakeDaemon) -> dict[str, str]:
    """Ids by name: two pods, one container that runs, one created, one exited."""
    web, db = daemon.add_pod("web"), daemon.add_pod("db", "prod")
    found: list[cri.PodSandbox | cri.Container] = [
        web,
        db,
        daemon.add_container(web, "nginx"),
        daemon.add_container(web, "waiting", cri.CONTAINER_CREATED),
        daemon.add_container(db, "pg", cri.CONTAINER_EXITED),
    ]
    return {each.metadata.name: each.id for each in found}


def test_ps_lists_what_is_not_over(sampan: Sampan, node: dict[str, str]) -> None:
    ran = sampan("ps")
    assert ran.code == 0
    head, *rows = [line.split() for line in ran.out.splitlines()]
    assert head == ["CONTAINER", "IMAGE", "NAME", "STATE", "AGE", "POD"]
    assert [(row[0], row[1], row[2], row[3], row[5]) for row in rows] == [
        (node["waiting"][:13], "example.test/app:1", "waiting", "created", "web"),
        (node["nginx"][:13], "example.test/app:1", "nginx", "running", "web"),
    ]


def test_ps_a_lists_all(sampan: Sampan, node: dict[str, str]) -> None:
    assert [line.split()[2] for line in sampan("ps", "-a").out.splitlines()[1:]] == ["pg", "waiting", "nginx"]


def test_ps_of_a_pod(sampan: Sampan, node: dict[str, str]) -> None:
    assert sampan("ps", "-aq", "--pod", "db").out == f"{node['pg']}\n"
    ran = sampan("ps", "--pod", "none")
    assert (ran.code, ran.out) == (1, "")


def test_ps_json_is_the_response(sampan: Sampan, node: dict[str, str]) -> None:
    for argv in (["--json", "ps"], ["ps", "--json"]):
        found = json.loads(sampan(*argv).out)["containers"]
        assert [each["id"] for each in found] == [node["nginx"], node["waiting"]]
        assert found[0]["state"] == "CONTAINER_RUNNING"


def test_an_empty_node_is_a_table_without_rows(sampan: Sampan, daemon: FakeDaemon) -> None:
    assert sampan("ps").out == "CONTAINER  IMAGE  NAME  STATE  AGE  POD\n"
    assert sampan("ps", "-q").out == ""
    assert json.loads(sampan("pods", "--json").out) == {"items": []}


def test_pods(sampan: Sampan, node: dict[str, str]) -> None:
    rows = [line.split()[:4] for line in sampan("pods").out.splitlines()[1:]]
    assert rows == [[node["db"][:13], "db", "prod", "ready"], [node["web"][:13], "web", "default", "ready"]]
    assert sampan("pods", "-q").out.splitlines() == [node["web"], node["db"]]


def test_images(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.add_image("example.test/app:1")
    assert sampan("images").out.splitlines()[1].split()[:3] == ["example.test/app", "1", IMAGE_ID[7:20]]
    assert sampan("images", "-q").out == f"{IMAGE_ID}\n"
    assert json.loads(sampan("images", "--json").out)["images"][0]["size"] == str(5 << 20)


def test_images_with_digests_and_pins(sampan: Sampan, daemon: FakeDaemon) -> None:
    image = daemon.add_image("example.test/app:1")
    image.repo_digests[:] = ["other.test/app@sha256:" + "1" * 64, "example.test/app@sha256:" + "2" * 64]
    image.pinned = True
    daemon.add_image("local/app:2", "sha256:" + "9" * 64)
    head, first, second = (line.split() for line in sampan("images", "--digests").out.splitlines())
    assert head == ["IMAGE", "TAG", "ID", "SIZE", "DIGEST", "NOTES"]
    assert first[-2:] == ["sha256:" + "2" * 64, "pinned"]
    assert second[-1] == "-"


def test_images_without_a_sub_command_lists_and_an_unknown_one_is_said(
    sampan: Sampan, daemon: FakeDaemon
) -> None:
    ran = sampan("images", "nonsense")
    assert ran.code == 2 and "nonsense" in ran.err
