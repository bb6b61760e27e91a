"""Paths and words of a request: canonical, short and without control bytes, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.spec import text


@given(st.text(alphabet="/.ab\0\n", max_size=20))
def test_a_path_is_canonical_or_refused(value: str) -> None:
    try:
        path = text.path(value, "field")
    except Invalid:
        return
    assert path.startswith("/")
    assert text.path(path, "field") == path
    assert not {"", ".", ".."} & set(path.split("/")[1:]) or path == "/"
    assert not set("\0\n") & set(path)


def test_long_paths_and_words_are_refused() -> None:
    assert len(text.path("/" + "a" * 4094, "field")) == 4095
    with pytest.raises(Invalid, match="more than 4095 bytes"):
        text.path("/" + "a" * 4095, "field")
    with pytest.raises(Invalid, match="more than 4095 bytes"):
        text.path("/" + "ü" * 2048, "field")
