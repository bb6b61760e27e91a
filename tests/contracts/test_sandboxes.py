"""What every `Sandboxes` does, the real one and the fake."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.config import Paths
from sampan.host import mounts
from sampan.host.sandbox.sandboxes import PinnedSandboxes
from sampan.runtime.ports import Sandboxes, SandboxPlan
from sampan.spec.userns import Mappings, Range
from tests.fakes import FakeSandboxes, World

NAMESPACES = frozenset({"net", "ipc", "uts"})
POD, OTHER = "a" * 64, "b" * 64


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def sandboxes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandboxes]:
    if request.param == "fake":
        yield FakeSandboxes(World())
        return
    paths = Paths(root=tmp_path / "root", state=tmp_path / "state")
    try:
        yield PinnedSandboxes(paths)
    finally:
        mounts.detach(paths.state / "pods")


def plan(id: str = POD, namespaces: frozenset[str] = NAMESPACES) -> SandboxPlan:
    return SandboxPlan(
        id=id,
        namespaces=namespaces,
        hostname="web-0",
        sysctls={},
        files={"resolv.conf": b"nameserver 10.96.0.10\n", "hostname": b"web-0\n"},
    )


async def test_nothing_is_present_before_create(sandboxes: Sandboxes) -> None:
    assert not await sandboxes.present(POD, NAMESPACES)


async def test_what_was_created_is_present(sandboxes: Sandboxes) -> None:
    await sandboxes.create(plan())
    assert await sandboxes.present(POD, NAMESPACES)
    assert await sandboxes.present(POD, frozenset({"net"}))


async def test_a_pod_with_the_hosts_network_has_no_network_of_its_own(sandboxes: Sandboxes) -> None:
    await sandboxes.create(plan(namespaces=frozenset({"ipc"})))
    assert await sandboxes.present(POD, frozenset({"ipc"}))
    assert not await sandboxes.present(POD, frozenset({"net"}))
    assert not await sandboxes.present(POD, NAMESPACES)


async def test_a_user_namespace_is_one_of_them(sandboxes: Sandboxes) -> None:
    maps = Mappings(Range(100000, 65536), Range(100000, 65536))
    await sandboxes.create(replace(plan(namespaces=NAMESPACES | {"user"}), userns=maps))
    await sandboxes.create(plan(OTHER))
    assert await sandboxes.present(POD, NAMESPACES | {"user"})
    assert not await sandboxes.present(OTHER, NAMESPACES | {"user"})
    await sandboxes.remove(POD)
    assert not await sandboxes.present(POD, frozenset({"user"}))


async def test_a_pod_without_namespaces_lacks_none(sandboxes: Sandboxes) -> None:
    await sandboxes.create(plan(namespaces=frozenset()))
    assert await sandboxes.present(POD, frozenset())


async def test_removing_takes_one_pod_and_leaves_the_other(sandboxes: Sandboxes) -> None:
    await sandboxes.create(plan(POD))
    await sandboxes.create(plan(OTHER))
    await sandboxes.remove(POD)
    assert not await sandboxes.present(POD, NAMESPACES)
    assert await sandboxes.present(OTHER, NAMESPACES)


async def test_removing_twice_is_fine(sandboxes: Sandboxes) -> None:
    await sandboxes.create(plan())
    await sandboxes.remove(POD)
    await sandboxes.remove(POD)


async def test_removing_what_never_was_is_fine(sandboxes: Sandboxes) -> None:
    await sandboxes.remove(POD)


async def test_a_removed_pod_can_be_made_again(sandboxes: Sandboxes) -> None:
    await sandboxes.create(plan())
    await sandboxes.remove(POD)
    await sandboxes.create(plan())
    assert await sandboxes.present(POD, NAMESPACES)


async def test_a_network_of_its_own_has_interfaces_and_the_hosts_has_none(sandboxes: Sandboxes) -> None:
    await sandboxes.create(plan(POD))
    await sandboxes.create(plan(OTHER, namespaces=frozenset({"ipc"})))
    assert await sandboxes.interfaces([POD, OTHER, "c" * 64]) == [(), None, None]
    await sandboxes.remove(POD)
    assert await sandboxes.interfaces([POD]) == [None]
    assert await sandboxes.interfaces([]) == []
