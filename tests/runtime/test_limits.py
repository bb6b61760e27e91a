"""Limits that hold from the start, and that change while a container lives."""

import asyncio
import dataclasses
from typing import Any

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.container import ContainerState
from sampan.model.errors import Denied, Invalid, NotFound, ToolFailed, Unavailable, WrongState
from sampan.model.oom import OomKill, OomScope
from sampan.model.process import ProcessRef
from tests.fake_limits import in_force
from tests.fakes import World
from tests.runtime.system import System, until, wire

MIB = 1 << 20


def asked(**fields: Any) -> cri.LinuxContainerConfig:
    return cri.LinuxContainerConfig(resources=cri.LinuxContainerResources(**fields))


def limits(**fields: Any) -> cri.LinuxContainerResources:
    return cri.LinuxContainerResources(**fields)


async def running(system: System, **fields: Any) -> str:
    return await system.started(await system.pod(), linux=asked(**fields))


# --- at create ----------------------------------------------------------------------------------------------


async def test_the_status_has_what_the_kernel_made_of_it() -> None:
    system = wire()
    system.world.groups.lost.add("cpu")  # shares protect nobody
    id = await system.container(await system.pod(), linux=asked(memory_limit_in_bytes=10_000, cpu_shares=512))
    container = system.state.containers[id]
    assert container.limits_in_force == limits(memory_limit_in_bytes=10_000, cpu_shares=998)
    assert container.limits == limits(memory_limit_in_bytes=10_000, cpu_shares=512)
    assert system.journal.rows["container", id] == container


async def test_what_was_rounded_to_pages_is_as_asked_for_whoever_compares() -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=4 * MIB)
    await system.resources.update(id, limits(memory_limit_in_bytes=100_000_000))
    container = system.state.containers[id]
    assert container.limits_in_force.memory_limit_in_bytes == 100_000_000
    assert await system.resources.differences(container) == ()


TEXTS = {
    "io.max": ("253:0 rbps=max", ""),
    "cpuset.cpus.partition": ("isolated", "isolated invalid (Parent is not a partition root)\n"),
    "rdma.max": ("mlx4_0 hca_handle=2", "mlx4_0 hca_handle=2 hca_object=max\n" * 20),
}


async def test_what_the_kernel_shows_of_a_file_is_never_asked_for() -> None:
    world = World()
    world.host = dataclasses.replace(world.host, cgroup_v2=True)
    system = wire(world)
    unified = {name: wanted for name, (wanted, _) in TEXTS.items()}
    world.groups.texts = {name: text for name, (_, text) in TEXTS.items()}
    id = await running(system, unified=unified, cpu_shares=2)
    await system.resources.update(id, limits(unified={"io.max": unified["io.max"]}))
    await system.resources.update(id, limits(cpu_shares=512))
    container = system.state.containers[id]
    assert container.limits == container.limits_in_force == limits(unified=unified, cpu_shares=512)
    assert in_force(world, id)["unified"] == unified
    [told] = await system.resources.differences(container)
    assert "cpuset.cpus.partition is isolated invalid" in told
    world.fail("oci.update")
    with pytest.raises(ToolFailed):
        await system.resources.update(id, limits(unified={"io.max": "253:0 rbps=5"}))
    assert in_force(world, id)["unified"].items() >= unified.items()


@pytest.mark.parametrize("section", ["memory", "cpu"])
async def test_a_container_whose_limit_was_lost_is_not_left(section: str) -> None:
    system = wire()
    pod = await system.pod()
    before = system.world.census()
    system.world.groups.lost.add(section)
    with pytest.raises(Unavailable, match=r"without limits that were asked for: .* is absent"):
        await system.container(pod, linux=asked(memory_limit_in_bytes=MIB, cpu_quota=5000))
    assert system.world.census() == before
    assert not system.state.containers


async def test_without_limits_nobody_looks() -> None:
    system = wire()
    await system.container(await system.pod())
    assert "cgroups.read_back" not in system.world.calls


# --- updates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("started", [False, True])
async def test_an_update_is_in_the_kernel_the_record_and_the_bundle(started: bool) -> None:
    system = wire()
    pod = await system.pod()
    id = await (system.started if started else system.container)(
        pod, linux=asked(memory_limit_in_bytes=4 * MIB, cpu_shares=512)
    )
    await system.resources.update(id[:12], limits(memory_limit_in_bytes=8 * MIB, oom_score_adj=500))
    container = system.state.containers[id]
    assert container.limits == limits(memory_limit_in_bytes=8 * MIB, cpu_shares=512, oom_score_adj=500)
    assert system.journal.rows["container", id] == container
    assert container.state is (ContainerState.RUNNING if started else ContainerState.CREATED)
    assert in_force(system.world, id)["memory"] == {"limit": 8 * MIB, "swap": 8 * MIB}
    bundle = system.world.bundles[id]
    assert bundle["linux"]["resources"]["memory"]["limit"] == 8 * MIB
    assert bundle["linux"]["resources"]["devices"]
    assert bundle["process"]["oomScoreAdj"] == 500
    assert system.world.groups.scores[id] == 500


async def test_a_retried_create_still_finds_the_updated_container() -> None:
    system = wire()
    pod = await system.pod()
    id = await system.container(pod, linux=asked(cpu_shares=512))
    await system.resources.update(id, limits(cpu_shares=2048))
    assert await system.container(pod, linux=asked(cpu_shares=512)) == id


async def test_a_limit_can_be_lifted() -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=4 * MIB, cpu_quota=5000)
    await system.resources.update(id, limits(memory_limit_in_bytes=-1, cpu_quota=-1))
    assert in_force(system.world, id)["cpu"] == {"quota": -1, "period": 100_000}
    assert in_force(system.world, id)["memory"] == {"limit": -1, "swap": -1}
    assert system.state.containers[id].limits == limits(memory_limit_in_bytes=-1, cpu_quota=-1)


async def test_an_empty_update_changes_nothing() -> None:
    system = wire()
    id = await running(system, cpu_shares=512)
    before = system.state.containers[id].limits
    await system.resources.update(id, limits())
    assert system.state.containers[id].limits == before


async def test_what_is_invalid_or_unknown_is_refused_before_anything_happens() -> None:
    system = wire()
    id = await running(system, cpu_shares=512)
    before, calls = system.state.containers[id], len(system.world.calls)
    for change in (limits(cpu_quota=5), limits(oom_score_adj=2000), limits(unified={"cgroup.procs": "1"})):
        with pytest.raises(Invalid):
            await system.resources.update(id, change)
    with pytest.raises(NotFound):
        await system.resources.update("f" * 64, limits(cpu_shares=2))
    assert system.state.containers[id] is before
    assert len(system.world.calls) == calls


async def test_an_ended_container_has_no_limits_to_update() -> None:
    system = wire()
    id = await running(system, cpu_shares=512)
    await system.containers.stop(id, 0)
    with pytest.raises(WrongState, match="cannot update the limits of"):
        await system.resources.update(id, limits(cpu_shares=2))


@pytest.mark.parametrize(("used", "refused"), [(3 * MIB, True), (MIB, False), (None, False)])
async def test_a_memory_limit_below_what_is_in_use_is_refused(used: int | None, refused: bool) -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=4 * MIB)
    system.world.groups.used = used
    change = system.resources.update(id, limits(memory_limit_in_bytes=2 * MIB))
    if refused:
        with pytest.raises(
            WrongState, match=r"uses 3 MiB \(3145728 bytes\).* limit of 2 MiB \(2097152 bytes\)"
        ):
            await change
        assert "oci.update" not in system.world.calls
    else:
        await change


async def test_use_above_the_limit_does_not_keep_other_limits_from_changing() -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=4 * MIB)
    system.world.groups.used = 5 * MIB
    await system.resources.update(id, limits(memory_limit_in_bytes=4 * MIB, cpu_shares=99))
    assert system.state.containers[id].limits.cpu_shares == 99


async def test_an_update_that_fails_half_way_is_taken_back() -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=4 * MIB, cpu_quota=5000)
    before, record = dict(in_force(system.world, id)), system.state.containers[id]
    system.world.fail("oci.update")
    with pytest.raises(ToolFailed):
        await system.resources.update(id, limits(memory_limit_in_bytes=8 * MIB, cpu_quota=9000))
    now = in_force(system.world, id)
    assert (now["memory"], now["cpu"]["quota"]) == (before["memory"], before["cpu"]["quota"])
    assert system.state.containers[id] is record
    await system.resources.update(id, limits(memory_limit_in_bytes=8 * MIB))
    assert system.state.containers[id].limits.memory_limit_in_bytes == 8 * MIB


async def test_an_update_that_cannot_be_recorded_is_taken_back() -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=4 * MIB)
    record, bundle = system.state.containers[id], system.world.bundles[id]
    system.journal.failing.append(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        await system.resources.update(id, limits(memory_limit_in_bytes=8 * MIB))
    assert in_force(system.world, id)["memory"]["limit"] == 4 * MIB
    assert system.state.containers[id] is record
    assert system.world.bundles[id] == bundle


async def test_an_update_without_effect_is_an_error() -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=4 * MIB)
    in_force(system.world, id)
    system.world.groups.lost.add("memory")
    with pytest.raises(Unavailable, match=r"did not take effect: the memory limit is 4194304, not 2097152"):
        await system.resources.update(id, limits(memory_limit_in_bytes=2 * MIB))
    assert system.state.containers[id].limits.memory_limit_in_bytes == 4 * MIB


async def test_a_score_that_the_kernel_refuses_keeps_nothing_else_from_changing() -> None:
    system = wire()
    id = await running(system, oom_score_adj=500)
    system.world.fail("oci.adjust_oom_score", Denied("no"))
    await system.resources.update(id, limits(oom_score_adj=100, cpu_shares=9))
    container = system.state.containers[id]
    assert container.limits_in_force == limits(oom_score_adj=500, cpu_shares=9)
    assert container.limits == limits(oom_score_adj=100, cpu_shares=9)
    assert system.world.bundles[id]["process"]["oomScoreAdj"] == 500


@pytest.mark.parametrize("error", [Denied("no"), OSError(24, "Too many open files")])
async def test_a_score_that_some_processes_do_not_get_is_tried_again(error: Exception) -> None:
    system = wire()
    id = await running(system, oom_score_adj=500)
    system.world.fail("oci.adjust_oom_score", error)
    await system.resources.update(id, limits(oom_score_adj=700, cpu_shares=9))
    container = system.state.containers[id]
    assert container.limits_in_force == limits(oom_score_adj=500, cpu_shares=9)
    system.world.groups.scores.clear()
    await system.resources.update(id, limits(cpu_shares=10))
    assert system.world.groups.scores[id] == 700
    assert system.state.containers[id].limits_in_force == limits(oom_score_adj=700, cpu_shares=10)


async def test_an_update_that_cannot_be_recorded_gives_the_scores_back() -> None:
    system = wire()
    id = await running(system, oom_score_adj=500)
    record = system.state.containers[id]
    system.journal.failing.append(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        await system.resources.update(id, limits(oom_score_adj=700))
    assert system.world.groups.scores[id] == 500
    assert system.world.bundles[id]["process"]["oomScoreAdj"] == 500
    assert system.state.containers[id] is record


async def test_updates_of_one_container_take_turns() -> None:
    system = wire()
    id = await running(system, cpu_shares=512)
    going = system.world.hang("oci.update")
    first = asyncio.ensure_future(system.resources.update(id, limits(cpu_shares=100)))
    await until(lambda: "oci.update" in system.world.calls)
    second = asyncio.ensure_future(system.resources.update(id, limits(cpu_shares=200)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert system.world.calls.count("oci.update") == 1
    going.set()
    await asyncio.gather(first, second)
    assert system.state.containers[id].limits.cpu_shares == 200


async def test_an_update_whose_caller_leaves_is_finished() -> None:
    system = wire()
    id = await running(system, cpu_shares=512)
    going = system.world.hang("oci.update")
    call = asyncio.ensure_future(system.resources.update(id, limits(cpu_shares=100)))
    await until(lambda: "oci.update" in system.world.calls)
    call.cancel()
    await asyncio.sleep(0)
    going.set()
    await until(lambda: system.state.containers[id].limits.cpu_shares == 100)
    await asyncio.gather(call, return_exceptions=True)


async def test_a_remove_during_an_update_leaves_nothing() -> None:
    system = wire()
    pod = await system.pod()
    before = system.world.census()
    id = await system.started(pod, linux=asked(cpu_shares=512))
    going = system.world.hang("oci.update")
    system.world.fail("oci.update", ToolFailed(["crun", "update"], 1, "container not running"))
    update = asyncio.ensure_future(system.resources.update(id, limits(cpu_shares=100)))
    await until(lambda: "oci.update" in system.world.calls)
    remove = asyncio.ensure_future(system.containers.remove(id))
    await until(lambda: system.state.containers[id].state is ContainerState.EXITED)
    going.set()
    with pytest.raises((WrongState, NotFound)):  # not the runtime's puzzled words
        await update
    await remove
    assert system.world.census() == before
    assert id not in system.state.containers


async def test_what_others_change_is_told() -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=4 * MIB)
    assert await system.resources.differences(system.state.containers[id]) == ()
    in_force(system.world, id)["memory"]["limit"] = 8 * MIB
    [told] = await system.resources.differences(system.state.containers[id])
    assert "the memory limit is 8388608, not 4194304" in told
    await system.containers.stop(id, 0)
    assert await system.resources.differences(system.state.containers[id]) == ()


@pytest.mark.parametrize(
    "error", [WrongState("is from the days of another cgroup driver"), OSError(24, "Too many open files")]
)
async def test_what_is_in_force_may_not_be_known_and_is_no_error(error: Exception) -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=4 * MIB)
    system.world.fail("cgroups.read_back", error)
    [told] = await system.resources.differences(system.state.containers[id])
    assert told == f"whether its limits are in force cannot be told: {error}"


async def test_a_pod_that_is_removed_meanwhile_is_no_error() -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=4 * MIB)
    container = system.state.containers[id]
    await system.pods.remove(container.pod_id)
    assert await system.resources.differences(container) == ()


# --- pods ---------------------------------------------------------------------------------------------------


async def test_the_limits_of_a_pod_are_noted_and_nothing_else() -> None:
    system = wire()
    id = await system.pod()
    calls = len(system.world.calls)
    await system.resources.update_pod(id, limits(cpu_shares=5), None)
    await system.resources.update_pod(id, None, limits(memory_limit_in_bytes=7))
    pod = system.state.pods[id]
    assert (pod.overhead, pod.resources) == (limits(cpu_shares=5), limits(memory_limit_in_bytes=7))
    assert system.journal.rows["pod", id] == pod
    assert len(system.world.calls) == calls
    assert await system.pod() == id  # a retried run still finds it
    with pytest.raises(NotFound):
        await system.resources.update_pod("f" * 64, limits(), None)
    with pytest.raises(Invalid):
        await system.resources.update_pod(id, None, limits(cpu_quota=5))


# --- kills for memory ---------------------------------------------------------------------------------------


async def test_who_was_killed_is_on_record() -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=64 * MIB)
    system.world.end(
        id, 137, oom=True, kill=OomKill(count=1, scope=OomScope.CONTAINER, victim="stress", pid=9)
    )
    await until(lambda: system.state.containers[id].state is ContainerState.EXITED)
    ended = system.state.containers[id]
    assert (ended.reason, ended.exit_code, ended.oom_killed) == ("OOMKilled", 137, True)
    assert ended.message == (
        "the kernel killed process `stress` (pid 9): the container's memory limit of 64 MiB was reached"
    )


async def test_a_worker_that_was_lost_long_ago_is_not_what_our_kill_is_put_down_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = wire()
    id = await running(system, memory_limit_in_bytes=64 * MIB)
    send = system.machine.oci.signal

    async def with_a_kill_of_old(process: ProcessRef, number: int) -> bool:
        if number == 9:
            system.world.end(id, 137, oom=True, kill=OomKill(count=1, scope=OomScope.CONTAINER))
        return await send(process, number)

    monkeypatch.setattr(system.machine.oci, "signal", with_a_kill_of_old)
    await system.containers.stop(id, 0)
    ended = system.state.containers[id]
    assert (ended.reason, ended.exit_code, ended.oom_killed) == ("Error", 137, False)
    assert "64 MiB was reached" in ended.message
    assert system.journal.rows["container", id] == ended
    assert ended.killed_at > 0


async def test_a_full_disk_keeps_nothing_from_being_killed() -> None:
    system = wire()
    id = await running(system)
    system.journal.failing.append(OSError(28, "No space left on device"))
    await system.containers.stop(id, 0)
    assert (system.state.containers[id].exit_code, system.journal.failing) == (137, [])
