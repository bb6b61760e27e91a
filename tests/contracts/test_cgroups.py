"""What every `Cgroups` does, the real one (with the cgroupfs driver) and the fake."""

import os
from collections.abc import AsyncIterator

import pytest

from sampan.host.cgroup import cgroups as host_cgroups
from sampan.runtime.ports import Cgroups
from tests.fakes import FakeCgroups, World

TOP = f"/sampan-test-{os.getpid()}"
PARENT = f"{TOP}/pods/pod1"


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
async def cgroups(request: pytest.FixtureRequest) -> AsyncIterator[Cgroups]:
    if request.param == "fake":
        yield FakeCgroups(World())
        return
    real = await host_cgroups.detect("cgroupfs")
    try:
        yield real
    finally:
        for parent in (PARENT, f"{PARENT}x", TOP):
            await real.remove_parent(parent)


async def test_a_parent_is_made_once(cgroups: Cgroups) -> None:
    assert await cgroups.make_parent(PARENT)
    assert not await cgroups.make_parent(PARENT)


async def test_a_removed_parent_can_be_made_again(cgroups: Cgroups) -> None:
    await cgroups.make_parent(PARENT)
    await cgroups.remove_parent(PARENT)
    assert await cgroups.make_parent(PARENT)


async def test_removing_twice_and_removing_what_never_was_is_fine(cgroups: Cgroups) -> None:
    await cgroups.remove_parent(PARENT)
    await cgroups.make_parent(PARENT)
    await cgroups.remove_parent(PARENT)
    await cgroups.remove_parent(PARENT)


async def test_removing_one_parent_leaves_its_neighbour(cgroups: Cgroups) -> None:
    await cgroups.make_parent(PARENT)
    await cgroups.make_parent(f"{PARENT}x")
    await cgroups.remove_parent(PARENT)
    assert not await cgroups.make_parent(f"{PARENT}x")


async def test_a_group_that_is_gone_has_no_usage(cgroups: Cgroups) -> None:
    assert await cgroups.usage_many([(PARENT, "c" * 64), (PARENT, "d" * 64)]) == [None, None]
    assert await cgroups.usage_many([]) == []
    assert await cgroups.details_many([(PARENT, "c" * 64, 1), (PARENT, "", 0)]) == [None, None]
    assert await cgroups.details_many([]) == []


async def test_a_parent_is_read_under_an_empty_id(cgroups: Cgroups) -> None:
    await cgroups.make_parent(PARENT)
    (usage, absent) = await cgroups.usage_many([(PARENT, ""), (f"{PARENT}x", "")])
    assert usage is not None and usage.at > 0
    assert absent is None
    (details, absent_details) = await cgroups.details_many([(PARENT, "", 0), (f"{PARENT}x", "", 0)])
    assert details is not None and details.descriptors is None
    assert absent_details is None


async def test_readings_of_a_group_only_grow(cgroups: Cgroups) -> None:
    await cgroups.make_parent(PARENT)
    (first,) = await cgroups.usage_many([(PARENT, "")])
    (second,) = await cgroups.usage_many([(PARENT, "")])
    assert first is not None and second is not None
    assert first.at < second.at
    assert (first.cpu_ns or 0) <= (second.cpu_ns or 0)


async def test_a_container_lies_in_its_parent_under_its_id(cgroups: Cgroups) -> None:
    assert cgroups.container_path(PARENT, "c" * 64) == f"{PARENT}/{'c' * 64}"
