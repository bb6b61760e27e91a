"""Which streams exist, existed, or never did."""

import pytest

from sampan.wire.spdy.frames import LAST_ID, SpdyError
from sampan.wire.spdy.limits import Limits
from sampan.wire.spdy.streams import Stream, Window
from sampan.wire.spdy.table import Table


def theirs(table: Table, number: int) -> Stream:
    table.see(number)
    return table.add_theirs(Window(1))


@pytest.mark.parametrize(("server", "numbers"), [(True, [2, 4]), (False, [1, 3])])
def test_ours_are_numbered_by_role(server: bool, numbers: list[int]) -> None:
    table = Table(Limits(), server=server)
    assert [table.add_ours(Window(1)).number for _ in range(2)] == numbers
    assert [table.is_ours(number) for number in numbers] == [True, True]


def test_only_theirs_count_for_the_limit() -> None:
    table = Table(Limits(streams=2), server=True)
    one = theirs(table, 1)
    theirs(table, 3)
    assert table.full
    ours = table.add_ours(Window(1))
    table.remove(ours)
    assert table.full
    table.remove(one)
    assert not table.full


def test_a_stream_that_is_gone_is_none_and_one_that_never_was_is_an_error() -> None:
    table = Table(Limits(), server=True)
    one, ours = theirs(table, 5), table.add_ours(Window(1))
    assert (table.find(5), table.find(2)) == (one, ours)
    table.remove(one)
    table.remove(ours)
    assert [table.find(number) for number in (5, 3, 1, 2)] == [
        None
    ] * 4  # 1 and 3 were skipped: closed by that
    for number in (0, 4, 7):
        with pytest.raises(SpdyError, match=f"stream {number}, which was never opened"):
            table.find(number)


def test_numbers_end() -> None:
    table = Table(Limits(), server=False)
    table._next = LAST_ID
    assert table.add_ours(Window(1)).number == LAST_ID
    with pytest.raises(SpdyError, match="used up"):
        table.add_ours(Window(1))


def test_streams_may_go_while_all_are_looked_at() -> None:
    table = Table(Limits(), server=True)
    for number in (1, 3, 5):
        theirs(table, number)
    for stream in table:
        table.remove(stream)
    assert len(table) == 0
