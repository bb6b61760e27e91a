"""Pressure files, as the kernel writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.wire import psi
from sampan.wire.psi import Pressure, Stall

SOME = b"some avg10=0.00 avg60=1.71 avg300=4.88 total=1575094704\n"


def test_a_pressure_file_in_ns_and_percent() -> None:
    assert psi.parse(SOME + b"full avg10=0.25 avg60=0.00 avg300=0.00 total=12\n") == Pressure(
        some=Stall(1_575_094_704_000, 0.0, 1.71, 4.88), full=Stall(12_000, 0.25, 0.0, 0.0)
    )


def test_an_old_kernel_says_nothing_of_all_tasks_waiting_for_the_cpu() -> None:
    found = psi.parse(SOME)
    assert found is not None
    assert found.full == Stall()


@pytest.mark.parametrize(
    "text",
    [
        None,
        b"",
        b"full avg10=0.25 avg60=0.00 avg300=0.00 total=12\n",
        b"some avg10=0.00 avg60=1.71 avg300=4.88\n",
        b"some avg10=x avg60=1.71 avg300=4.88 total=1\n",
        b"some total=-1 avg10=0 avg60=0 avg300=0\n",
    ],
)
def test_what_is_no_pressure_file(text: bytes | None) -> None:
    assert psi.parse(text) is None


@given(st.binary(max_size=200))
def test_no_text_breaks_the_parser(text: bytes) -> None:
    psi.parse(text)
    psi.parse(b"some " + text)
