"""The CRI ImageService over a real socket, on fakes below."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import cri_pb2_grpc as rpc
from sampan.model.errors import Denied, RegistryUnavailable
from sampan.runtime.image_ports import Usage
from sampan.runtime.images import Images, Supply
from sampan.runtime.state import State
from sampan.server.image_service import Disk, ImageService
from sampan.server.interceptor import Interceptor
from sampan.tasks import Tasks
from tests import images
from tests.fake_layers import FakeLayers
from tests.fake_registry import FakeRegistry, layer_digests
from tests.fakes import FakeJournal
from tests.images import Entry

APP = images.image([images.layer([Entry("app", data=b"x" * 1000)])], {"User": "1002"}, architecture="amd64")
NAME = "docker.io/library/app"


@pytest.fixture
def registry() -> FakeRegistry:
    registry = FakeRegistry()
    registry.push(APP, f"{NAME}:v1", f"{NAME}:v2")
    return registry


@pytest.fixture
async def client(registry: FakeRegistry, short_tmp: Path) -> AsyncIterator[Any]:
    tasks = Tasks()
    supply = Supply(registry, None, "x86_64")  # type: ignore[arg-type]
    cases = Images(State(FakeJournal()), FakeLayers(), supply, tasks)
    disk = Disk(Path("/layers"), Path("/containers"), lambda: Usage(7, 3))
    server = grpc.aio.server(interceptors=[Interceptor()])
    rpc.add_ImageServiceServicer_to_server(ImageService(cases, ["crun"], disk), server)
    address = f"unix://{short_tmp}/s"
    server.add_insecure_port(address)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield rpc.ImageServiceStub(channel)
    await server.stop(None)
    await tasks.stop()


def spec(text: str) -> cri.ImageSpec:
    return cri.ImageSpec(image=text)


async def pull(client: Any, text: str = "app:v1", **more: Any) -> str:
    return str((await client.PullImage(cri.PullImageRequest(image=spec(text), **more))).image_ref)


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_the_id_is_the_same_wherever_it_is_told(client: Any) -> None:
    assert await pull(client) == APP.id
    status = await client.ImageStatus(cri.ImageStatusRequest(image=spec("app:v1")))
    listed = await client.ListImages(cri.ListImagesRequest())
    assert status.image.id == APP.id
    assert [image.id for image in listed.images] == [APP.id]
    assert status.image == listed.images[0]


async def test_an_image_is_told_of_in_full(client: Any) -> None:
    await pull(client)
    await pull(client, "app:v2")
    image = (await client.ImageStatus(cri.ImageStatusRequest(image=spec(APP.id)))).image
    assert list(image.repo_tags) == [f"{NAME}:v1", f"{NAME}:v2"]
    assert list(image.repo_digests) == [f"{NAME}@{APP.digest}"]
    assert image.size == 1000
    assert image.uid.value == 1002
    assert image.username == ""
    assert image.spec.image == f"{NAME}:v1"
    assert not image.pinned


async def test_a_verbose_status_has_the_config_under_the_names_people_know(client: Any) -> None:
    await pull(client)
    request = cri.ImageStatusRequest(image=spec("app:v1"), verbose=True)
    info = json.loads((await client.ImageStatus(request)).info["info"])
    assert info["imageSpec"] == APP.config
    assert info["chainID"] == APP.config["rootfs"]["diff_ids"][0]


@pytest.mark.parametrize("text", ["", "nope", "sha256:" + "0" * 64, "not a reference", "UPPER", "000"])
async def test_the_status_of_an_unknown_image_is_empty(client: Any, text: str) -> None:
    assert await client.ImageStatus(cri.ImageStatusRequest(image=spec(text))) == cri.ImageStatusResponse()


async def test_listing_may_be_narrowed_to_one(client: Any, registry: FakeRegistry) -> None:
    registry.push(images.image([], architecture="amd64"), f"{NAME}:other")
    await pull(client)
    await pull(client, "app:other")
    for text, count in (("", 2), ("app:v1", 1), ("nope", 0), ("not a reference", 0)):
        request = cri.ListImagesRequest(filter=cri.ImageFilter(image=spec(text)))
        assert len((await client.ListImages(request)).images) == count, text


async def test_removing_by_one_tag_removes_all_and_twice_is_fine(client: Any) -> None:
    await pull(client)
    await pull(client, "app:v2")
    await asyncio.gather(
        *(client.RemoveImage(cri.RemoveImageRequest(image=spec("app:v1"))) for _ in range(5))
    )
    assert not (await client.ListImages(cri.ListImagesRequest())).images


async def test_removing_nothing_in_particular_is_refused(client: Any) -> None:
    error = await refusal(client.RemoveImage(cri.RemoveImageRequest()))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("", 0, ""),
        ("1002", 1002, ""),
        ("1003:users", 1003, ""),
        ("www-data", None, "www-data"),
        ("www-data:100", None, "www-data"),
        ("4294967295", None, "4294967295"),
        ("2147483648", None, "2147483648"),
    ],
)
async def test_the_user_is_told_as_a_container_would_get_it(
    client: Any, registry: FakeRegistry, user: str, uid: int | None, username: str
) -> None:
    registry.push(images.image([], {"User": user}, architecture="amd64"), f"{NAME}:user")
    await pull(client, "app:user")
    image = (await client.ImageStatus(cri.ImageStatusRequest(image=spec("app:user")))).image
    assert (image.uid.value if image.HasField("uid") else None, image.username) == (uid, username)


async def test_a_deadline_that_passes_is_told_as_such_and_does_not_end_the_pull(
    client: Any, registry: FakeRegistry
) -> None:
    gate = registry.gate(layer_digests(APP)[0])
    call = client.PullImage(cri.PullImageRequest(image=spec("app:v1")), timeout=0.05)
    assert (await refusal(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.set()
    assert await pull(client) == APP.id
    assert registry.count("stream") == 1


async def test_an_unknown_handler_is_refused(client: Any) -> None:
    image = cri.ImageSpec(image="app:v1", runtime_handler="kata")
    error = await refusal(client.PullImage(cri.PullImageRequest(image=image)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "crun" in str(error.details())
    image.runtime_handler = "crun"
    assert (await client.PullImage(cri.PullImageRequest(image=image))).image_ref == APP.id


@pytest.mark.parametrize(
    ("text", "error", "code", "begins"),
    [
        ("app:nope", None, grpc.StatusCode.NOT_FOUND, "docker.io/library/app"),
        ("UPPER", None, grpc.StatusCode.INVALID_ARGUMENT, "image reference 'UPPER'"),
        ("app:v1", RegistryUnavailable("down"), grpc.StatusCode.UNKNOWN, "RegistryUnavailable: down"),
        ("app:v1", Denied("no"), grpc.StatusCode.PERMISSION_DENIED, "no"),
    ],
)
async def test_failures_have_the_codes_that_the_kubelet_reads(
    client: Any,
    registry: FakeRegistry,
    text: str,
    error: Exception | None,
    code: grpc.StatusCode,
    begins: str,
) -> None:
    if error is not None:
        registry.failing["v1"] = error
    failure = await refusal(pull(client, text))
    assert failure.code() is code
    assert str(failure.details()).startswith(begins)


async def test_what_a_request_says_beside_the_reference_changes_nothing(
    client: Any, registry: FakeRegistry
) -> None:
    more = cri.ImageSpec(
        annotations={"a": "b"}, user_specified_image="other:1", runtime_handler="crun", image_ref="other:2"
    )

    def said(text: str) -> cri.ImageSpec:
        both = spec(text)
        both.MergeFrom(more)
        return both

    config = cri.PodSandboxConfig(annotations={"a": "b"}, linux=cri.LinuxPodSandboxConfig(cgroup_parent="/x"))
    pulled = await client.PullImage(cri.PullImageRequest(image=said("app:v1"), sandbox_config=config))
    assert pulled.image_ref == await pull(client)
    plain = await client.ImageStatus(cri.ImageStatusRequest(image=spec("app:v1")))
    assert plain == await client.ImageStatus(cri.ImageStatusRequest(image=said("app:v1")))
    assert plain.image.id and not plain.image.spec.annotations
    for text in ("app:v1", "other:1", ""):
        narrowed, same = [
            await client.ListImages(cri.ListImagesRequest(filter=cri.ImageFilter(image=image)))
            for image in (spec(text), said(text))
        ]
        assert narrowed == same
    await client.RemoveImage(cri.RemoveImageRequest(image=said("app:v1")))
    assert not (await client.ListImages(cri.ListImagesRequest())).images


async def test_credentials_are_handed_on(client: Any, registry: FakeRegistry) -> None:
    await pull(client, auth=cri.AuthConfig(username="john", password="secret"))
    (given,) = registry.credentials
    assert given is not None
    assert (given.username, given.password) == ("john", "secret")


async def test_both_file_systems_are_told(client: Any) -> None:
    await pull(client)
    info = await client.ImageFsInfo(cri.ImageFsInfoRequest())
    (layers,), (containers,) = info.image_filesystems, info.container_filesystems
    assert (layers.fs_id.mountpoint, layers.used_bytes.value, layers.inodes_used.value) == (
        "/layers",
        1000,
        1,
    )
    assert (containers.fs_id.mountpoint, containers.used_bytes.value) == ("/containers", 7)
    assert layers.timestamp > 0


async def test_the_stream_of_images_is_the_list(client: Any) -> None:
    assert [part async for part in client.StreamImages(cri.StreamImagesRequest())] == []
    await pull(client)
    (part,) = [part async for part in client.StreamImages(cri.StreamImagesRequest())]
    assert list(part.images) == list((await client.ListImages(cri.ListImagesRequest())).images)
    named = cri.StreamImagesRequest(filter=cri.ImageFilter(image=spec("nothing")))
    assert [part async for part in client.StreamImages(named)] == []
