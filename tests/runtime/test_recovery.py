import asyncio

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model import container as container_changes
from sampan.model import pod as pod_changes
from sampan.model.container import Container, ContainerState
from sampan.model.errors import ToolFailed
from sampan.model.pod import Pod, PodState
from sampan.model.process import ProcessRef
from sampan.model.user import User
from sampan.runtime.recovery import Verdict, decide_container, decide_pod
from tests.fakes import World
from tests.runtime.system import System, container_config, until, wire

POD = Pod(id="p", config=cri.PodSandboxConfig(), handler="crun", created_at=1, hostname="h")
READY = pod_changes.ready(POD, 2)
STOPPING = pod_changes.stopping(READY, 3)
CONTAINER = Container(
    id="c", pod_id="p", config=cri.ContainerConfig(), handler="crun", image_id="i", created_at=1
)
CREATED = container_changes.created(CONTAINER, ProcessRef(2, 3), ProcessRef(4, 5), User())


@pytest.mark.parametrize(
    ("pod", "pinned", "verdict"),
    [
        (POD, True, Verdict.TEAR_DOWN),
        (POD, False, Verdict.TEAR_DOWN),
        (READY, True, Verdict.KEEP),
        (READY, False, Verdict.BREAK),
        (pod_changes.broken(READY, 3, "x"), False, Verdict.KEEP),
        (STOPPING, True, Verdict.TEAR_DOWN),
        (STOPPING, False, Verdict.TEAR_DOWN),
        (pod_changes.stopped(STOPPING, 4), False, Verdict.KEEP),
    ],
)
def test_what_a_pod_means(pod: Pod, pinned: bool, verdict: Verdict) -> None:
    assert decide_pod(pod, pinned=pinned) is verdict


@pytest.mark.parametrize(
    ("container", "pod_known", "verdict"),
    [
        (CONTAINER, True, Verdict.TEAR_DOWN),
        (CREATED, True, Verdict.KEEP),
        (CREATED, False, Verdict.TEAR_DOWN),
        (container_changes.finished(CREATED, at=9, code=0), True, Verdict.KEEP),
    ],
)
def test_what_a_container_means(container: Container, pod_known: bool, verdict: Verdict) -> None:
    assert decide_container(container, pod_known=pod_known) is verdict


async def restarted(system: System, world: World | None = None) -> System:
    """The daemon is killed, and another starts over the same machine and journal."""
    await system.tasks.stop()
    again = wire(world or system.world, system.journal)
    await again.recovery.run()
    return again


async def settled(system: System) -> None:
    for _ in range(200):
        await asyncio.sleep(0)


async def test_everything_is_taken_back() -> None:
    system = wire()
    pod = await system.pod()
    running, created = await system.started(pod, "a"), await system.container(pod, "b")
    ended = await system.started(pod, "c")
    await system.tasks.stop()
    system.world.end(ended, 3)  # while no daemon is there
    again = await restarted(system)
    await settled(again)
    assert again.state.pods[pod].state is PodState.READY
    states = {id: again.state.containers[id].state for id in (running, created, ended)}
    assert list(states.values()) == [ContainerState.RUNNING, ContainerState.CREATED, ContainerState.EXITED]
    assert again.state.containers[ended].exit_code == 3
    await again.pods.remove(pod)
    assert (again.world.census(), again.journal.rows) == ({}, {})


async def test_a_container_started_just_before_the_kill_is_running() -> None:
    system = wire()
    pod = await system.pod()
    id = await system.container(pod)
    system.world.processes[id].running = True
    again = await restarted(system)
    assert again.state.containers[id].state is ContainerState.RUNNING


@pytest.mark.parametrize("call", ["sandboxes.create", "cgroups.make_parent", "network.attach"])
async def test_a_run_cut_short_is_taken_down(call: str) -> None:
    system = wire()
    system.world.hang(call)
    run = asyncio.ensure_future(system.pod())
    await until(lambda: call in system.world.calls)
    before = dict(system.journal.rows)
    again = wire(system.world, system.journal)  # the first daemon never goes on: it was killed
    assert before
    await again.recovery.run()
    await settled(again)
    assert (again.world.census(), again.journal.rows) == ({}, {})
    assert await again.pod()
    run.cancel()


@pytest.mark.parametrize("call", ["rootfs.prepare", "bundles.write", "oci.create"])
async def test_a_create_cut_short_is_taken_down(call: str) -> None:
    system = wire()
    pod = await system.pod()
    before = system.world.census()
    system.world.hang(call)
    create = asyncio.ensure_future(system.container(pod))
    await until(lambda: call in system.world.calls)
    again = wire(system.world, system.journal)
    await again.recovery.run()
    assert again.world.census() == before and not again.state.containers
    create.cancel()


async def test_a_stop_cut_short_is_finished() -> None:
    system = wire()
    pod = await system.pod()
    await system.started(pod)
    system.world.hang("network.detach")
    stop = asyncio.ensure_future(system.pods.stop(pod))
    await until(lambda: not system.world.attachments)
    again = wire(system.world, system.journal)
    await again.recovery.run()
    await settled(again)
    assert again.state.pods[pod].stopped_at and not again.world.sandboxes
    stop.cancel()


async def test_after_a_reboot_pods_are_not_ready_and_containers_lost_and_all_can_be_removed() -> None:
    system = wire()
    pod = await system.pod(pid=cri.POD)
    id = await system.started(pod)
    await system.containers.create(pod, container_config("shared", pid=cri.POD))
    await system.tasks.stop()
    rebooted = World(attachments=system.world.attachments)  # addresses are on disk and survive
    again = wire(rebooted, system.journal)
    await again.recovery.run()
    await settled(again)
    assert again.state.pods[pod].state is PodState.NOT_READY
    assert (again.state.containers[id].exit_code, again.state.containers[id].reason) == (255, "Unknown")
    await again.pods.remove(pod)
    assert (again.world.census(), again.journal.rows) == ({}, {})


async def test_one_record_that_cannot_be_taken_back_does_not_stop_the_rest() -> None:
    system = wire()
    first, second = await system.pod("one"), await system.pod("two")
    await system.tasks.stop()
    await system.state.update_pod(first, lambda pod: pod_changes.stopping(pod, 5))
    system.world.fail("network.detach", ToolFailed(["x"], 1, "stuck"))
    again = await restarted(system)
    await settled(again)
    assert again.state.pods[second].state is PodState.READY
    await again.pods.stop(first)  # the next call tries again
    assert again.state.pods[first].stopped_at


async def test_a_stop_cut_short_before_the_kill_is_finished() -> None:
    system = wire()
    pod = await system.pod()
    id = await system.started(pod)
    await system.tasks.stop()
    await system.state.update_pod(pod, lambda now_: pod_changes.stopping(now_, 5))
    again = await restarted(system)
    await until(lambda: again.state.pods[pod].stopped_at)
    assert again.state.containers[id].exit_code == 137


async def test_what_an_ended_container_left_is_freed() -> None:
    system = wire()
    id = await system.started(await system.pod())
    await system.tasks.stop()
    await system.state.update_container(id, lambda now_: container_changes.finished(now_, at=9, code=0))
    again = await restarted(system)
    await until(lambda: id not in again.world.processes)


async def test_a_pod_init_that_was_never_recorded_is_made_anew() -> None:
    system = wire()
    pod = await system.pod(pid=cri.POD)
    system.world.hang("oci.start")
    create = asyncio.ensure_future(system.container(pod, pid=cri.POD))
    await until(lambda: "oci.start" in system.world.calls)
    again = wire(system.world, system.journal)
    await again.recovery.run()
    assert await again.containers.create(pod, container_config("other", pid=cri.POD))
    create.cancel()


async def test_sessions_of_the_daemon_before_are_ended_and_nobody_waits_for_it() -> None:
    system = wire()
    pod = await system.pod()
    running, ended = await system.started(pod, "a"), await system.started(pod, "b")
    await system.tasks.stop()
    system.world.end(ended, 0)
    system.world.lost_sessions = {running: 2}
    slow = system.world.hang("oci.end_sessions")
    again = await restarted(system)
    assert again.state.containers[running].state is ContainerState.RUNNING
    slow.set()
    await settled(again)
    assert system.world.lost_sessions == {}


async def test_sessions_that_cannot_be_ended_stop_nothing() -> None:
    system = wire()
    pod = await system.pod()
    running = await system.started(pod, "a")
    system.world.fail("oci.end_sessions")
    again = await restarted(system)
    await settled(again)
    assert again.state.containers[running].state is ContainerState.RUNNING
