import asyncio
from typing import Any

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.container import ContainerState
from sampan.model.errors import AlreadyExists, Invalid, NotFound, SampanError, ToolFailed, WrongState
from sampan.runtime.handler_ports import HandlerStatus
from sampan.spec.facts import Source
from tests.runtime.system import IMAGE, System, container_config, pod_config, until, wire

CREATE_CALLS = ["rootfs.prepare", "bundles.write", "bundles.make_log", "oci.create"]


async def until_exited(system: System, id: str) -> None:
    await until(lambda: system.state.containers[id].state is ContainerState.EXITED)


async def test_a_container_is_created_then_runs_then_exits() -> None:
    system = wire()
    id = await system.container(await system.pod())
    assert system.state.containers[id].state is ContainerState.CREATED
    await system.containers.start(id)
    assert system.state.containers[id].state is ContainerState.RUNNING
    system.world.end(id, 0)
    await until_exited(system, id)
    assert system.state.containers[id].reason == "Completed"
    assert system.journal.rows["container", id] == system.state.containers[id]


@pytest.mark.parametrize(
    ("code", "oom", "lost", "reason"),
    [
        (0, False, False, "Completed"),
        (7, False, False, "Error"),
        (137, True, False, "OOMKilled"),
        (255, False, True, "Unknown"),
    ],
)
async def test_how_it_ended_is_told(code: int, oom: bool, lost: bool, reason: str) -> None:
    system = wire()
    id = await system.started(await system.pod())
    system.world.end(id, code, oom=oom, lost=lost)
    await until_exited(system, id)
    ended = system.state.containers[id]
    assert (ended.exit_code, ended.reason) == (code, reason)


@pytest.mark.parametrize("call", CREATE_CALLS)
async def test_a_create_that_fails_leaves_nothing(call: str) -> None:
    system = wire()
    pod = await system.pod()
    before = system.world.census()
    system.world.fail(call)
    with pytest.raises(ToolFailed):
        await system.container(pod)
    assert system.world.census() == before
    assert not system.state.containers
    assert await system.container(pod)


@pytest.mark.parametrize("call", CREATE_CALLS)
async def test_a_caller_that_leaves_does_not_stop_the_create(call: str) -> None:
    system = wire()
    pod = await system.pod()
    go_on = system.world.hang(call)
    create = asyncio.ensure_future(system.container(pod))
    await until(lambda: call in system.world.calls)
    create.cancel()
    retry = asyncio.ensure_future(system.container(pod))
    await asyncio.sleep(0)
    go_on.set()
    assert list(system.state.containers) == [await retry]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("call", ["", *CREATE_CALLS])
async def test_an_image_is_held_while_a_container_is_made_of_it(call: str, fails: bool) -> None:
    """Also in the moment before the intent is on record (`call` "")."""
    system = wire()
    pod = await system.pod()
    go_on = system.world.hang(call or CREATE_CALLS[0])
    if fails:
        system.world.fail(call or CREATE_CALLS[0])
    create = asyncio.ensure_future(system.container(pod))
    await until(lambda: call in system.world.calls if call else system.images._records._held[IMAGE.id])
    assert bool(system.state.containers) is bool(call)
    await system.images.remove(IMAGE.id)
    assert system.state.images[IMAGE.id].removed and system.images.find(IMAGE.id) is None
    with pytest.raises(NotFound, match="pull it"):
        await system.container(pod, "another")
    go_on.set()
    if fails:
        with pytest.raises(ToolFailed, match="injected"):
            await create
    else:
        assert system.state.containers[await create].image_id in system.state.images
        await system.containers.remove(await create)
    await until(lambda: not system.state.images)
    await system.tasks.stop()


async def test_a_retry_gets_the_same_container_and_another_config_is_refused() -> None:
    system = wire()
    pod = await system.pod()
    id = await system.container(pod)
    assert await system.container(pod) == id
    with pytest.raises(AlreadyExists, match=id):
        await system.container(pod, working_dir="/x")


async def test_what_is_missing_is_named_before_any_effect() -> None:
    system = wire()
    pod = await system.pod()
    before = (system.world.census(), dict(system.journal.rows))
    with pytest.raises(NotFound, match="pull it"):
        await system.containers.create(pod, container_config(image=cri.ImageSpec(image="absent")))
    with pytest.raises(NotFound, match="pod"):
        await system.container("0" * 64)
    with pytest.raises(Invalid, match="capabilit"):
        context = cri.LinuxContainerSecurityContext(capabilities=cri.Capability(add_capabilities=["FLY"]))
        await system.container(pod, linux=cri.LinuxContainerConfig(security_context=context))
    assert (system.world.census(), dict(system.journal.rows)) == before


async def test_a_mount_of_a_host_path_that_is_not_there_is_refused_and_undone() -> None:
    system = wire()
    pod = await system.pod()
    before = system.world.census()
    mounts = [cri.Mount(host_path="/absent", container_path="/data")]
    with pytest.raises(Invalid, match="/absent"):
        await system.container(pod, mounts=mounts)
    assert system.world.census() == before
    system.world.sources["/absent"] = Source("/absent", True, "private")
    assert await system.container(pod, mounts=mounts)


async def test_a_start_that_fails_shows_in_the_status() -> None:
    system = wire()
    id = await system.container(await system.pod())
    system.world.fail("oci.start", ToolFailed(["crun", "start"], 1, "exec: no such file"))
    with pytest.raises(ToolFailed):
        await system.containers.start(id)
    await until_exited(system, id)
    ended = system.state.containers[id]
    assert (ended.exit_code, ended.reason) == (128, "StartError") and "no such file" in ended.message


async def test_only_a_created_container_can_be_started() -> None:
    system = wire()
    id = await system.started(await system.pod())
    with pytest.raises(WrongState, match="running"):
        await system.containers.start(id)
    with pytest.raises(NotFound):
        await system.containers.start("0" * 64)


async def test_removing_kills_and_forgets_and_repeating_it_is_fine() -> None:
    system = wire()
    pod = await system.pod()
    before = system.world.census()
    id = await system.started(pod)
    await asyncio.gather(*(system.containers.remove(id) for _ in range(5)))
    assert system.world.census() == before and id not in system.state.containers
    await system.containers.remove(id)


@pytest.mark.parametrize("call", ["oci.delete", "rootfs.remove", "bundles.remove"])
async def test_a_remove_that_fails_can_be_repeated(call: str) -> None:
    system = wire()
    pod = await system.pod()
    before = system.world.census()
    id = await system.container(pod)
    await system.containers.stop(id, 0)
    await system.exits.freed(id)
    system.world.fail(call)
    with pytest.raises(ToolFailed):
        await system.containers.remove(id)
    await system.containers.remove(id)
    assert system.world.census() == before


async def test_the_log_is_reopened_only_while_it_runs() -> None:
    system = wire()
    id = await system.container(await system.pod())
    with pytest.raises(WrongState):
        await system.containers.reopen_log(id)
    await system.containers.start(id)
    await system.containers.reopen_log(id)
    assert "oci.reopen_log" in system.world.calls


async def test_exec_runs_with_the_containers_own_process() -> None:
    system = wire()
    id = await system.started(await system.pod())
    assert (await system.exec.sync(id, ["echo", "hi"], 5)).stdout == b"echo hi"
    with pytest.raises(Invalid):
        await system.exec.sync(id, [], 5)
    await system.containers.stop(id, 0)
    with pytest.raises(WrongState, match="exited"):
        await system.exec.sync(id, ["true"], 5)
    with pytest.raises(NotFound):
        await system.exec.sync("e" * 64, ["true"], 5)


async def test_stats_are_there_as_soon_as_it_runs_and_gone_with_it() -> None:
    system = wire()
    id = await system.started(await system.pod())
    samples = await system.stats.of(list(system.state.containers.values()))
    assert samples[id].usage.cpu_ns
    await system.containers.remove(id)
    assert await system.stats.of(list(system.state.containers.values())) == {}


async def test_what_the_config_says_of_the_pod_reaches_no_spec_annotation() -> None:
    system = wire()
    id = await system.container(await system.pod(annotations={"run.oci.hooks.stdout": "/x"}))
    assert "run.oci.hooks.stdout" not in str(system.world.bundles[id].get("annotations"))
    assert pod_config("x").metadata.name == "x"


async def test_an_end_that_cannot_be_recorded_at_once_is_recorded_later() -> None:
    system = wire()
    id = await system.started(await system.pod())
    system.journal.failing.append(OSError("no descriptors"))
    await system.containers.stop(id, 0)
    assert system.state.containers[id].exit_code == 137


async def test_a_create_whose_undoing_failed_too_is_undone_by_its_retry() -> None:
    system = wire()
    pod = await system.pod()
    system.world.fail("oci.create")
    system.world.fail("rootfs.remove")
    with pytest.raises(ToolFailed):
        await system.container(pod)
    id = await system.container(pod)
    assert list(system.state.containers) == [id]
    await system.containers.start(id)


async def test_a_create_in_flight_is_joined_only_by_the_same_request() -> None:
    system = wire()
    pod = await system.pod()
    go_on = system.world.hang("oci.create")
    first = asyncio.ensure_future(system.container(pod))
    await until(lambda: system.world.processes)
    with pytest.raises(AlreadyExists, match="another configuration"):
        await system.container(pod, working_dir="/x")
    second = asyncio.ensure_future(system.container(pod))
    await asyncio.sleep(0)
    go_on.set()
    assert await first == await second


async def test_concurrent_creates_in_a_shared_pid_namespace_make_one_init_even_if_one_is_slow() -> None:
    system = wire()
    pod = await system.pod(pid=cri.POD)
    system.world.sources["/slow"] = Source("/slow", True, "private")
    go_on = system.world.hang("facts.sources")
    mounts = [cri.Mount(host_path="/slow", container_path="/data")]
    slow = asyncio.ensure_future(system.container(pod, "slow", pid=cri.POD, mounts=mounts))
    await until(lambda: "facts.sources" in system.world.calls)
    await system.container(pod, "quick", pid=cri.POD)
    go_on.set()
    assert await slow


@pytest.mark.parametrize("verb", ["stop", "remove"])
async def test_a_pod_that_goes_while_its_handler_is_looked_at_gets_no_container(
    monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    system = wire()
    pod = await system.pod()
    require = system.machine.handlers.require

    async def slow(name: str) -> HandlerStatus:
        await getattr(system.pods, verb)(pod)
        return await require(name)

    monkeypatch.setattr(system.machine.handlers, "require", slow)
    with pytest.raises(WrongState if verb == "stop" else NotFound, match=pod):
        await system.container(pod)
    assert not system.state.containers and "rootfs.prepare" not in system.world.calls


async def test_a_pod_that_goes_while_a_leftover_is_torn_down_gets_no_container() -> None:
    system = wire()
    pod = await system.pod()
    system.world.fail("oci.create")
    system.world.fail("rootfs.remove")
    with pytest.raises(ToolFailed):
        await system.container(pod)
    go_on = system.world.hang("bundles.remove")
    system.world.calls.clear()
    create = asyncio.ensure_future(system.container(pod))
    await until(lambda: "bundles.remove" in system.world.calls)
    stop = asyncio.ensure_future(system.pods.stop(pod))
    await until(lambda: system.state.pods[pod].stopping_at)
    go_on.set()
    with pytest.raises(WrongState, match=pod):
        await create
    await stop
    assert not system.state.containers and "rootfs.prepare" not in system.world.calls


async def test_a_pod_that_is_forgotten_while_the_intent_is_written_gets_no_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its removal found no container that it had to wait for."""
    system = wire()
    pod = await system.pod()
    write, removed = system.journal.write, False

    async def slow(changes: Any) -> None:
        nonlocal removed
        if not removed:
            removed = True
            await system.pods.remove(pod)
        await write(changes)

    monkeypatch.setattr(system.journal, "write", slow)
    with pytest.raises(SampanError, match=pod):
        await system.container(pod)
    assert (system.world.census(), system.journal.rows) == ({}, {})
