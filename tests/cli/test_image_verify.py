"""`images verify`: a line for each layer, and an exit code that scripts can rely on."""

import json

import grpc
import pytest

from sampan.api import sampan_pb2 as own
from tests.cli.conftest import Sampan
from tests.cli.fake_daemon import IMAGE_ID, FakeDaemon, Served

NAME = "docker.io/library/app:1"


def result(number: int, **more: object) -> own.VerifyResult:
    return own.VerifyResult(
        image_id=IMAGE_ID,
        names=[NAME],
        number=number,
        count=2,
        layer=f"sha256:{number}",
        **more,  # type: ignore[arg-type]
    )


GOOD, BAD = result(1), result(2, differences=["/etc/passwd is \x1b[31mmissing", "/x is there"])
OLD, MENDED = result(1, unknown="it is of old"), result(2, differences=["/x"], repaired=True)


@pytest.mark.parametrize(
    ("results", "code", "lines"),
    [
        ([], 0, []),
        ([GOOD], 0, [f"{NAME}: layer 1 of 2: good"]),
        (
            [GOOD, BAD],
            1,
            [
                f"{NAME}: layer 1 of 2: good",
                f"{NAME}: layer 2 of 2: DAMAGED",
                "/etc/passwd is",
                "/x is there",
            ],
        ),
        ([OLD], 0, [f"{NAME}: layer 1 of 2: not verified, or not all of it", "it is of old"]),
        ([MENDED], 0, [f"{NAME}: layer 2 of 2: was damaged, pulled anew", "/x"]),
        ([result(0, differences=["other config"])], 1, [f"{NAME}: record: DAMAGED", "other config"]),
    ],
)
def test_what_is_told(
    sampan: Sampan, served: Served, results: list[own.VerifyResult], code: int, lines: list[str]
) -> None:
    served.own.verified = results
    ran = sampan("images", "verify")
    assert ran.code == code
    told = ran.out.splitlines()
    assert len(told) == len(lines) and all(line in said for line, said in zip(lines, told, strict=True))
    assert "\x1b" not in ran.out


def test_what_a_later_image_mends_is_damaged_no_more(sampan: Sampan, served: Served) -> None:
    damaged = result(1, differences=["/x"])
    mended = own.VerifyResult(
        image_id="sha256:other", names=["other"], number=1, count=1, layer=damaged.layer
    )
    mended.differences.append("/x")
    mended.repaired = True
    served.own.verified = [damaged, mended]
    assert sampan("images", "verify", "--repair").code == 0
    served.own.verified = [damaged, mended, BAD]
    assert sampan("images", "verify", "--repair").code == 1


def test_what_could_not_be_repaired_is_told_after_the_findings(sampan: Sampan, served: Served) -> None:
    served.own.verified = [BAD, GOOD]
    served.own.verify_ends = (grpc.StatusCode.DATA_LOSS, "a cannot be repaired\nb cannot be repaired")
    ran = sampan("images", "verify", "--repair")
    assert ran.code == 1
    assert "DAMAGED" in ran.out and "good" in ran.out
    assert ran.err == "sampan: a cannot be repaired\nsampan: b cannot be repaired\n"


def test_quiet_tells_only_what_is_not_in_order(sampan: Sampan, served: Served) -> None:
    served.own.verified = [GOOD, BAD]
    assert "layer 1" not in sampan("images", "verify", "-q").out


def test_json_is_a_line_for_each_layer(sampan: Sampan, served: Served) -> None:
    served.own.verified = [GOOD, BAD]
    ran = sampan("images", "verify", "--json")
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 1
    assert [(each["number"], each["differences"]) for each in found] == [(1, []), (2, list(BAD.differences))]


def test_what_is_asked(sampan: Sampan, daemon: FakeDaemon) -> None:
    sampan("images", "verify", "app:1", "abab", "--repair")
    assert daemon.requests(own.VerifyRequest) == [own.VerifyRequest(images=["app:1", "abab"], repair=True)]


def test_a_failure_is_told(sampan: Sampan, daemon: FakeDaemon) -> None:
    daemon.fails["Verify"] = (grpc.StatusCode.NOT_FOUND, "there is no image 'x'")
    ran = sampan("images", "verify", "x")
    assert (ran.code, ran.err) == (1, "sampan: there is no image 'x'\n")
