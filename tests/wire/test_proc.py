"""Tests of wire.proc."""

import pytest

from sampan.wire.proc import Stat, family, pids, printable, soft_limit, stat


@pytest.mark.parametrize(
    ("name", "state", "dead", "stopped"),
    [
        (b"sleep", b"S", False, False),
        (b"a) R (b", b"T", False, True),
        (b") Z 1 1 1 (", b"R", False, False),
        (b"", b"Z", True, False),
        (b"x", b"X", True, False),
        (b"x", b"t", False, True),
    ],
)
def test_a_stat_file_is_parsed_whatever_the_program_is_called(
    name: bytes, state: bytes, dead: bool, stopped: bool
) -> None:
    rest = b" ".join(str(number).encode() for number in range(4, 53))
    text = b"77 (" + name + b") " + state + b" " + rest + b"\n"
    assert stat(text) == Stat(pid=77, dead=dead, stopped=stopped, parent=4, session=6, start=22)


def process(pid: int, parent: int, session: int, dead: bool = False) -> Stat:
    return Stat(pid=pid, dead=dead, stopped=False, parent=parent, session=session, start=1)


def test_a_family_is_all_descendants() -> None:
    everyone = [process(10, 1, 5), process(11, 10, 5), process(12, 11, 5), process(20, 1, 5)]
    assert {p.pid for p in family(everyone, 10)} == {10, 11, 12, 20}  # 20 shares the session of 11
    assert {p.pid for p in family([process(10, 1, 10), process(20, 1, 5)], 10)} == {10}


def test_an_orphan_belongs_by_its_session() -> None:
    everyone = [process(10, 1, 10), process(11, 10, 11), process(30, 1, 11), process(31, 30, 31)]
    assert {p.pid for p in family(everyone, 10)} == {10, 11, 30, 31}


def test_the_session_that_the_root_shares_with_its_starter_is_left_alone() -> None:
    assert {p.pid for p in family([process(10, 1, 5), process(20, 1, 5)], 10)} == {10}


def test_a_known_session_counts_after_its_root_has_gone() -> None:
    assert {p.pid for p in family([process(30, 1, 11)], 10, {11})} == {30}
    assert family([process(30, 1, 11)], 10) == set()


def test_the_dead_are_no_family() -> None:
    assert family([process(10, 1, 10, dead=True), process(11, 10, 11, dead=True)], 10) == set()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("my prog)", "my prog)"),
        ("a` is in state R", "a? is in state R"),
        ("x\n2026 info\r\x1b[m\0", "x?2026 info??[m?"),
        ("\u2028\ufffd\x85", "?\ufffd?"),
        ("x" * 99, "x" * 64),
    ],
)
def test_what_a_process_calls_itself_cannot_speak_for_us(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_pids_are_read_from_a_list() -> None:
    assert pids(b"12\n345\n") == [12, 345]
    assert pids(b"") == []


LIMITS = b"""\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max open files            1024                 524288               files
Max realtime timeout      unlimited            unlimited            us
"""


def test_a_soft_limit_is_the_first_number_of_its_line() -> None:
    assert soft_limit(LIMITS, b"Max open files") == 1024
    assert soft_limit(LIMITS, b"Max cpu time") is None
    assert soft_limit(LIMITS, b"Max open") is None
    assert soft_limit(b"Max open files  ", b"Max open files") is None
