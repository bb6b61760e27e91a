"""Thousands of random stacks of layers: the merged view is what applying them one after the other would give.

The other row of table A7 beside the break-outs. What a stack may hold: `tests/layer_stacks.py`.
"""

import random
from pathlib import Path

import pytest

from tests.images import Entry
from tests.layer_oracle import RefusedError
from tests.layer_stacks import Outcome, applied, disagreements, leaf_entry, random_stack, report

pytestmark = pytest.mark.root

KINDS = {"file", "dir", "symlink", "hardlink", "char", "block", "fifo"}


def check(outcome: Outcome, stacks: int) -> None:
    assert not outcome.wrong, report(outcome.wrong)
    assert outcome.applied + outcome.refused == stacks
    assert outcome.applied > stacks * 0.85


def test_a7_2500_random_stacks_look_as_if_applied_one_after_the_other(tmp_path: Path) -> None:
    check(disagreements(tmp_path, "process", range(2500)), 2500)


def test_a7_100_random_stacks_through_the_child_process(tmp_path: Path) -> None:
    check(disagreements(tmp_path, "child", range(100_000, 100_100)), 100)


def test_the_stacks_have_everything_that_layers_have() -> None:
    entries = [entry for seed in range(300) for layer in random_stack(seed) for entry in layer]
    assert {entry.kind for entry in entries} == KINDS
    names = [entry.path.rpartition("/")[2] for entry in entries]
    assert {".wh..wh..opq", ".wh.a", "a"} <= set(names)
    assert {key.rpartition(".")[2] for entry in entries for key in entry.pax} == {
        "mtime",
        "one",
        "two",
        "capability",
    }
    modes = {entry.mode for entry in entries if entry.mode is not None}
    assert all(any(mode & bit for mode in modes) for bit in (0o4000, 0o2000, 0o1000))
    assert any(through_a_symlink(entries, entry) for entry in entries)


def through_a_symlink(entries: list[Entry], entry: Entry) -> bool:
    parent = entry.path.rpartition("/")[0]
    return any(other.kind == "symlink" and other.path == parent for other in entries)


def test_the_oracle_refuses_what_it_must() -> None:
    dice = random.Random(1)
    with pytest.raises(RefusedError):
        applied([[Entry("a", "hardlink", link="b")]])
    with pytest.raises(RefusedError):
        applied([[Entry("a", "char", device=(0, 0))]])
    with pytest.raises(RefusedError):
        applied([[leaf_entry(dice, "a"), Entry("a/b/../../a", "dir"), Entry("b"), Entry("b/c")]])
