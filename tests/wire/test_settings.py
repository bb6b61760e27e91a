"""Tables of settings in general; what the daemon's own keys allow is in tests/test_config.py."""

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sampan.wire import settings
from sampan.wire.settings import key, section, tables


@dataclass(frozen=True)
class Sail:
    area: int = key(9, settings.number(1, 99), "Square metres.")


@dataclass(frozen=True)
class Crew:
    name: str = key("skipper", settings.text, "Who it is.")
    oars: int = key(2, settings.number(0, 2), "How many.")


@dataclass(frozen=True)
class Boat:
    afloat: bool = key(True, settings.flag, "Whether it swims.")
    sail: Sail = section(Sail, "What drives it.")  # noqa: RUF009 - what it is for
    crew: Mapping[str, Crew] = tables(Crew, "skipper", "name", "Who is aboard.")


def test_what_is_not_given_is_the_default() -> None:
    problems: list[str] = []
    assert settings.build(Boat, {}, "", problems) == Boat() == Boat(True, Sail(9), {"skipper": Crew()})
    assert problems == []


def test_tables_by_name_know_their_own_name() -> None:
    problems: list[str] = []
    boat = settings.build(Boat, {"crew": {"cook": {"oars": 0}}}, "", problems)
    assert boat.crew == {"skipper": Crew(), "cook": Crew("cook", 0)}
    assert problems == []


def test_every_problem_is_told_by_its_dotted_key() -> None:
    problems: list[str] = []
    table = {
        "afloat": 1,
        "sail": {"area": 0, "colour": "red"},
        "crew": {"cook": {"ors": 1}, "X": {}},
        "area": 1,
    }
    settings.build(Boat, table, "", problems)
    assert problems == [
        "afloat = 1: must be true or false",
        "sail.area = 0: must be a whole number from 1 to 99",
        "unknown key `sail.colour`: known here: area",
        "unknown key `crew.cook.ors`: did you mean `oars`?",
        'crew."X": must be lower case letters, digits and dashes',
        "unknown key `area`: did you mean `sail.area`?",
    ]


def test_entries_come_in_the_order_of_a_file() -> None:
    assert [(name, value) for name, value, _ in settings.entries(Boat())] == [
        ("afloat", "true"),
        ("sail", ""),
        ("sail.area", "9"),
        ("crew.skipper", ""),
        ("crew.skipper.name", '"skipper"'),
        ("crew.skipper.oars", "2"),
    ]


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
names = st.sampled_from(["afloat", "sail", "crew", "area", "oars"]) | st.text()


@given(st.dictionaries(names, json | st.dictionaries(names, json)))
def test_nothing_a_file_may_hold_is_a_crash(table: dict[str, object]) -> None:
    problems: list[str] = []
    boat = settings.build(Boat, table, "", problems)
    assert isinstance(boat, Boat)
    assert len(problems) >= len(table.keys() - {"afloat", "sail", "crew"})
