"""Files of block I/O classes."""

import pytest

from sampan.model.errors import Invalid
from sampan.model.io_classes import Limits
from sampan.wire import blockio

EXAMPLE = b"""
Classes:
  LowPrioThrottled:
    - Weight: 80
    - Devices:
        - /dev/sd[a-z]
        - /dev/vd[a-z]
      ThrottleReadBps: 50M   # max read bytes per second
      ThrottleWriteBps: 10M
      ThrottleReadIOPS: 10k
      ThrottleWriteIOPS: 5k
      Weight: 50
  HighPrioFullSpeed:
    - Weight: 400
"""


def test_the_classes_of_a_file() -> None:
    assert blockio.parse(EXAMPLE, "/x") == {
        "LowPrioThrottled": (
            Limits(weight=80),
            Limits(("/dev/sd[a-z]", "/dev/vd[a-z]"), 50, 50_000_000, 10_000_000, 10_000, 5_000),
        ),
        "HighPrioFullSpeed": (Limits(weight=400),),
    }


@pytest.mark.parametrize("text", ["", "Classes: {}", "# none"])
def test_a_file_without_classes(text: str) -> None:
    assert blockio.parse(text.encode(), "/x") == {}


def rate(quantity: str) -> int | None:
    text = f"Classes: {{a: [{{Devices: [/dev/x], ThrottleReadBps: {quantity}}}]}}"
    return blockio.parse(text.encode(), "/x")["a"][0].read_bps


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("0", 0),
        ("100", 100),
        ("'100'", 100),
        ("1.5k", 1500),
        ("64Ki", 65536),
        ("1.5Gi", 3 << 29),
        ("2e3", 2000),
        ("2E", 2 * 10**18),
        ("1m", 1),  # a thousandth, rounded up
        ("1500m", 2),
        (".5M", 500_000),
        ("''", None),
    ],
)
def test_quantities(quantity: str, value: int | None) -> None:
    assert rate(quantity) == value


@pytest.mark.parametrize(
    "quantity", ["-1", "64 M", "1K", "M", "1.2.3", "10E", "1e30", "true", "[1]", "9" * 41, "nan", ".inf"]
)
def test_what_is_no_quantity(quantity: str) -> None:
    with pytest.raises(Invalid, match="/x"):
        rate(quantity)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("Weight: 9", "Weight: 9 is not from 10 to 1000"),
        ("Weight: 1001", "Weight"),
        ("ThrottleReadBps: 5", "a Throttle without Devices"),
        ("Devices: [sda]", "no pattern of paths in /dev"),
        ("Devices: [/dev/../etc/*]", "no pattern of paths in /dev"),
        ("ThrottleReadbps: 5", "unknown field"),
    ],
)
def test_what_is_no_class(entry: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        blockio.parse(f"Classes: {{a: [{{{entry}}}]}}".encode(), "/x")


def test_an_unknown_key() -> None:
    with pytest.raises(Invalid, match="unknown field `classes`"):
        blockio.parse(b"classes: {}", "/x")
