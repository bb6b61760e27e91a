"""The strict JSON loader: what `json` lets through and we do not."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.wire import manifest, strict_json
from tests import images

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8"), max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_ordinary_json_is_read(value: Any) -> None:
    assert strict_json.loads(json.dumps(value).encode(), "it") == value


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b" ",
            b"{",
            b"[",
            b"]",
            b"{}{}",
            b"{},",
            b'{"a":1,}',
            b"[1,]",
            b"{'a':1}",
            b"nul",
            b"\0",
            b'"\x01"',
        ),
        *(b"NaN", b"Infinity", b"-Infinity", b'{"a":NaN}', b"1e999", b"01", b"+1", b"0x1", b"1."),
        *(b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'{"x":{"a":1,"b":2,"a":3}}', b'[{"":1,"":2}]'),
        *(
            b'"\xff"',
            b"\xef\xbb\xbf{}",
            '{"a":1}'.encode("utf-16"),
            b'"\\ud800"',
            b'"\\udc00\\ud800"',
            b'"\\x"',
        ),
        *(b"1" * 5000, b"-" + b"9" * 25, b"100000000000000000000"),
        *(b"[" * 33 + b"]" * 33, b"[" * 200_000, b'{"a":' * 200_000, b"[" * 33, b'{"a":[' * 20 + b"]}" * 20),
    ],
)
def test_what_two_readers_could_read_in_two_ways_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match=r"^it is "):
        strict_json.loads(data, "it")


def test_depth_counts_brackets_and_not_text() -> None:
    assert strict_json.loads(b"[" * 32 + b"]" * 32, "it")
    assert strict_json.loads(json.dumps(["[{" * 100, '\\"[{'] * 3).encode(), "it")
    assert strict_json.loads(json.dumps([[]] * 1000).encode(), "it")


@pytest.mark.parametrize("value", [b"{}", b"[]", b"0"])
def test_more_values_than_anybody_needs_are_not_read(value: bytes) -> None:
    many = b"[" + b",".join([value] * (strict_json.VALUES_LIMIT + 1)) + b"]"
    with pytest.raises(Invalid, match="more than 131072 values"):
        strict_json.loads(many, "it")


def test_size_is_looked_at_first() -> None:
    assert strict_json.loads(b"[]", "it", limit=2) == []
    with pytest.raises(Invalid, match="larger than 2 bytes"):
        strict_json.loads(b"[ ]", "it", limit=2)


def test_an_error_never_shows_control_characters() -> None:
    with pytest.raises(Invalid) as caught:
        strict_json.decode(b'{"digest": 1, "size": "\\u001b[31m"}', manifest.Descriptor, "it")
    assert str(caught.value).isprintable()


GOOD = images.image([images.layer([images.Entry("a")])]).manifest


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=4), st.integers(0, 8))
def test_a_mutated_manifest_is_read_or_refused_and_nothing_else(at: int, new: bytes, cut: int) -> None:
    with contextlib.suppress(Invalid):
        manifest.parse(GOOD[:at] + new + GOOD[at + cut :], "it")
