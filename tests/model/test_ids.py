import pytest

from sampan.model import ids
from sampan.model.errors import Invalid, NotFound

TABLE = {"aa" * 32: 1, "ab" * 32: 2}


@pytest.mark.parametrize(("id", "found"), [("aa" * 32, 1), ("aa", 1), ("ab" * 31, 2)])
def test_an_id_or_its_beginning_finds(id: str, found: int) -> None:
    assert ids.resolve("pod", TABLE, id) == found


@pytest.mark.parametrize("id", ["", "c", "../../x", "AA", "aa\n", "a" * 65, "aa" * 32 + "\n"])
def test_what_is_no_id_is_not_found(id: str) -> None:
    with pytest.raises(NotFound):
        ids.resolve("pod", TABLE, id)
    assert ids.find("pod", TABLE, id) is None


def test_a_whole_id_is_not_called_a_beginning() -> None:
    with pytest.raises(NotFound, match=f"^there is no pod {'c' * 64}$"):
        ids.resolve("pod", TABLE, "c" * 64)
    with pytest.raises(NotFound, match="begins with 'cc'"):
        ids.resolve("pod", TABLE, "cc")


def test_an_ambiguous_beginning_is_refused() -> None:
    with pytest.raises(Invalid, match="ambiguous"):
        ids.resolve("pod", TABLE, "a")


def test_new_ids_are_64_hex_digits_and_new() -> None:
    assert len({ids.new_id() for _ in range(100)}) == 100 and len(ids.new_id()) == 64
