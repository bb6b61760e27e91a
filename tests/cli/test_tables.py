"""What people read."""

import pytest

from sampan.api import cri_pb2 as cri
from sampan.cli import tables

NOW = 1_700_000_000 * 10**9
S = 10**9


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (4, "4s"),
        (59, "59s"),
        (60, "1m"),
        (72, "1m12s"),
        (599, "9m59s"),
        (600, "10m"),
        (3599, "59m"),
        (3600, "1h"),
        (3660, "1h1m"),
        (35999, "9h59m"),
        (36000, "10h"),
        (86400, "1d"),
        (90000, "1d1h"),
        (86400 * 12, "12d"),
        (86400 * 365, "1y"),
        (86400 * 400, "1y35d"),
        (-5, "0s"),
    ],
)
def test_age(seconds: int, shown: str) -> None:
    assert tables.age(NOW - seconds * S, NOW) == shown


def test_an_age_that_nobody_knows_is_not_54_years() -> None:
    assert tables.age(0, NOW) == "-"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10 << 10, "10 KiB"),
        (5 << 20, "5.0 MiB"),
        (476 << 20, "476 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 60, "1048576 TiB"),
    ],
)
def test_size(count: int, shown: str) -> None:
    assert tables.size(count) == shown


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert tables.table(["A", "LONGER"], [["first", "x"], ["2", ""]]) == "A      LONGER\nfirst  x\n2\n"


def test_what_could_steer_a_terminal_is_shown_instead() -> None:
    assert tables.table(["N"], [["a\x1b[31mb\nc\u202ed"]]) == "N\na\\x1b[31mb\\nc\\u202ed\n"
    assert tables.facts([("k", "\x07")]) == "k:  \\x07\n"


def test_timestamp_has_nine_decimals() -> None:
    assert tables.timestamp(1_700_000_000_000_000_007) == "2023-11-14T22:13:20.000000007Z"


def container(name: str, image: str, age: int, state: int, typed: str = "") -> cri.Container:
    return cri.Container(
        id=name[0] * 64,
        pod_sandbox_id="9" * 64,
        metadata=cri.ContainerMetadata(name=name),
        image=cri.ImageSpec(image=image, user_specified_image=typed),
        state=state,  # type: ignore[arg-type]
        created_at=NOW - age * S,
    )


def test_the_table_of_containers() -> None:
    pod = cri.PodSandbox(id="9" * 64, metadata=cri.PodSandboxMetadata(name="web-1"))
    digest = "sha256:" + "1" * 64
    found = [
        container("a", digest, 90, cri.CONTAINER_EXITED),
        container("b", digest, 5, cri.CONTAINER_RUNNING, typed="nginx:1.27"),
        container("c", f"r.test/x@{digest}", 7, cri.CONTAINER_CREATED),
    ]
    assert tables.containers(found, [pod], NOW) == (
        "CONTAINER      IMAGE                   NAME  STATE    AGE    POD\n"
        "bbbbbbbbbbbbb  nginx:1.27              b     running  5s     web-1\n"
        "ccccccccccccc  r.test/x@1111111111111  c     created  7s     web-1\n"
        "aaaaaaaaaaaaa  1111111111111           a     exited   1m30s  web-1\n"
    )


def test_a_container_whose_pod_is_unknown_shows_its_id() -> None:
    assert "9999999999999\n" in tables.containers([container("a", "x", 1, 1)], [], NOW)


def test_the_table_of_pods() -> None:
    pod = cri.PodSandbox(
        id="e" * 64,
        metadata=cri.PodSandboxMetadata(name="web", namespace="prod", attempt=2),
        state=cri.SANDBOX_NOTREADY,
        created_at=NOW - 7200 * S,
    )
    assert tables.pods([pod], NOW) == (
        "POD            NAME  NAMESPACE  STATE      AGE  ATTEMPT  HANDLER\n"
        "eeeeeeeeeeeee  web   prod       not ready  2h   2        (default)\n"
    )


def test_the_table_of_images_has_a_line_for_each_tag() -> None:
    many = cri.Image(
        id="sha256:" + "a" * 64, repo_tags=["h:5000/x:1", "h:5000/x:2"], size=1 << 20, pinned=True
    )
    by_digest = cri.Image(id="sha256:" + "b" * 64, repo_digests=["h:5000/y@sha256:" + "c" * 64])
    nameless = cri.Image(id="sha256:" + "d" * 64)
    lines = [line.split() for line in tables.images([nameless, many, by_digest]).splitlines()]
    assert lines == [
        ["IMAGE", "TAG", "ID", "SIZE", "NOTES"],
        ["<none>", "ddddddddddddd", "0", "B"],
        ["h:5000/x", "1", "aaaaaaaaaaaaa", "1.0", "MiB", "pinned"],
        ["h:5000/x", "2", "aaaaaaaaaaaaa", "1.0", "MiB", "pinned"],
        ["h:5000/y", "@ccccccccccccc", "bbbbbbbbbbbbb", "0", "B"],
    ]


def test_the_table_of_images_says_which_are_artifacts() -> None:
    kind = {"sampan/artifact-type": "application/vnd.test.thing"}
    found = [
        cri.Image(
            id="sha256:" + "a" * 64, repo_tags=[name], spec=cri.ImageSpec(annotations=kind), pinned=pinned
        )
        for name, pinned in (("x:1", False), ("y:1", True))
    ]
    _, first, second = tables.images(found).splitlines()
    assert first.endswith("  artifact") and second.endswith("  artifact, pinned")


def test_what_the_kernel_did_not_say_is_a_dash() -> None:
    silent = cri.ContainerStats(attributes=cri.ContainerAttributes(id="a" * 64))
    spoken = cri.ContainerStats(
        attributes=cri.ContainerAttributes(id="b" * 64, metadata=cri.ContainerMetadata(name="web")),
        cpu=cri.CpuUsage(usage_nano_cores=cri.UInt64Value(value=1_500_000_000)),
        memory=cri.MemoryUsage(
            working_set_bytes=cri.UInt64Value(value=2 << 20), rss_bytes=cri.UInt64Value(value=0)
        ),
        writable_layer=cri.FilesystemUsage(
            used_bytes=cri.UInt64Value(value=100), inodes_used=cri.UInt64Value(value=7)
        ),
    )
    lines = tables.stats([spoken, silent], {"b" * 64: "pod"}).splitlines()
    assert lines[1].split() == ["aaaaaaaaaaaaa", "-", "-", "-", "-", "-"]
    assert lines[2] == "bbbbbbbbbbbbb  web   pod  150.0 %  2.0 MiB  0 B  100 B  7"
