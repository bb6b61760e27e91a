"""Lists in parts, through a real gRPC server and a real client with its own limit on messages (4 MiB)."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import cri_pb2_grpc as rpc
from sampan.model.container import started
from sampan.server import stream_rpcs
from sampan.server.interceptor import Interceptor
from sampan.server.runtime_service import RuntimeService
from sampan.server.stream_rpcs import PART_BYTES, PART_ITEMS, in_parts
from tests.runtime.system import System, wire
from tests.server.test_convert import CONTAINER, POD

MANY = 10_000


@pytest.fixture(scope="module")
def system() -> System:
    """Many pods and as many containers that run, newest last. Nothing here changes them."""
    system = wire()
    for number in range(MANY):
        id = f"{number:064x}"
        pod = msgspec.structs.replace(POD, id=id, created_at=number, cgroup_parent="/kubepods")
        container = msgspec.structs.replace(CONTAINER, id=id, pod_id=id, created_at=number)
        system.state.adopt([pod, started(container, number + 1)])
        system.world.processes[id] = cast(Any, None)  # all that the fakes ask is whether it is there
    return system


@pytest.fixture
async def client(system: System, short_tmp: Path) -> AsyncIterator[Any]:
    cases = cast(
        Any,
        SimpleNamespace(state=system.state, stats=system.stats, config=system.config, machine=system.machine),
    )
    server = grpc.aio.server(interceptors=[Interceptor()])
    rpc.add_RuntimeServiceServicer_to_server(RuntimeService(cases), server)  # type: ignore[abstract]
    address = f"unix://{short_tmp}/s"
    server.add_insecure_port(address)
    await server.start()
    large = [("grpc.max_receive_message_length", 64 << 20)]
    async with grpc.aio.insecure_channel(address) as small, grpc.aio.insecure_channel(address, large) as wide:
        yield SimpleNamespace(small=rpc.RuntimeServiceStub(small), large=rpc.RuntimeServiceStub(wide))
    await server.stop(None)


async def taken(call: Any) -> list[Any]:
    return [part async for part in call]


async def test_ten_thousand_containers_come_in_parts_and_are_those_of_the_list(client: Any) -> None:
    listed = (await client.large.ListContainers(cri.ListContainersRequest())).containers
    parts = await taken(client.small.StreamContainers(cri.StreamContainersRequest()))
    assert [len(part.containers) for part in parts] == [3000, 3000, 3000, 1000]
    assert [one for part in parts for one in part.containers] == list(listed)


async def test_ten_thousand_pods_come_in_parts_and_are_those_of_the_list(client: Any) -> None:
    listed = (await client.large.ListPodSandbox(cri.ListPodSandboxRequest())).items
    parts = await taken(client.small.StreamPodSandboxes(cri.StreamPodSandboxesRequest()))
    assert [one for part in parts for one in part.pod_sandboxes] == list(listed)
    assert len(listed) == MANY


async def test_the_stats_of_ten_thousand_come_in_parts(client: Any) -> None:
    parts = await taken(client.small.StreamContainerStats(cri.StreamContainerStatsRequest()))
    found = [one.attributes.id for part in parts for one in part.container_stats]
    assert found == [f"{number:064x}" for number in reversed(range(MANY))]
    pods = await taken(client.small.StreamPodSandboxStats(cri.StreamPodSandboxStatsRequest()))
    assert [one.attributes.id for part in pods for one in part.pod_sandbox_stats] == found


async def test_metrics_are_cut_by_size(client: Any) -> None:
    parts = await taken(client.small.StreamPodSandboxMetrics(cri.StreamPodSandboxMetricsRequest()))
    assert len(parts) > MANY // PART_ITEMS + 1
    assert all(part.ByteSize() < 4 << 20 for part in parts)
    assert sum(len(part.pod_sandbox_metrics) for part in parts) == MANY


async def test_filters_are_those_of_the_list(client: Any) -> None:
    one = f"{7:064x}"
    (part,) = await taken(
        client.small.StreamContainers(cri.StreamContainersRequest(filter=cri.ContainerFilter(id=one)))
    )
    assert [item.id for item in part.containers] == [one]
    (stats,) = await taken(
        client.small.StreamContainerStats(
            cri.StreamContainerStatsRequest(filter=cri.ContainerStatsFilter(pod_sandbox_id=one))
        )
    )
    assert [item.attributes.id for item in stats.container_stats] == [one]


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("StreamPodSandboxes", cri.StreamPodSandboxesRequest(filter=cri.PodSandboxFilter(id="f"))),
        ("StreamContainers", cri.StreamContainersRequest(filter=cri.ContainerFilter(id="f"))),
        ("StreamContainerStats", cri.StreamContainerStatsRequest(filter=cri.ContainerStatsFilter(id="f"))),
        ("StreamPodSandboxStats", cri.StreamPodSandboxStatsRequest(filter=cri.PodSandboxStatsFilter(id="f"))),
    ],
)
async def test_nothing_is_no_message_at_all(client: Any, method: str, request_: Any) -> None:
    assert await taken(getattr(client.small, method)(request_)) == []


def items(count: int, size: int) -> Iterator[cri.Container]:
    return (cri.Container(id=str(number), image_ref="x" * size) for number in range(count))


async def test_others_have_their_turn_within_a_part() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    parts = [part async for part in in_parts(items(2000, 1000))]
    task.cancel()
    assert len(parts) == 1
    assert turns >= 2_000_000 // stream_rpcs.TURN_BYTES - 1


async def test_an_item_that_is_too_large_for_a_part_has_one_of_its_own() -> None:
    parts = [part async for part in in_parts(items(3, PART_BYTES + 1))]
    assert [len(part) for part in parts] == [1, 1, 1]


@pytest.mark.parametrize("count", [0, 1, PART_ITEMS - 1, PART_ITEMS, PART_ITEMS + 1])
async def test_every_item_comes_once_and_no_part_is_empty(count: int) -> None:
    parts = [part async for part in in_parts(items(count, 1))]
    assert [one.id for part in parts for one in part] == [str(number) for number in range(count)]
    assert all(0 < len(part) <= PART_ITEMS for part in parts)
