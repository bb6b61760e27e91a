"""Words and what they mean: an id, a name, the first digits of an id; never a guess among several."""

import pytest

from sampan.api import cri_pb2 as cri
from sampan.cli import naming
from sampan.model.errors import Invalid, NotFound


def pod(
    digit: str, name: str, namespace: str = "default", uid: str = "", run: bool = False
) -> cri.PodSandbox:
    made = cri.PodSandbox(
        id=digit * 64, metadata=cri.PodSandboxMetadata(name=name, namespace=namespace, uid=uid or digit)
    )
    if run:
        made.labels[naming.RUN_LABEL] = name
    return made


def container(
    id: str, inside: cri.PodSandbox, name: str, attempt: int = 0, run: bool = False
) -> cri.Container:
    made = cri.Container(
        id=id.ljust(64, "0"),
        pod_sandbox_id=inside.id,
        metadata=cri.ContainerMetadata(name=name, attempt=attempt),
    )
    if run:
        made.labels[naming.RUN_LABEL] = name
    return made


WEB, DB, OTHER_DB = pod("a", "web"), pod("b", "db"), pod("c", "db", "prod")
RUN = pod("d", "tool", run=True)
PODS = [WEB, DB, OTHER_DB, RUN]
NGINX, SIDECAR = container("e1", WEB, "nginx"), container("e2", WEB, "sidecar")
PG, OTHER_PG = container("f1", DB, "pg"), container("f2", OTHER_DB, "pg")
TOOL = container("fa", RUN, "tool", run=True)
CONTAINERS = [NGINX, SIDECAR, PG, OTHER_PG, TOOL]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        (NGINX.id, NGINX),
        ("e1", NGINX),
        ("e2", SIDECAR),
        ("nginx", NGINX),
        ("web/sidecar", SIDECAR),
        ("f1", PG),
        ("tool", TOOL),
        ("prod/db", OTHER_PG),
    ],
)
def test_a_container_is_found(word: str, meant: cri.Container) -> None:
    assert naming.container(word, CONTAINERS, PODS) == meant


@pytest.mark.parametrize("word", ["e", "f", "pg", "db", "web"])
def test_several_containers_are_refused_and_listed(word: str) -> None:
    with pytest.raises(Invalid, match=f"^{word} is ambiguous") as refused:
        naming.container(word, CONTAINERS, PODS)
    assert str(refused.value).count("\n  container ") >= 2


def test_candidates_are_listed_with_their_pods() -> None:
    with pytest.raises(Invalid) as refused:
        naming.either("pg", CONTAINERS, PODS)
    assert str(refused.value).splitlines()[1:] == [
        f"  container {PG.id[:13]} db/pg",
        f"  container {OTHER_PG.id[:13]} db/pg",
    ]


@pytest.mark.parametrize("word", ["", "nothing", "E1", "0", "web/pg", "../e1", "e1\x1b"])
def test_what_names_nothing_is_said(word: str) -> None:
    with pytest.raises(NotFound, match="there is no container or pod") as failure:
        naming.either(word, CONTAINERS, PODS)
    assert "\x1b" not in str(failure.value)


def test_a_pod_without_containers_is_said() -> None:
    with pytest.raises(NotFound, match="pod web has no containers"):
        naming.container("web", [], PODS)


def test_a_name_wins_over_the_first_digits_of_an_id() -> None:
    named = container("12", WEB, "e2")
    assert naming.either("e2", [*CONTAINERS, named], PODS) == named


def test_of_several_attempts_the_last_is_meant() -> None:
    again = container("e9", WEB, "nginx", attempt=3)
    assert naming.container("nginx", [again, *CONTAINERS], PODS) == again
    assert naming.container(NGINX.id, [again, *CONTAINERS], PODS) == NGINX


def test_a_pod_and_a_container_of_one_name_are_refused_and_listed() -> None:
    with pytest.raises(Invalid, match=r"^tool is ambiguous; .* POD/CONTAINER or NAMESPACE/POD") as refused:
        naming.either("tool", CONTAINERS, PODS)
    assert str(refused.value).splitlines()[1:] == [
        f"  container {TOOL.id[:13]} tool/tool",
        f"  pod {RUN.id[:13]} default/tool",
    ]
    assert naming.either("tool/tool", CONTAINERS, PODS) == TOOL
    assert naming.either("default/tool", CONTAINERS, PODS) == RUN


def test_what_run_made_is_one_thing_to_stop_and_remove() -> None:
    assert naming.unit("tool", CONTAINERS, PODS) == RUN
    assert naming.unit("tool/tool", CONTAINERS, PODS) == RUN
    assert naming.unit("nginx", CONTAINERS, PODS) == NGINX
    alike = container("0a", WEB, "web")
    with pytest.raises(Invalid, match=r"^web is ambiguous"):
        naming.unit("web", [*CONTAINERS, alike], PODS)


def test_a_pod_is_found_by_its_namespace_and_name() -> None:
    assert naming.pod("prod/db", PODS) == OTHER_DB
    with pytest.raises(Invalid, match=r"pod bbbbbbbbbbbbb default/db\n  pod ccccccccccccc prod/db"):
        naming.pod("db", PODS)


def test_what_run_made_is_stopped_and_removed_whole() -> None:
    assert naming.whole(TOOL, PODS) == RUN
    assert naming.whole(NGINX, PODS) == NGINX
    assert naming.whole(WEB, PODS) == WEB
    assert naming.whole(TOOL, []) == TOOL


def test_images_are_found_by_the_first_digits() -> None:
    images = [cri.Image(id="sha256:" + each * 32) for each in ("ab", "ac", "bc")]
    assert naming.image("bc", images) == images[2]
    assert naming.image("sha256:ac", images) == images[1]
    assert naming.image("busybox", images) is None
    assert naming.image("dd", images) is None
    with pytest.raises(
        Invalid, match="image a is ambiguous; give more digits of ababababababa, acacacacacaca"
    ):
        naming.image("a", images)
