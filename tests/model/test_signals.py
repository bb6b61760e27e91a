"""Stop signals: by the CRI's numbers, by the image's words."""

import re
import signal
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api import cri_pb2 as cri
from sampan.model import signals
from sampan.model.errors import Invalid

# Names that Python does not know on every platform.
OTHERS = {
    "SIGCLD": 17,
    "SIGIOT": 6,
    "SIGPOLL": 29,
    "SIGPWR": 30,
    "SIGSTKFLT": 16,
    "SIGRTMIN": 34,
    "SIGRTMAX": 64,
}


def real(name: str) -> int:
    """The number of a name as the CRI spells it (SIGRTMINPLUS3)."""
    if found := re.fullmatch(r"SIGRT(MIN|MAX)(?:PLUS|MINUS)(\d+)", name):
        return 34 + int(found[2]) if found[1] == "MIN" else 64 - int(found[2])
    return OTHERS.get(name) or int(getattr(signal, name))


NAMES = {value: name.removeprefix("SIGNAL_") for name, value in cri.Signal.items() if value}


@pytest.mark.parametrize(("value", "name"), NAMES.items(), ids=NAMES.values())
def test_every_signal_of_the_cri_is_the_kernels(value: int, name: str) -> None:
    assert signals.number(value, "KILL") == real(name)
    assert signals.parse(name.replace("PLUS", "+").replace("MINUS", "-")) == real(name)
    assert signals.number(signals.enum(real(name)), "") == real(name)


def test_the_request_wins_over_the_image_and_term_is_the_rest() -> None:
    assert signals.number(cri.SIGNAL_SIGINT, "QUIT") == signal.SIGINT
    assert signals.number(0, "QUIT") == signal.SIGQUIT
    assert signals.number(0, "") == signal.SIGTERM


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigterm", 15),
        ("Usr1", 10),
        ("9", 9),
        ("09", 9),
        ("64", 64),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("rtmin+30", 64),
        ("RTMAX-30", 34),
        ("SIGRTMAX", 64),
    ],
)
def test_an_images_words(text: str, number: int) -> None:
    assert signals.parse(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *("0", "65", "999", "-9", "+9", " 9", "9 ", "1_5", "٩", "９", ""),
        *("SIG", "SIGSIGTERM", "SIGFOO", "SIGKILL\n", "TERM\0", "TERM;KILL", "ſIGTERM"),
        *("RTMIN+31", "RTMIN+40", "RTMIN+-1", "RTMIN-1", "RTMAX+1", "RTMAX-31", "RTMIN+", "RTMIN+100"),
    ],
)
def test_what_names_no_signal_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="StopSignal"):
        signals.parse(text)


@given(st.text())
def test_no_text_is_anything_but_a_signal_or_refused(text: str) -> None:
    with suppress(Invalid):
        assert 1 <= signals.parse(text) <= 64


@pytest.mark.parametrize("value", [-1, 66, 2**31 - 1])
def test_an_unknown_enum_value_is_refused(value: int) -> None:
    with pytest.raises(Invalid, match="stop_signal"):
        signals.number(value, "")


def test_a_number_without_a_name_has_no_enum_value() -> None:
    assert signals.enum(32) == signals.enum(0) == 0
