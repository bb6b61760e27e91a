"""Notes and frames of a recipe: what is written is read, and damage is Invalid."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sampan.model.errors import Invalid
from sampan.wire.recipe_notes import Note, lifted, notes, numbered, unframed
from sampan.wire.tar_recipe import FRAME, FRAME_LIMIT, NOTES, NUMBER, Recorded, frame, note

WORDS = some.binary(max_size=40).map(lambda word: word.replace(b"\0", b"?"))
NUMBERS = some.integers(-1, 1 << 62)


@given(some.lists(some.tuples(some.sampled_from([b"W", b"C"]), NUMBERS, WORDS, NUMBERS, WORDS)), NUMBERS)
def test_notes_are_read_as_they_were_written(
    found: list[tuple[bytes, int, bytes, int, bytes]], first: int
) -> None:
    data = b"".join(note(*each) for each in found)
    assert list(notes(data, first)) == [Note(kind, at + first, *rest) for kind, at, *rest in found]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data", [b"W", b"W\0" * 5, b"W\0x\0p\0-1\0\0", note(b"W", 1)[:-1], note(b"W", 1) + b"x"]
)
def test_malformed_notes_are_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="recipe"):
        list(notes(data, 0))


def test_a_frame_says_what_it_is() -> None:
    made = frame(NOTES, b"data", 77)
    assert unframed(made[: FRAME.size]) == (NOTES, 4, 77)
    assert unframed(frame(NOTES, b"data")[: FRAME.size]) == (NOTES, 4, 4)


@pytest.mark.parametrize(
    "header",
    [b"", b"N", FRAME.pack(b"?", 1, 1), FRAME.pack(b"L", 1, FRAME_LIMIT + 1), FRAME.pack(b"L", 1 << 31, 1)],
)
def test_malformed_frames_are_refused(header: bytes) -> None:
    with pytest.raises(Invalid, match="recipe"):
        unframed(header)


def test_numbers() -> None:
    assert numbered(NUMBER.pack(1 << 40)) == 1 << 40
    with pytest.raises(Invalid):
        numbered(b"123")
    with pytest.raises(Invalid):
        lifted(b"1 2 3")
    with pytest.raises(Invalid):
        lifted(b"1 2 3 4 5 x y")


@given(some.lists(some.binary(max_size=2000)), some.lists(some.integers(0, 1500), max_size=8))
def test_what_is_taken_and_skipped_is_recorded_and_data_is_not(chunks: list[bytes], sizes: list[int]) -> None:
    kept: list[bytes] = []
    whole, at = b"".join(chunks), 0
    source = Recorded(iter(chunks), kept.append)
    expected = b""
    for number, size in enumerate(sizes):
        if at + size > len(whole):
            break
        piece, at = whole[at : at + size], at + size
        if number % 3 == 0:
            assert source.take(size) == piece
            expected += piece
        elif number % 3 == 1:
            source.skip(size)
            expected += piece
        else:
            assert b"".join(source.pieces(size)) == piece
    assert b"".join(kept) == expected
    assert b"".join(source.rest()) == whole[at:]
