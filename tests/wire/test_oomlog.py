"""The kernel log's lines about kills for memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.wire.oomlog import Killed, parse, within

MEMCG = (
    b"6,101543,11952562011,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c1,mems_allowed=0,"
    b"oom_memcg=/pods/p1/c1,task_memcg=/pods/p1/c1,task=tail,pid=18218,uid=0\n"
)
GLOBAL = (
    b"6,7,8,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
    b"task_memcg=/kubepods.slice/c.scope/container,task=my prog,pid=12,uid=1000\n SUBSYSTEM=x\n"
)


def test_a_limit_that_was_reached() -> None:
    assert parse(MEMCG) == Killed("/pods/p1/c1", "/pods/p1/c1", "tail", 18218)


def test_a_machine_that_ran_out() -> None:
    assert parse(GLOBAL) == Killed("/kubepods.slice/c.scope/container", "", "my prog", 12)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"6,1,2,-",
        b"4,1,2,-;tail invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        b"x,1,2,-;" + MEMCG.partition(b";")[2],
        MEMCG.replace(b"6,", b"14,", 1),  # facility user: somebody who may write to /dev/kmsg
        MEMCG.replace(b",uid=0", b""),
    ],
)
def test_everything_else_is_none(record: bytes) -> None:
    assert parse(record) is None


def test_a_process_that_names_itself_cannot_speak_for_us() -> None:
    kill = parse(MEMCG.replace(b"task=tail", b"task=`\\x0a,pid=1"))
    assert kill is not None
    assert (kill.name, kill.pid, kill.group) == ("?\\x0a,pid=1", 18218, "/pods/p1/c1")


@given(st.binary(max_size=200))
def test_nothing_in_the_log_is_an_error(text: bytes) -> None:
    parse(b"6,1,2,-;oom-kill:" + text)
    parse(text)


@pytest.mark.parametrize(
    ("path", "below", "above"),
    [
        ("/pods/c1", "pods/c1", ""),
        ("/pods/c1/sub", "/pods/c1", ""),
        ("/docker/x/pods/c1", "pods/c1", "/docker/x"),
        ("/pods/c10", "pods/c1", None),
        ("/pods", "pods/c1", None),
    ],
)
def test_a_group_and_what_is_in_it(path: str, below: str, above: str | None) -> None:
    assert within(path, below) == above
