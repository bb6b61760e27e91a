"""YAML, as far as it says what JSON can."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.wire import strict_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("a: 1", {"a": 1}),
        ("a: '1'", {"a": "1"}),
        ("a: 0660", {"a": 0o660}),
        ("a: 0x1f", {"a": 31}),
        ("a: 1.5", {"a": 1.5}),
        ("a: true\nb: no", {"a": True, "b": False}),
        ("a:\nb: ~\nc: null", {"a": None, "b": None, "c": None}),
        ("- x\n- [y, {z: 1}]", ["x", ["y", {"z": 1}]]),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a: 1:30", {"a": "1:30"}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("--- {a: 1}\n...\n", {"a": 1}),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert strict_yaml.loads(text.encode(), "x") == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x 1\nb: *x", "alias"),
        ("a: !!python/object/apply:os.system [id]", "tag"),
        ("a: !!str 1", "tag"),
        ("a: 1\na: 2", "key 'a' occurs twice"),
        ("1: 2", "key that is not text"),
        ("[a]: 2", "key that is not text"),
        ("? {a: 1}\n: 2", "key that is not text"),
        ("a: 1\n---\nb: 2", "more than one document"),
        ("[" * 33 + "]" * 33, "deeper than 32"),
        ("[" * 100_000, "deeper than 32"),
        ("a: [", "while parsing"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("\x00", "not usable"),
        ('a: "\\ud800"', "not usable"),
        ("a: \xff", "not usable"),
    ],
)
def test_what_json_could_not_say_is_refused(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        strict_yaml.loads(text.encode("latin-1"), "/etc/x.yaml")


def test_a_limit() -> None:
    with pytest.raises(Invalid, match=r"/etc/x\.yaml is larger than 10 bytes"):
        strict_yaml.loads(b"a" * 11, "/etc/x.yaml", 10)


plain = st.text(st.characters(min_codepoint=32, max_codepoint=126))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain, inner, max_size=4),
    max_leaves=15,
)


@given(values)
def test_json_is_yaml(value: Any) -> None:
    assert strict_yaml.loads(json.dumps(value).encode(), "x") == value


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_else_than_fail(data: bytes) -> None:
    try:
        strict_yaml.loads(data, "x")
    except Invalid as error:
        assert str(error).startswith("x is")


def test_a_daemon_that_reads_no_yaml_does_not_load_the_library() -> None:
    """1.3 MiB, for nothing on most nodes."""
    code = "import sys, sampan.daemon; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
