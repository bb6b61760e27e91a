"""What is done to the processes of a container, on processes of our own in a group that is made up."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest

from sampan.host.cgroup.container_cgroup import ContainerCgroup
from sampan.host.oci import surviving
from sampan.host.process import spawn
from sampan.model.errors import Denied

BEFORE, AFTER = 400, 600


class Group:
    """A group of these processes."""

    def __init__(self, *pids: int) -> None:
        self.pids = set(pids)

    def __call__(self) -> ContainerCgroup:
        return cast(ContainerCgroup, self)

    def processes(self) -> set[int]:
        return set(self.pids)


def score(pid: int) -> Path:
    return Path(f"/proc/{pid}/oom_score_adj")


@pytest.fixture
async def group() -> AsyncIterator[Group]:
    """Three processes with the score BEFORE."""
    async with AsyncExitStack() as running:
        children = [await running.enter_async_context(spawn(["sleep", "1000"])) for _ in range(3)]
        for child in children:
            score(child.pid).write_text(str(BEFORE))
        yield Group(*(child.pid for child in children))


def scores(group: Group) -> list[int]:
    return [int(score(pid).read_text()) for pid in sorted(group.pids)]


async def test_one_that_is_refused_does_not_keep_the_others_from_changing(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does so where somebody with CAP_SYS_RESOURCE has set a higher one, and we have not got it."""
    write, first = os.pwrite, min(group.pids)

    def refuse(file: int, text: bytes, at: int) -> int:
        if os.readlink(f"/proc/self/fd/{file}") == str(score(first)):  # noqa: PTH115
            raise PermissionError(13, "Permission denied")
        return write(file, text, at)

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(Denied, match=rf"600 for 1 processes \(pid {first} for one\)"):
        surviving.adjust_oom_score(group, BEFORE, AFTER)
    assert scores(group) == [BEFORE, AFTER, AFTER]


async def test_those_that_chose_one_keep_it(group: Group) -> None:
    score(min(group.pids)).write_text("777")
    surviving.adjust_oom_score(group, BEFORE, AFTER)
    assert scores(group) == [777, AFTER, AFTER]


async def test_want_of_descriptors_leaves_none_open(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, before = os.open, len(list(Path("/proc/self/fd").iterdir()))

    def refuse(path: str, flags: int) -> int:
        if path == str(score(max(group.pids))):
            raise OSError(24, "Too many open files")
        return opened(path, flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            surviving.adjust_oom_score(group, BEFORE, AFTER)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
