import asyncio

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import AlreadyExists, Invalid, ToolFailed, Unavailable, WrongState
from sampan.model.pod import PodState
from sampan.runtime import exits
from sampan.runtime.ports import Exit, Launched
from tests.runtime.system import System, container_config, pod_config, until, wire

RUN_CALLS = ["sandboxes.create", "bundles.make_log_directory", "cgroups.make_parent", "network.attach"]
STOP_CALLS = ["network.detach", "sandboxes.remove"]


async def test_a_pod_that_runs_is_ready_and_durable() -> None:
    system = wire()
    id = await system.pod()
    assert system.state.pods[id].state is PodState.READY
    assert system.journal.rows["pod", id] == system.state.pods[id]
    assert system.state.pods[id].ips == ("10.1.0.2", "fd00::2")


async def test_the_intent_and_its_network_are_on_disk_before_the_first_effect() -> None:
    system = wire()
    go_on = system.world.hang("sandboxes.create")
    run = asyncio.ensure_future(system.pod())
    await until(lambda: system.world.sandboxes)
    [pod] = system.journal.rows.values()
    assert pod.conflist and not pod.visible  # type: ignore[union-attr]
    go_on.set()
    await run


@pytest.mark.parametrize("call", RUN_CALLS)
async def test_a_run_that_fails_leaves_nothing(call: str) -> None:
    system = wire()
    system.world.fail(call)
    with pytest.raises(ToolFailed):
        await system.pod()
    assert (system.world.census(), system.journal.rows, dict(system.state.pods)) == ({}, {}, {})
    assert await system.pod()  # and the name is free


@pytest.mark.parametrize("call", RUN_CALLS)
@pytest.mark.parametrize("undo", ["network.detach", "sandboxes.remove", "cgroups.remove_parent"])
async def test_a_run_whose_undoing_fails_too_stays_removable(call: str, undo: str) -> None:
    system = wire()
    system.world.fail(call)
    system.world.fail(undo, OSError("stuck"))
    with pytest.raises((ToolFailed, OSError)):
        await system.pod()
    for pod in list(system.state.pods.values()):
        assert pod.visible and pod.state is PodState.NOT_READY
        await system.pods.remove(pod.id)
    assert (system.world.census(), system.journal.rows) == ({}, {})


async def test_a_failed_write_of_the_intent_has_no_effect() -> None:
    system = wire()
    system.journal.failing.append(Unavailable("disk"))
    with pytest.raises(Unavailable):
        await system.pod()
    assert system.world.census() == {} and not system.world.calls


async def test_a_retry_gets_the_same_pod() -> None:
    system = wire()
    assert await system.pod() == await system.pod()


async def test_concurrent_runs_of_one_pod_make_one() -> None:
    system = wire()
    found = await asyncio.gather(*(system.pod() for _ in range(8)))
    assert len(set(found)) == 1 and len(system.world.sandboxes) == 1


async def test_a_caller_that_leaves_does_not_stop_the_run_and_its_retry_joins_it() -> None:
    system = wire()
    go_on = system.world.hang("network.attach")
    first = asyncio.ensure_future(system.pod())
    await until(lambda: system.world.attachments)
    first.cancel()
    retry = asyncio.ensure_future(system.pod())
    await asyncio.sleep(0)
    go_on.set()
    id = await retry
    assert list(system.state.pods) == [id]


async def test_the_same_name_with_another_config_is_refused() -> None:
    system = wire()
    id = await system.pod()
    with pytest.raises(AlreadyExists, match=id):
        await system.pod(labels={"a": "b"})


async def test_the_name_of_a_stopped_pod_is_taken_until_it_is_removed() -> None:
    system = wire()
    id = await system.pod()
    await system.pods.stop(id)
    with pytest.raises(AlreadyExists, match="no longer ready"):
        await system.pod()
    await system.pods.remove(id)
    assert await system.pod() != id


async def test_without_a_network_the_pod_is_refused_but_a_host_network_pod_runs() -> None:
    system = wire()
    system.world.network_ready = False
    with pytest.raises(Unavailable, match="nowhere"):
        await system.pod()
    assert system.world.census() == {}
    host = cri.LinuxPodSandboxConfig(
        security_context=cri.LinuxSandboxSecurityContext(
            namespace_options=cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER)
        )
    )
    id = await system.pod(linux=host)
    assert system.state.pods[id].ips == () and "net" not in system.state.pods[id].namespaces


async def test_an_unknown_handler_is_named_with_the_known_ones() -> None:
    system = wire()
    with pytest.raises(Invalid, match=r"'kata'.*crun"):
        await system.pods.run(pod_config(), "kata")


async def test_stopping_frees_everything_but_the_record() -> None:
    system = wire()
    id = await system.pod()
    await system.started(id)
    await system.pods.stop(id)
    assert set(system.world.census()) == {"bundles", "cgroups", "roots"}
    assert system.state.pods[id].state is PodState.NOT_READY
    await system.pods.remove(id)
    assert (system.world.census(), system.journal.rows) == ({}, {})


@pytest.mark.parametrize("id", ["", "nothing", "f" * 64, "../../etc"])
async def test_stopping_and_removing_what_is_not_there_is_fine(id: str) -> None:
    system = wire()
    await system.pods.stop(id)
    await system.pods.remove(id)


async def test_stopping_twice_costs_nothing() -> None:
    system = wire()
    id = await system.pod()
    await system.pods.stop(id)
    calls = len(system.world.calls)
    await system.pods.stop(id)
    assert len(system.world.calls) == calls


@pytest.mark.parametrize("call", STOP_CALLS)
async def test_a_stop_that_fails_can_be_repeated(call: str) -> None:
    system = wire()
    id = await system.pod()
    system.world.fail(call)
    with pytest.raises(ToolFailed):
        await system.pods.stop(id)
    assert system.state.pods[id].state is PodState.NOT_READY
    await system.pods.stop(id)
    await system.pods.remove(id)
    assert system.world.census() == {}


async def test_a_stop_whose_caller_leaves_goes_on() -> None:
    system = wire()
    id = await system.pod()
    go_on = system.world.hang("network.detach")
    stop = asyncio.ensure_future(system.pods.stop(id))
    await until(lambda: not system.world.attachments)
    stop.cancel()
    go_on.set()
    await system.pods.settle()
    assert system.state.pods[id].stopped_at


async def test_no_container_is_made_in_a_pod_that_is_stopping() -> None:
    system = wire()
    id = await system.pod()
    go_on = system.world.hang("network.detach")
    stop = asyncio.ensure_future(system.pods.stop(id))
    await until(lambda: not system.world.attachments)
    with pytest.raises(WrongState, match="not ready"):
        await system.container(id)
    go_on.set()
    await stop


async def test_a_create_in_flight_when_its_pod_is_stopped_is_undone() -> None:
    system = wire()
    id = await system.pod()
    go_on = system.world.hang("oci.create")
    create = asyncio.ensure_future(system.container(id))
    await until(lambda: system.world.processes)
    stop = asyncio.ensure_future(system.pods.stop(id))
    await until(lambda: system.state.pods[id].stopping_at)
    go_on.set()
    with pytest.raises(WrongState):
        await create
    await stop
    await system.pods.remove(id)
    assert (system.world.census(), system.journal.rows) == ({}, {})


async def test_a_cgroup_parent_that_was_there_is_left_alone() -> None:
    system = wire()
    system.world.cgroups.add("/tests")
    await system.pods.remove(await system.pod())
    assert system.world.census() == {"cgroups": ["/tests"]}


async def test_a_parent_shared_by_pods_goes_with_the_last() -> None:
    system = wire()
    first, second = await system.pod("one"), await system.pod("two")
    await system.pods.remove(first)
    assert system.world.cgroups == {"/tests"}
    await system.pods.remove(second)
    assert system.world.cgroups == set()


async def test_the_init_comes_with_the_first_container_that_shares_the_pid_namespace() -> None:
    system = wire()
    id = await system.pod(pid=cri.POD)
    await system.container(id, "alone")
    assert id not in system.world.processes
    await asyncio.gather(
        system.containers.create(id, container_config("a", pid=cri.POD)),
        system.containers.create(id, container_config("b", pid=cri.POD)),
    )
    assert id in system.world.processes and system.world.processes[id].running
    await system.pods.remove(id)
    assert system.world.census() == {}


async def test_the_end_of_an_init_that_cannot_be_told_at_once_is_noticed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exits, "RETRY_SECONDS", 0)
    system = wire()
    wait, failures = system.machine.oci.wait, [OSError("no descriptors"), OSError("no memory")]

    async def told_late(id: str, launched: Launched) -> Exit:
        end = await wait(id, launched)
        if id == pod and failures:
            raise failures.pop()
        return end

    monkeypatch.setattr(system.machine.oci, "wait", told_late)
    pod = await system.pod(pid=cri.POD)
    await system.container(pod, pid=cri.POD)
    system.journal.failing.append(OSError("no space"))
    system.world.end(pod, 137)
    await until(lambda: system.state.pods[pod].state is PodState.NOT_READY)
    assert not failures and "137" in system.state.pods[pod].broken_reason


async def test_a_pod_whose_init_dies_is_not_ready() -> None:
    system = wire()
    id = await system.pod(pid=cri.POD)
    await system.containers.create(id, container_config("a", pid=cri.POD))
    system.world.end(id, 137)
    await until(lambda: system.state.pods[id].state is not PodState.READY)
    assert "init" in system.state.pods[id].broken_reason
    await system.pods.remove(id)
    assert system.world.census() == {}


async def test_reads_do_not_wait_for_a_stuck_teardown() -> None:
    system: System = wire()
    id = await system.pod()
    go_on = system.world.hang("sandboxes.remove")
    stop = asyncio.ensure_future(system.pods.stop(id))
    await until(lambda: not system.world.sandboxes)
    assert system.state.pods[id].state is PodState.NOT_READY  # a plain lookup: nothing to wait for
    go_on.set()
    await stop


async def test_a_run_in_flight_is_joined_only_by_the_same_request() -> None:
    system = wire()
    go_on = system.world.hang("network.attach")
    first = asyncio.ensure_future(system.pod())
    await until(lambda: system.world.attachments)
    with pytest.raises(AlreadyExists, match="another configuration"):
        await system.pod(labels={"a": "b"})
    go_on.set()
    await first


async def test_the_retry_of_a_run_whose_undoing_failed_undoes_it_and_runs() -> None:
    system = wire()
    system.world.fail("network.attach")
    system.world.fail("network.detach")
    with pytest.raises(ToolFailed):
        await system.pod()
    id = await system.pod()
    assert list(system.state.pods) == [id] and system.state.pods[id].state is PodState.READY
    assert list(system.world.sandboxes) == [id]
