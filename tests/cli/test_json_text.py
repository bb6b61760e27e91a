"""JSON that a terminal may show."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api import cri_pb2 as cri
from sampan.cli import json_text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("é 🛶", '"é 🛶"'),
        ("\x1b[2J", r'"\u001b[2J"'),
        ("\x7f", r'"\u007f"'),
        ("\x9b2J", r'"\u009b2J"'),
        ("a\u202egpj", r'"a\u202egpj"'),
        ("\u2028", r'"\u2028"'),
        ("\U000e0041", r'"\udb40\udc41"'),
        ('"\\', r'"\"\\"'),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(name: str, shown: str) -> None:
    assert json_text.text(name) == shown


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_it_says_what_was_given_and_nothing_unprintable(name: str) -> None:
    said = json_text.text({name: [name]}, indent=None)
    assert said.isprintable() and json.loads(said) == {name: [name]}


def test_a_message_has_all_its_fields() -> None:
    metadata = cri.ContainerMetadata(name="\x9b")
    assert json_text.text(metadata) == '{\n  "name": "\\u009b",\n  "attempt": 0\n}'
    assert json_text.text(metadata, indent=None) == '{"name": "\\u009b", "attempt": 0}'


def test_there_is_no_other_way_to_unescaped_json() -> None:
    commands = Path(json_text.__file__).parent.glob("*.py")
    text = {path.name: path.read_text() for path in commands if path.name != "json_text.py"}
    assert len(text) > 10
    assert [name for name, source in text.items() if "ensure_ascii" in source or "MessageTo" in source] == []
