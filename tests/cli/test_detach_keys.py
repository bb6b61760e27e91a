"""The keys that leave a session."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli.detach_keys import DEFAULT, DetachKeys, parse

KEYS = b"\x10\x11"


@pytest.mark.parametrize(
    ("text", "keys"),
    [(DEFAULT, KEYS), ("ctrl-A", b"\1"), ("ctrl-@,ctrl-_,ctrl-[", b"\0\x1f\x1b"), ("~,.", b"~."), ("", b"")],
)
def test_keys_are_said_as_docker_says_them(text: str, keys: bytes) -> None:
    assert parse(text) == keys


@pytest.mark.parametrize("text", ["ctrl-1", "ctrl-", "ab", "a,,b", ",", "é", " "])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ctrl-"):
        parse(text)


@given(st.lists(st.binary(max_size=6)), st.lists(st.integers(0, 5)))
def test_bytes_without_the_keys_pass_as_they_are(parts: list[bytes], cuts: list[int]) -> None:
    typed = b"".join(parts).replace(KEYS, b"")
    while KEYS in typed:
        typed = typed.replace(KEYS, b"")
    finder, passed = DetachKeys(KEYS), b""
    rest = typed
    for cut in [*cuts, len(typed)]:
        piece, rest = rest[:cut], rest[cut:]
        went, found = finder.feed(piece)
        assert not found
        passed += went
    assert passed + finder.release() == typed


@pytest.mark.parametrize(
    "pieces", [[b"ab\x10\x11cd"], [b"ab\x10", b"\x11cd"], [b"a", b"b", b"\x10", b"\x11"]]
)
def test_the_keys_are_found_however_they_come(pieces: list[bytes]) -> None:
    finder, passed, found = DetachKeys(KEYS), b"", False
    for piece in pieces:
        went, found = finder.feed(piece)
        passed += went
    assert (passed, found) == (b"ab", True)


def test_a_beginning_that_repeats_is_still_a_beginning() -> None:
    finder = DetachKeys(b"aab")
    assert [finder.feed(each) for each in (b"a", b"a", b"a", b"b")] == [
        (b"", False),
        (b"", False),
        (b"a", False),
        (b"", True),
    ]


def test_what_was_held_goes_on_once_it_is_released() -> None:
    finder = DetachKeys(KEYS)
    assert finder.feed(b"x\x10") == (b"x", False)
    assert (finder.held, finder.release(), finder.held) == (b"\x10", b"\x10", b"")
    assert finder.feed(b"\x11") == (b"\x11", False)


def test_no_keys_hold_nothing_back() -> None:
    assert DetachKeys(b"").feed(KEYS) == (KEYS, False)
