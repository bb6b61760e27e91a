"""Sampan's own image service over a real socket."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import sampan_pb2 as api
from sampan.api import sampan_pb2_grpc as rpc
from sampan.host.storage.archive import Archives
from sampan.runtime.images import Images, Supply
from sampan.runtime.pull import Progress, Report
from sampan.runtime.state import State
from sampan.server.image_admin import ImageAdmin
from sampan.server.interceptor import Interceptor
from sampan.tasks import Tasks
from tests import images
from tests.fake_layer_tars import FakeLayerTars
from tests.fake_layers import FakeLayers
from tests.fake_registry import FakeRegistry, layer_digests
from tests.fakes import FakeJournal
from tests.images import Entry

TARS = [images.layer([Entry(f"file{number}", data=os.urandom(50_000))]) for number in range(2)]
APP = images.image(TARS, architecture="amd64")
NAME = "docker.io/library/app:v1"


@pytest.fixture
def registry() -> FakeRegistry:
    registry = FakeRegistry()
    registry.push(APP, NAME)
    return registry


@pytest.fixture
async def client(registry: FakeRegistry, short_tmp: Path) -> AsyncIterator[Any]:
    tasks = Tasks()
    layers = FakeLayers()
    cases = Images(State(FakeJournal()), layers, Supply(registry, Archives(short_tmp / "x"), "x86_64"), tasks)
    server = grpc.aio.server(interceptors=[Interceptor()])
    rpc.add_ImagesServicer_to_server(ImageAdmin(cases, FakeLayerTars(layers)), server)
    address = f"unix://{short_tmp}/s"
    server.add_insecure_port(address)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield rpc.ImagesStub(channel)
    await server.stop(None)
    await tasks.stop()


async def test_a_pull_tells_how_it_goes_and_ends_with_the_id(client: Any) -> None:
    *news, last = [message async for message in client.Pull(api.PullRequest(image="app:v1"))]
    assert last == api.PullProgress(image_id=APP.id)
    ready = {(message.layer, message.done, message.total) for message in news if message.ready}
    assert ready == {
        (digest, len(APP.blobs[digest]), len(APP.blobs[digest])) for digest in layer_digests(APP)
    }
    assert all(message.done <= message.total for message in news)


async def test_a_second_client_sees_the_pull_that_is_under_way(client: Any, registry: FakeRegistry) -> None:
    digest = layer_digests(APP)[0]
    gate = registry.gate(digest)
    first = client.Pull(api.PullRequest(image="app:v1"))
    await registry.arrived[digest].wait()
    second = client.Pull(api.PullRequest(image="app:v1"))
    reading = asyncio.create_task(anything(second))
    await asyncio.sleep(0.05)
    gate.set()
    assert (await anything(first))[-1].image_id == APP.id
    assert (await reading)[-1].image_id == APP.id
    assert registry.count("stream") == 2


async def anything(call: Any) -> list[api.PullProgress]:
    return [message async for message in call]


async def test_a_client_that_leaves_does_not_end_the_pull(client: Any, registry: FakeRegistry) -> None:
    digest = layer_digests(APP)[0]
    gate = registry.gate(digest)
    call = client.Pull(api.PullRequest(image="app:v1"))
    await registry.arrived[digest].wait()
    call.cancel()
    gate.set()
    assert (await anything(client.Pull(api.PullRequest(image="app:v1"))))[-1].image_id == APP.id
    assert registry.count("stream") == 2


async def test_a_client_may_leave_while_it_is_told_of_a_pull() -> None:
    class Endless:
        prune = None
        ended = False

        async def pull(self, _: str, __: None, note: Report) -> None:
            note(Progress("layer", 1, 2))
            try:
                await asyncio.Event().wait()
            finally:
                self.ended = True

    endless: Any = Endless()
    answers = ImageAdmin(endless, FakeLayerTars(FakeLayers())).Pull(api.PullRequest(image="app:v1"), None)
    assert (await anext(answers)).done == 1
    await answers.aclose()  # type: ignore[attr-defined]  # as the loop does it with a generator that nobody has any more
    assert endless.ended


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (api.PullRequest(image="app:nope"), grpc.StatusCode.NOT_FOUND),
        (api.PullRequest(image="UPPER"), grpc.StatusCode.INVALID_ARGUMENT),
        (api.PullRequest(image="app:v1", auth=cri.AuthConfig(auth="%")), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_pull_that_fails_says_why(
    client: Any, request_: api.PullRequest, code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anything(client.Pull(request_))
    assert caught.value.code() is code


async def pieces(data: bytes) -> AsyncIterator[api.ImportChunk]:
    for offset in range(0, len(data), 10_000):
        yield api.ImportChunk(data=data[offset : offset + 10_000])


async def test_an_archive_is_taken_in(client: Any) -> None:
    other = images.image(TARS[:1], architecture="amd64")
    data = images.oci_layout({"app:v1": APP, "docker.io/library/other:v2": other})
    results = [result async for result in client.Import(pieces(data))]
    assert [(result.image_id, list(result.tags)) for result in results] == [
        (APP.id, [NAME]),
        (other.id, ["docker.io/library/other:v2"]),
    ]


async def test_what_is_no_archive_is_refused(client: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in client.Import(pieces(b"no archive" * 1000)):
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_prune_tells_what_went(client: Any) -> None:
    await anything(client.Pull(api.PullRequest(image="app:v1")))
    assert (await client.Prune(api.PruneRequest())).images == []
    foreseen = await client.Prune(api.PruneRequest(all=True, dry_run=True))
    pruned = await client.Prune(api.PruneRequest(all=True))
    assert pruned == foreseen
    (gone,) = pruned.images
    assert (gone.image_id, gone.bytes, gone.names[0]) == (APP.id, 100_000, NAME)
    assert (await client.Prune(api.PruneRequest(all=True))).images == []


async def test_an_image_is_exported_and_verified(client: Any) -> None:
    await anything(client.Pull(api.PullRequest(image="app:v1")))
    request = api.ExportRequest(images=["app:v1"])
    archive = b"".join([chunk.data async for chunk in client.Export(request)])
    results = [each async for each in client.Import(iter([api.ImportChunk(data=archive)]))]
    assert [(result.image_id, list(result.tags)) for result in results] == [(APP.id, [NAME])]
    found = [each async for each in client.Verify(api.VerifyRequest())]
    assert [(each.image_id, each.number, each.count, list(each.differences)) for each in found] == [
        (APP.id, 1, 2, []),
        (APP.id, 2, 2, []),
    ]
    assert NAME in found[0].names and found[0].layer == images.sha256(TARS[0])


@pytest.mark.parametrize("call", ["Export", "Verify"])
async def test_what_is_not_there_is_neither_exported_nor_verified(client: Any, call: str) -> None:
    request = {"Export": api.ExportRequest, "Verify": api.VerifyRequest}[call](images=["absent:v1"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anything(getattr(client, call)(request))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
