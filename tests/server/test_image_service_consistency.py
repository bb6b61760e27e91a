"""What the kubelet relies on to tell images apart, through real sockets: one id for an image wherever it is told, names
in short and in full, answers that know of everything acknowledged before, and requests at once that join.

The use cases are real, and so are their state and the gRPC server; the machine and the registry are fakes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import cri_pb2_grpc as rpc
from sampan.runtime.image_ports import Usage
from sampan.server.image_service import Disk, ImageService
from sampan.server.interceptor import Interceptor
from sampan.server.runtime_service import RuntimeService
from tests import images
from tests.fake_registry import FakeRegistry, layer_digests
from tests.images import Entry
from tests.runtime.system import System, container_config, wire

APP = images.image([images.layer([Entry("app", data=b"x" * 9000)])], {"Cmd": ["app"]}, architecture="amd64")
NEXT = images.image([images.layer([Entry("next", data=b"y" * 9000)])], {"Cmd": ["n"]}, architecture="amd64")
MODEL = images.artifact([("weights", b"1 2 3"), ("more/of it", b"4")])
PLAIN = "docker.io/library/app"
ELSEWHERE = "a.test:5000/team/app"
TELLING = [("application/vnd.test.thing", MODEL.digest, MODEL), ("", APP.id, APP)]


class Client:
    """Both services of a daemon, and what is behind them."""

    def __init__(self, system: System, registry: FakeRegistry, channel: grpc.aio.Channel) -> None:
        self.system = system
        self.registry = registry
        self.images: Any = rpc.ImageServiceStub(channel)
        self.runtime: Any = rpc.RuntimeServiceStub(channel)

    async def pull(self, name: str) -> str:
        return str((await self.images.PullImage(cri.PullImageRequest(image=spec(name)))).image_ref)

    async def remove(self, name: str) -> None:
        await self.images.RemoveImage(cri.RemoveImageRequest(image=spec(name)))

    async def status(self, name: str) -> cri.Image | None:
        answer = await self.images.ImageStatus(cri.ImageStatusRequest(image=spec(name)))
        return answer.image if answer.HasField("image") else None

    async def listed(self, name: str = "") -> dict[str, cri.Image]:
        request = cri.ListImagesRequest(filter=cri.ImageFilter(image=spec(name)) if name else None)
        return {image.id: image for image in (await self.images.ListImages(request)).images}

    async def create(self, pod: str, image: str, **more: Any) -> str:
        config = container_config(more.pop("name", "app"), **more)
        config.image.CopyFrom(spec(image))
        request = cri.CreateContainerRequest(pod_sandbox_id=pod, config=config)
        return str((await self.runtime.CreateContainer(request)).container_id)

    def of_test(self) -> set[str]:
        """Ids of the images on record, but for the one that every such system has."""
        return {id for id in self.system.state.images if id in (APP.id, NEXT.id, MODEL.digest)}


def spec(name: str) -> cri.ImageSpec:
    return cri.ImageSpec(image=name)


@pytest.fixture
async def client(short_tmp: Path) -> AsyncIterator[Client]:
    registry = FakeRegistry()
    registry.push(APP, f"{PLAIN}:latest", f"{PLAIN}:v1", f"{PLAIN}:v2", f"{ELSEWHERE}:v1")
    registry.push(NEXT, f"{PLAIN}:next")
    registry.push(MODEL, "docker.io/library/model:v1")
    system = wire(registry=cast(Any, registry))
    cases = cast(Any, SimpleNamespace(state=system.state, pods=system.pods, containers=system.containers))
    disk = Disk(Path("/layers"), Path("/containers"), lambda: Usage(0, 0))
    server = grpc.aio.server(interceptors=[Interceptor()])
    rpc.add_ImageServiceServicer_to_server(ImageService(system.images, ["crun"], disk), server)
    rpc.add_RuntimeServiceServicer_to_server(RuntimeService(cases), server)  # type: ignore[abstract]
    server.add_insecure_port(f"unix://{short_tmp}/s")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix://{short_tmp}/s") as channel:
        yield Client(system, registry, channel)
    await server.stop(None)
    await system.tasks.stop()


# --- one id ---------------------------------------------------------------------------------------------------


async def test_one_id_is_told_by_every_call_that_tells_one(client: Client) -> None:
    pulled = await client.pull("app:v1")
    again = await client.pull("app:v1")
    elsewhere = await client.pull(f"{ELSEWHERE}:v1")
    by_digest = await client.pull(f"app@{APP.digest}")
    status = await client.status("app:v1")
    (listed,) = [id for id in await client.listed() if id in client.of_test()]
    (streamed,) = [
        image.id
        async for part in client.images.StreamImages(cri.StreamImagesRequest())
        for image in part.images
        if image.id in client.of_test()
    ]
    container = await client.create(await client.system.pod(), "app:v1")
    of_status = (
        await client.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=container))
    ).status
    (row,) = (await client.runtime.ListContainers(cri.ListContainersRequest())).containers
    assert status is not None
    assert {
        *(pulled, again, elsewhere, by_digest, status.id, listed, streamed),
        *(of_status.image_ref, of_status.image_id, row.image_ref, row.image_id),
    } == {APP.id}


async def test_the_image_of_a_mount_is_told_by_the_id_that_its_pull_told(client: Client) -> None:
    pulled, of_model = await client.pull("app:v1"), await client.pull("model:v1")
    mounts = [
        cri.Mount(container_path=f"/{number}", image=spec(name), readonly=True)
        for number, name in enumerate(["model:v1", of_model, f"app@{APP.digest}"])
    ]
    container = await client.create(await client.system.pod(), pulled, mounts=mounts)
    request = cri.ContainerStatusRequest(container_id=container)
    status = (await client.runtime.ContainerStatus(request)).status
    assert [mount.image.image_ref for mount in status.mounts] == [of_model, of_model, pulled]
    assert [mount.image.image for mount in status.mounts] == ["model:v1", of_model, f"app@{APP.digest}"]


@pytest.mark.parametrize("claims", [True, False])
async def test_a_container_made_by_an_id_is_of_the_same_image_as_one_made_by_a_name(
    client: Client, claims: bool
) -> None:
    client.registry.claims = claims
    id = await client.pull("app:v1")
    pod = await client.system.pod()
    for number, name in enumerate(["app:v1", id, id[7:], id[7:19], f"{PLAIN}@{APP.digest}"]):
        container = await client.create(pod, name, name=f"c{number}")
        request = cri.ContainerStatusRequest(container_id=container)
        assert (await client.runtime.ContainerStatus(request)).status.image_id == id, name


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pulled", "finds", "tags"),
    [
        ("app", ["app:latest", "library/app", "docker.io/app", "index.docker.io/library/app:latest"], 1),
        ("app:v1", ["docker.io/library/app:v1", "library/app:v1", "docker.io/app:v1"], 1),
        (f"{ELSEWHERE}:v1", [f"{ELSEWHERE}:v1", f"{ELSEWHERE}@{APP.digest}"], 1),
        (f"app@{APP.digest}", [f"{PLAIN}@{APP.digest}", f"app:any@{APP.digest}"], 0),
        (f"app:v2@{APP.digest}", [f"app@{APP.digest}"], 0),
    ],
)
async def test_what_is_pulled_by_one_form_is_found_by_all(
    client: Client, pulled: str, finds: list[str], tags: int
) -> None:
    assert await client.pull(pulled) == APP.id
    for name in (pulled, *finds, APP.id, APP.id[7:], APP.id[7:20]):
        found = await client.status(name)
        assert found is not None and found.id == APP.id, name
        assert len(found.repo_tags) == tags
        assert list(await client.listed(name)) == [APP.id], name
    assert await client.status("app:elsewhen") is None
    assert await client.status("b.test/app:v1") is None


async def test_a_digest_beside_a_tag_wins_over_what_the_tag_means(client: Client) -> None:
    await client.pull("app:next")
    assert await client.pull(f"app:next@{APP.digest}") == APP.id
    found = await client.status("app:next")
    assert found is not None and found.id == NEXT.id
    pinned = await client.status(f"app:next@{APP.digest}")
    assert pinned is not None and pinned.id == APP.id


@pytest.mark.parametrize("name", ["app:v2", f"{ELSEWHERE}:v1", f"app@{APP.digest}", APP.id, APP.id[7:19]])
async def test_a_removal_by_any_name_removes_all_names_of_all_registries(client: Client, name: str) -> None:
    for each in ("app:v1", "app:v2", f"{ELSEWHERE}:v1", "app:next"):
        await client.pull(each)
    await client.remove(name)
    for gone in ("app:v1", "app:v2", f"{ELSEWHERE}:v1", f"app@{APP.digest}", APP.id):
        assert await client.status(gone) is None, gone
        assert await client.listed(gone) == {}, gone
    assert client.of_test() == {NEXT.id}
    assert await client.status("app:next") is not None


@pytest.mark.parametrize(("kind", "id", "one"), TELLING)
async def test_an_artifact_says_that_it_is_one_and_an_image_says_nothing(
    client: Client, kind: str, id: str, one: images.Image
) -> None:
    name = "model:v1" if kind else "app:v1"
    assert await client.pull(name) == id
    found = await client.status(name)
    assert found is not None and found == (await client.listed())[id]
    assert dict(found.spec.annotations) == ({"sampan/artifact-type": kind} if kind else {})
    assert found.size > 0 and (found.HasField("uid") or found.username)
    request = cri.ImageStatusRequest(image=spec(name), verbose=True)
    assert (kind in (await client.images.ImageStatus(request)).info["info"]) is True


async def test_no_container_is_made_of_an_artifact(client: Client) -> None:
    await client.pull("model:v1")
    pod = await client.system.pod()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.create(pod, "model:v1")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "'model:v1' is an OCI artifact" in str(refused.value.details())


# --- at once ----------------------------------------------------------------------------------------------------


async def test_an_answer_knows_all_that_was_acknowledged_before_it(client: Client) -> None:
    for _ in range(20):
        await client.pull("app:v1")
        assert APP.id in await client.listed() and await client.status("app:v1") is not None
        await client.remove("app:v1")
        assert APP.id not in await client.listed() and await client.status("app:v1") is None


async def test_pulls_at_once_are_one_download_and_every_one_has_its_answer(client: Client) -> None:
    (digest,) = layer_digests(APP)
    gate = client.registry.gate(digest)
    names = ["app:v1", "docker.io/library/app:v1", "app:v2", f"{ELSEWHERE}:v1", f"app@{APP.digest}"] * 4
    pulls = [asyncio.create_task(client.pull(name)) for name in names]
    await client.registry.arrived[digest].wait()
    assert client.of_test() == set()
    gate.set()
    assert await asyncio.gather(*pulls) == [APP.id] * len(names)
    assert client.registry.asked.count(f"stream {digest}") == 1
    found = await client.status(APP.id)
    assert found is not None
    assert set(found.repo_tags) == {f"{PLAIN}:v1", f"{PLAIN}:v2", f"{ELSEWHERE}:v1"}
    assert set(found.repo_digests) == {f"{PLAIN}@{APP.digest}", f"{ELSEWHERE}@{APP.digest}"}


async def test_removals_at_once_all_succeed(client: Client) -> None:
    for name in ("app:v1", "app:v2", f"{ELSEWHERE}:v1"):
        await client.pull(name)
    names = ["app:v1", "app:v2", f"{ELSEWHERE}:v1", APP.id, APP.id[7:19], "app:nope"] * 5
    await asyncio.gather(*(client.remove(name) for name in names))
    assert client.of_test() == set() and await client.status(APP.id) is None


async def test_a_pull_during_a_removal_ends_in_a_whole_image_or_none(client: Client) -> None:
    for _ in range(10):
        await client.pull("app:v1")
        pulled, _ = await asyncio.gather(client.pull("app:v2"), client.remove("app:v1"))
        assert pulled == APP.id
        record = client.system.state.images.get(APP.id)
        layers = cast(Any, client.system.images)._layers
        if record is None:
            assert await client.status("app:v2") is None
        else:
            assert all(layers.has(chain_id) for chain_id in record.layers)
            assert "docker.io/library/app:v2" in record.tags
        await client.remove(APP.id)


async def test_a_client_that_gives_up_its_pull_takes_nothing_from_the_others(client: Client) -> None:
    (digest,) = layer_digests(APP)
    gate = client.registry.gate(digest)
    first = client.images.PullImage(cri.PullImageRequest(image=spec("app:v1")))
    others = [asyncio.create_task(client.pull("app:v1")) for _ in range(3)]
    await client.registry.arrived[digest].wait()
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    gate.set()
    assert await asyncio.gather(*others) == [APP.id] * 3
    assert client.registry.asked.count(f"stream {digest}") == 1


async def test_an_image_in_use_is_gone_for_its_callers_and_back_with_a_pull(client: Client) -> None:
    await client.pull("app:v1")
    pod = await client.system.pod()
    container = await client.create(pod, "app:v1")
    await client.remove("app:v1")
    assert await client.status(APP.id) is None and APP.id not in await client.listed()
    request = cri.ContainerStatusRequest(container_id=container)
    assert (await client.runtime.ContainerStatus(request)).status.image_id == APP.id
    streamed = client.registry.count("stream")
    assert await client.pull("app:v2") == APP.id
    assert client.registry.count("stream") == streamed
    found = await client.status(APP.id)
    assert found is not None and list(found.repo_tags) == [f"{PLAIN}:v2"]
