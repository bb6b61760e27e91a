"""GetContainerEvents through a real gRPC server and a real client."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import cri_pb2_grpc as rpc
from sampan.model.container import finished, started
from sampan.runtime import events as module
from sampan.runtime.events import Events
from sampan.runtime.state import Gone, State
from sampan.server.interceptor import Interceptor
from sampan.server.runtime_service import RuntimeService
from tests.fakes import FakeJournal
from tests.runtime.system import until
from tests.server.test_convert import CONTAINER, POD


class Served:
    """The service over a state, and a client's stub."""

    def __init__(self, directory: Path) -> None:
        self.state = State(FakeJournal())
        self.events = Events(self.state)
        self.interceptor = Interceptor()
        self.server = grpc.aio.server(interceptors=[self.interceptor])
        cases = cast(Any, SimpleNamespace(state=self.state, events=self.events))
        rpc.add_RuntimeServiceServicer_to_server(RuntimeService(cases), self.server)  # type: ignore[abstract]
        self.endpoint = f"unix://{directory}/s"
        self.server.add_insecure_port(self.endpoint)
        self.channel = grpc.aio.insecure_channel(self.endpoint)
        self.stub = rpc.RuntimeServiceStub(self.channel)

    async def subscribed(self) -> Any:
        call = self.stub.GetContainerEvents(cri.GetEventsRequest())
        async with asyncio.timeout(10):
            await cast(Any, call).initial_metadata()
        return call

    async def close(self) -> None:
        self.events.close()
        await self.server.stop(0)
        await self.channel.close()


@pytest.fixture
async def served(short_tmp: Path) -> AsyncIterator[Served]:
    served = Served(short_tmp)
    await served.server.start()
    yield served
    await served.close()


async def test_an_event_says_what_and_when_and_how_its_pod_and_containers_are(served: Served) -> None:
    call = await served.subscribed()
    before = time.time_ns()
    await served.state.commit(POD)
    await served.state.commit(CONTAINER)
    await served.state.update_container(CONTAINER.id, lambda one: started(one, 8))
    await served.state.update_container(CONTAINER.id, lambda one: finished(one, at=9, code=3))
    await served.state.commit(Gone("container", CONTAINER.id))
    await served.state.commit(Gone("pod", POD.id))
    found = [await call.read() for _ in range(7)]
    assert [(each.container_event_type, each.container_id[:2]) for each in found] == [
        (cri.CONTAINER_CREATED_EVENT, "ab"),
        (cri.CONTAINER_STARTED_EVENT, "ab"),
        (cri.CONTAINER_CREATED_EVENT, "cd"),
        (cri.CONTAINER_STARTED_EVENT, "cd"),
        (cri.CONTAINER_STOPPED_EVENT, "cd"),
        (cri.CONTAINER_DELETED_EVENT, "cd"),
        (cri.CONTAINER_DELETED_EVENT, "ab"),
    ]
    assert all(each.pod_sandbox_status.metadata == POD.config.metadata for each in found)
    assert [[one.state for one in each.containers_statuses] for each in found] == [
        [], [], [cri.CONTAINER_CREATED], [cri.CONTAINER_RUNNING], [cri.CONTAINER_EXITED], [], [],
    ]  # fmt: skip
    assert found[4].containers_statuses[0].exit_code == 3
    times = [each.created_at for each in found]
    assert times == sorted(set(times)) and times[0] >= before


async def test_a_status_is_never_older_than_an_event_before_it_nor_newer_than_one_after_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kubelet keeps what has the later time; the clock may have been set back meanwhile."""
    times = iter([10**18, 10**18, *[10**17] * 10])
    monkeypatch.setattr(module, "now", lambda: next(times))
    call = await served.subscribed()
    await served.state.commit(POD, CONTAINER)
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=POD.id)
    status = await cast(Any, served.stub.PodSandboxStatus(request))
    await served.state.update_container(CONTAINER.id, lambda one: started(one, 8))
    found = [await call.read() for _ in range(4)]
    assert [each.state for each in status.containers_statuses] == [cri.CONTAINER_CREATED]
    assert found[2].created_at < status.timestamp < found[3].created_at


async def test_a_client_that_leaves_is_forgotten(served: Served) -> None:
    calls = [await served.subscribed() for _ in range(3)]
    await served.state.commit(POD)
    await calls[0].read()
    for call in calls:
        call.cancel()
    await until(lambda: not served.events._subscriptions)


async def test_one_that_leaves_while_it_is_written_to_is_forgotten(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await flooded(served, monkeypatch)
    call.cancel()
    await until(lambda: not served.events._subscriptions)


async def flooded(served: Served, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client that reads nothing, and has been sent more than fits on the way."""
    monkeypatch.setattr(module, "BACKLOG", 5)
    call = await served.subscribed()
    (subscription,) = served.events._subscriptions
    big = msgspec.structs.replace(POD, config=cri.PodSandboxConfig(annotations={"big": "x" * 100_000}))
    for number in range(300):
        await served.state.commit(msgspec.structs.replace(big, id=f"{number}"))
        if subscription._behind:
            await asyncio.sleep(0.02)
            if subscription._behind:  # still: nothing goes out any more
                return call
        await asyncio.sleep(0.002)
    raise AssertionError("the client took it all")


async def test_a_slow_client_is_resynchronised_and_others_do_not_wait_for_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = await flooded(served, monkeypatch)
    quick = await served.subscribed()
    await served.state.commit(CONTAINER)
    assert (await quick.read()).container_id == CONTAINER.id
    seen = set()
    while CONTAINER.id not in seen:
        seen.add((await slow.read()).container_id)
    assert seen == {*served.state.pods, CONTAINER.id}


async def test_the_end_of_the_daemon_does_not_wait_for_its_streams(served: Served) -> None:
    call = await served.subscribed()
    await served.state.commit(POD)
    began = time.monotonic()
    served.events.close()
    await served.interceptor.stop(served.server, 10)
    assert time.monotonic() - began < 2
    assert [(await call.read()).container_id for _ in range(2)] == [POD.id] * 2
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_nor_for_one_that_nobody_reads(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    await flooded(served, monkeypatch)
    await cast(Any, served.stub.ListPodSandbox(cri.ListPodSandboxRequest()))
    began = time.monotonic()
    served.events.close()
    await served.interceptor.stop(served.server, 30)
    assert time.monotonic() - began < 5
