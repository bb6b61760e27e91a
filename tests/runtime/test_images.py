"""The use cases of images, on a layer store and a registry in memory."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container
from sampan.model.errors import Denied, Exhausted, Invalid, NotFound, RegistryUnavailable
from sampan.model.image import Image
from sampan.runtime import pull
from sampan.runtime.image_ports import ArchivedImage, LayerSource
from sampan.runtime.images import Images, Supply
from sampan.runtime.pull import Progress
from sampan.runtime.state import Gone, State
from sampan.tasks import Tasks
from sampan.wire import image_config
from sampan.wire.credentials import Credentials
from tests import images
from tests.fake_layers import FakeLayers
from tests.fake_registry import FakeRegistry, layer_digests
from tests.fakes import FakeJournal
from tests.images import Entry

BASE, TOP, OTHER = (
    images.layer([Entry(name, data=name.encode() * 3000)]) for name in ("base", "top", "other")
)
APP = images.image([BASE, TOP], {"Cmd": ["app"], "User": "1000"}, architecture="amd64")
NEXT = images.image([BASE, OTHER], {"Cmd": ["next"]}, architecture="amd64")
NAME = "docker.io/library/app"


class FakeArchives:
    """Gives what the test put there."""

    def __init__(self) -> None:
        self.found: list[ArchivedImage] = []

    @asynccontextmanager
    async def open(
        self, source: Path | AsyncIterator[bytes], machine: str
    ) -> AsyncIterator[Sequence[ArchivedImage]]:
        assert machine == "x86_64"
        yield self.found


class Node:
    """A node's images with everything around them; `restart` begins anew with what was durable."""

    def __init__(self, pinned: tuple[str, ...] = ()) -> None:
        self.journal = FakeJournal()
        self.layers = FakeLayers()
        self.registry = FakeRegistry()
        self.archives = FakeArchives()
        self.tasks = Tasks()
        self.restart(pinned)

    def restart(self, pinned: tuple[str, ...] = ()) -> None:
        self.layers.crash()
        self.state = State(self.journal)
        self.state.adopt(self.journal.rows.values())
        supply = Supply(self.registry, self.archives, "x86_64", parallel=2, pinned=pinned)
        self.images = Images(self.state, self.layers, supply, self.tasks)

    async def contain(self, image: Image, id: str = "c1") -> None:
        config = cri.ContainerConfig()
        await self.state.commit(
            Container(id=id, pod_id="p1", config=config, handler="crun", image_id=image.id, created_at=1)
        )

    def consistent(self) -> None:
        """Exactly the layers that images need are there, and nothing is half done."""
        needed = {chain_id for image in self.state.images.values() for chain_id in image.layers}
        assert set(self.layers.published) == needed
        assert self.layers.staged == set()
        assert self.registry.streaming == 0


async def until(true: Callable[[], bool]) -> None:
    """Let the others run until it is true."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    node.registry.push(APP, f"{NAME}:v1", f"{NAME}:v2", "a.test/app:v1")
    node.registry.push(NEXT, f"{NAME}:next")
    yield node
    await node.tasks.stop()


# --- pulling ------------------------------------------------------------------------------------------------


async def test_a_pull_gives_an_image_with_everything_of_its_config(node: Node) -> None:
    image = await node.images.pull("app:v1")
    assert image.id == APP.id
    assert image.tags == (f"{NAME}:v1",)
    assert image.digests == (f"{NAME}@{APP.digest}",)
    assert image.layers == image_config.chain_ids([images.sha256(BASE), images.sha256(TOP)])
    assert image.size == len(b"base" * 3000) + len(b"top" * 3000)
    assert image.config.cmd == ("app",)
    assert image.architecture == "amd64"
    assert image.raw_config == APP.blobs[APP.id]
    assert node.journal.rows[("image", APP.id)] == image
    node.consistent()


async def test_layers_are_published_over_those_below(node: Node) -> None:
    image = await node.images.pull("app:v1")
    assert node.layers.lowers == {image.layers[0]: (), image.layers[1]: image.layers[:1]}


async def test_an_unchanged_tag_costs_one_request(node: Node) -> None:
    first = await node.images.pull("app:v1")
    node.registry.asked.clear()
    assert await node.images.pull("app:v1") == first
    assert node.registry.asked == ["resolve v1"]


async def test_an_unchanged_tag_is_seen_without_the_registrys_claim(node: Node) -> None:
    node.registry.claims = False
    first = await node.images.pull("app:v1")
    node.registry.asked.clear()
    assert await node.images.pull("app:v1") == first
    assert node.registry.asked == ["resolve v1", "manifest v1"]


async def test_another_tag_of_a_known_image_fetches_no_layer(node: Node) -> None:
    await node.images.pull("app:v1")
    node.registry.asked.clear()
    image = await node.images.pull("app:v2")
    assert image.tags == (f"{NAME}:v1", f"{NAME}:v2")
    assert node.registry.asked == ["manifest v2"]


async def test_the_same_image_of_another_registry_is_one_image(node: Node) -> None:
    await node.images.pull("app:v1")
    image = await node.images.pull("a.test/app:v1")
    assert image.tags == ("a.test/app:v1", f"{NAME}:v1")
    assert image.digests == (f"a.test/app@{APP.digest}", f"{NAME}@{APP.digest}")
    assert node.registry.count("stream") == 2


async def test_a_layer_that_is_there_is_not_fetched_again(node: Node) -> None:
    await node.images.pull("app:v1")
    node.registry.asked.clear()
    await node.images.pull("app:next")
    assert node.registry.count("stream") == 1
    node.consistent()


async def test_a_tag_that_moves_leaves_its_old_image_by_digest(node: Node) -> None:
    old = await node.images.pull("app:v1")
    node.registry.push(NEXT, f"{NAME}:v1")
    new = await node.images.pull("app:v1")
    assert new.id == NEXT.id
    left = node.images.find(old.id)
    assert left is not None
    assert left.tags == ()
    assert left.digests == old.digests
    assert node.images.find("app:v1") == new
    assert {image.id for image in node.images.list()} == {APP.id, NEXT.id}
    node.consistent()


async def test_a_pull_by_digest_makes_and_moves_no_tag(node: Node) -> None:
    image = await node.images.pull(f"app@{APP.digest}")
    assert image.tags == ()
    assert image.digests == (f"{NAME}@{APP.digest}",)
    await node.images.pull("app:next")
    await node.images.pull(f"app:next@{APP.digest}")
    assert node.images.find("app:next").id == NEXT.id  # type: ignore[union-attr]


async def test_an_index_is_followed_to_this_machines_image(node: Node) -> None:
    both = images.index({"arm64": NEXT, "amd64": APP})
    node.registry.push_manifest(both, f"{NAME}:multi")
    node.registry.manifests[f"{NAME}@{APP.digest}"] = APP.manifest
    image = await node.images.pull("app:multi")
    assert image.id == APP.id
    assert image.digests == (f"{NAME}@{images.sha256(both)}",)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_all_compressions_give_the_same_layers(node: Node, compression: str) -> None:
    node.registry.push(images.image([BASE, TOP], compression=compression, architecture="amd64"), f"{NAME}:c")
    image = await node.images.pull("app:c")
    assert image.layers == image_config.chain_ids([images.sha256(BASE), images.sha256(TOP)])


async def test_an_image_may_have_no_layers_or_one_layer_twice(node: Node) -> None:
    node.registry.push(images.image([], architecture="amd64"), f"{NAME}:none")
    node.registry.push(images.image([BASE, BASE, BASE], architecture="amd64"), f"{NAME}:thrice")
    assert (await node.images.pull("app:none")).layers == ()
    assert len((await node.images.pull("app:thrice")).layers) == 3
    node.consistent()


async def test_credentials_reach_the_registry(node: Node) -> None:
    john = Credentials(username="john", password="secret")
    await node.images.pull("app:v1", john)
    assert node.registry.credentials == [john]


async def test_progress_is_told_layer_by_layer(node: Node) -> None:
    told: list[Progress] = []
    await node.images.pull("app:v1", progress=told.append)
    assert {each.layer for each in told} == set(layer_digests(APP))
    assert {(each.layer, each.done) for each in told if each.ready} == {
        (digest, len(APP.blobs[digest])) for digest in layer_digests(APP)
    }


# --- pulls that meet ----------------------------------------------------------------------------------------


async def test_pulls_of_the_same_reference_are_one(node: Node) -> None:
    told: list[Progress] = []
    pulled = await asyncio.gather(
        node.images.pull("app:v1"),
        node.images.pull("docker.io/app:v1", progress=told.append),
        node.images.pull("app:v1"),
    )
    assert pulled[0] is pulled[1] is pulled[2]
    assert len(node.registry.credentials) == 1
    assert any(each.ready for each in told)


async def test_pulls_with_other_credentials_are_not_shared(node: Node) -> None:
    john = Credentials(username="john", password="secret")
    await asyncio.gather(node.images.pull("app:v1"), node.images.pull("app:v1", john))
    assert len(node.registry.credentials) == 2
    assert node.registry.count("stream") == 2  # but the layers are


async def test_a_layer_that_two_pulls_want_is_fetched_once(node: Node) -> None:
    shared = layer_digests(APP)[0]
    gate = node.registry.gate(shared)
    pulls = [asyncio.create_task(node.images.pull(name)) for name in ("app:v1", "app:next")]
    await node.registry.arrived[shared].wait()
    gate.set()
    await asyncio.gather(*pulls)
    assert node.registry.asked.count(f"stream {shared}") == 1
    node.consistent()


async def test_a_pull_fetches_for_itself_what_another_failed_to(node: Node) -> None:
    """The shared layer's first fetch fails with its pull; the second pull is not dragged down."""
    shared, top = layer_digests(APP)
    gate = node.registry.gate(shared)
    node.registry.failing[top] = Invalid("bad layer")
    bad = asyncio.create_task(node.images.pull("app:v1"))
    await node.registry.arrived[shared].wait()
    good = asyncio.create_task(node.images.pull("app:next"))
    with pytest.raises(Invalid, match="bad layer"):
        await bad
    gate.set()
    assert (await good).id == NEXT.id
    node.consistent()


async def test_no_more_layers_are_fetched_at_once_than_configured(node: Node) -> None:
    tars = [images.layer([Entry(f"f{number}", data=b"x" * 9000)]) for number in range(6)]
    for number in range(3):
        one = images.image(tars[number : number + 4], architecture="amd64", compression="none")
        node.registry.push(one, f"{NAME}:many{number}")
    await asyncio.gather(*(node.images.pull(f"app:many{number}") for number in range(3)))
    assert node.registry.most_streaming == 2
    node.consistent()


async def test_a_client_that_leaves_does_not_end_the_pull(node: Node) -> None:
    digest = layer_digests(APP)[0]
    gate = node.registry.gate(digest)
    first = asyncio.create_task(node.images.pull("app:v1"))
    await node.registry.arrived[digest].wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(node.images.pull("app:v1"))
    await asyncio.sleep(0)
    gate.set()
    assert (await second).id == APP.id
    assert len(node.registry.credentials) == 1


# --- pulls that fail ----------------------------------------------------------------------------------------


def changed(one: images.Image, change: Any) -> images.Image:
    """The image with its config or manifest altered by `change(config, manifest)`, digests made to fit."""
    config, manifest = one.config, json.loads(one.manifest)
    change(config, manifest)
    blobs = dict(one.blobs)
    described = images.describe(blobs, images.dump(config), manifest["config"]["mediaType"])
    if manifest["config"]["digest"] == one.id:
        manifest["config"] = described
    return images.Image(blobs, images.dump(manifest))


def set_diff_ids(*diff_ids: str) -> Any:
    return lambda config, _: config["rootfs"].update(diff_ids=list(diff_ids))


B, T = images.sha256(BASE), images.sha256(TOP)
ZEROS = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (set_diff_ids(B), "has 2 layers; its config names 1"),
        (set_diff_ids(B, T, T), "has 2 layers; its config names 3"),
        (set_diff_ids(), "config names 0"),
        (set_diff_ids(T, B), "unpacks to other content"),
        (set_diff_ids(B, ZEROS), "unpacks to other content"),
        (set_diff_ids(B, "sha256:../x"), "malformed diff id"),
        (
            lambda config, _: config.update(architecture="arm64"),
            "image for linux/arm64; this machine is x86_64",
        ),
        (lambda config, _: config.update(os="windows"), "image for windows/amd64"),
        (lambda config, _: config.pop("rootfs"), "malformed"),
        (lambda _, manifest: manifest["layers"].pop(), "has 1 layers"),
        (lambda _, manifest: manifest["layers"][0].update(size=5), "its descriptor says 5"),
        (lambda _, manifest: manifest["layers"].reverse(), "unpacks to other content"),
        (
            lambda _, manifest: manifest["layers"][1].update(mediaType="application/zip"),
            "no file system layer",
        ),
        (lambda _, manifest: manifest.update(schemaVersion=1), "schema 1"),
        (lambda _, manifest: manifest.update(manifests=[]), "as a manifest and as an index"),
    ],
)
async def test_an_image_that_does_not_fit_together_is_refused_whole(
    node: Node, change: Any, why: str
) -> None:
    node.registry.push(changed(APP, change), f"{NAME}:bad")
    with pytest.raises(Invalid, match=why):
        await node.images.pull("app:bad")
    assert node.state.images == {}
    node.consistent()


@pytest.mark.parametrize("damage", [b"", b"x", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", BASE, BASE[:700]])
async def test_a_layer_that_arrives_as_something_else_is_refused(node: Node, damage: bytes) -> None:
    node.registry.blobs[layer_digests(APP)[1]] = damage
    with pytest.raises(Invalid):
        await node.images.pull("app:v1")
    assert node.state.images == {}
    node.consistent()
    node.registry.push(APP, f"{NAME}:v1")
    assert (await node.images.pull("app:v1")).id == APP.id


@pytest.mark.parametrize("cut", [1, 5, 10, 18, 50, 200])
async def test_a_truncated_layer_never_blocks_another_pull(node: Node, cut: int) -> None:
    digest = layer_digests(APP)[0]
    whole = node.registry.blobs[digest]
    node.registry.blobs[digest] = whole[:-cut]
    node.registry.push(images.image([OTHER], architecture="amd64"), "docker.io/library/good:latest")
    bad, good = await asyncio.gather(
        node.images.pull("app:v1"), node.images.pull("good"), return_exceptions=True
    )
    assert isinstance(bad, Invalid)
    assert isinstance(good, Image)
    node.consistent()


async def test_an_index_entry_of_another_size_is_refused(node: Node) -> None:
    index = json.loads(images.index({"amd64": APP}))
    index["manifests"][0]["size"] += 1
    node.registry.push_manifest(images.dump(index), f"{NAME}:multi")
    with pytest.raises(Invalid, match="its index says"):
        await node.images.pull("app:multi")


async def test_indexes_in_indexes_end_somewhere(node: Node) -> None:
    data = images.index({"amd64": APP})
    for _ in range(4):
        node.registry.push_manifest(data, f"{NAME}:deep")
        entry = {"mediaType": images.INDEX, "digest": images.sha256(data), "size": len(data)}
        platform = {"os": "linux", "architecture": "amd64"}
        data = images.dump({"schemaVersion": 2, "manifests": [{**entry, "platform": platform}]})
    node.registry.push_manifest(data, f"{NAME}:deep")
    with pytest.raises(Invalid, match="nests indexes deeper"):
        await node.images.pull("app:deep")


@pytest.mark.parametrize("step", ["unpack", "publish"])
@pytest.mark.parametrize(
    "error", [Exhausted("disk full"), OSError(28, "No space left on device"), Invalid("bomb")]
)
async def test_a_store_that_fails_leaves_nothing(node: Node, step: str, error: Exception) -> None:
    def fail(at: str) -> None:
        if at == step:
            raise error

    node.layers.failing = fail
    with pytest.raises(type(error)):
        await node.images.pull("app:v1")
    assert node.state.images == {}
    node.consistent()


@pytest.mark.parametrize("error", [NotFound("gone"), Denied("no")])
@pytest.mark.parametrize("place", [0, 1])
async def test_a_registry_that_refuses_a_layer_leaves_nothing(
    node: Node, error: Exception, place: int
) -> None:
    node.registry.failing[layer_digests(APP)[place]] = error
    with pytest.raises(type(error)):
        await node.images.pull("app:v1")
    node.consistent()


async def test_a_journal_that_fails_leaves_nothing(node: Node) -> None:
    node.journal.failing.append(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        await node.images.pull("app:v1")
    node.consistent()


async def test_after_a_failure_of_the_network_the_retry_finds_what_had_arrived(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, top = layer_digests(APP)
    gate = node.registry.gate(top)
    failing = asyncio.create_task(node.images.pull("app:v1"))
    await node.registry.arrived[top].wait()
    await until(lambda: len(node.layers.published) == 1)
    node.registry.blobs[top] = RaisesWhenRead()
    gate.set()
    with pytest.raises(RegistryUnavailable):
        await failing
    node.registry.push(APP, f"{NAME}:v1")
    assert (await node.images.pull("app:v1")).id == APP.id
    assert node.registry.asked.count(f"stream {base}") == 1


async def test_a_retry_that_succeeds_ends_the_waiting_for_it(node: Node) -> None:
    node.registry.push(APP, f"{NAME}:v1")
    node.registry.failing[layer_digests(APP)[1]] = RegistryUnavailable("it went away")
    for _ in range(2):
        with pytest.raises(RegistryUnavailable):
            await node.images.pull("app:v1")
    node.registry.failing.clear()
    await node.images.pull("app:v1")
    await until(lambda: not any("layers" in task.get_name() for task in asyncio.all_tasks()))
    await node.images.remove("app:v1")
    assert node.layers.published == {}


async def test_without_a_retry_it_is_let_go(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "RETRY_SECONDS", 0.01)
    node.registry.blobs[layer_digests(APP)[1]] = RaisesWhenRead()
    with pytest.raises(RegistryUnavailable):
        await node.images.pull("app:v1")
    await until(lambda: not node.layers.published)
    node.consistent()


class RaisesWhenRead(bytes):
    """A blob whose download breaks for good."""

    def __len__(self) -> int:
        raise RegistryUnavailable("it went away")


@pytest.mark.parametrize("text", ["", "UPPER", "a b", "sha256:" + "0" * 64, "0" * 64, "a\n", "x@sha256:1"])
async def test_what_is_no_reference_cannot_be_pulled(node: Node, text: str) -> None:
    with pytest.raises(Invalid):
        await node.images.pull(text)


async def test_a_tag_that_does_not_exist_is_not_found(node: Node) -> None:
    with pytest.raises(NotFound):
        await node.images.pull("app:nope")


# --- finding ------------------------------------------------------------------------------------------------


async def test_an_image_is_found_by_everything_it_is_called(node: Node) -> None:
    image = await node.images.pull("app:v1")
    hexadecimal = image.id.removeprefix("sha256:")
    for text in (
        *(image.id, hexadecimal, hexadecimal[:12], f"sha256:{hexadecimal[:3]}"),
        *("app:v1", "library/app:v1", "docker.io/app:v1", f"{NAME}:v1"),
        *(f"app@{APP.digest}", f"{NAME}@{APP.digest}", f"app:whatever@{APP.digest}"),
    ):
        assert node.images.find(text) == image, text
    for text in (
        "app",
        "app:v2",
        "a.test/app:v1",
        APP.digest,
        hexadecimal[:2],
        f"app@{ZEROS}",
        "",
        "a b",
        hexadecimal + "0",
    ):
        assert node.images.find(text) is None, text


async def test_a_name_without_a_tag_is_latest(node: Node) -> None:
    node.registry.push(NEXT, f"{NAME}:latest")
    await node.images.pull("app:v1")
    await node.images.pull("app")
    assert node.images.find("app").id == NEXT.id  # type: ignore[union-attr]


# --- listing ------------------------------------------------------------------------------------------------


async def test_images_are_listed_the_newest_first(node: Node) -> None:
    await node.images.pull("app:v1")
    await node.images.pull("app:next")
    assert [image.id for image in node.images.list()] == [NEXT.id, APP.id]
    assert [image.id for image in node.images.list("app:v1")] == [APP.id]
    assert list(node.images.list("nope")) == []


async def test_disk_use_is_that_of_the_layers(node: Node) -> None:
    image = await node.images.pull("app:v1")
    usage = await node.images.fs_info()
    assert (usage.bytes, usage.inodes) == (image.size, 2)


@pytest.mark.parametrize(
    ("patterns", "pinned"),
    [
        ((), False),
        (("app:v1",), True),
        ((f"{NAME}:v1",), True),
        (("app",), False),
        (("docker.io/*",), True),
        (("*app*",), True),
        (("a.test/*", "*:v1"), True),
        (("docker.io/library/ap",), False),
        (("not a reference",), False),
    ],
)
async def test_pinned_images_say_so(patterns: tuple[str, ...], pinned: bool) -> None:
    node = Node(patterns)
    node.registry.push(APP, f"{NAME}:v1")
    assert (await node.images.pull("app:v1")).pinned is pinned


async def test_pins_follow_the_configuration_at_start(node: Node) -> None:
    await node.images.pull("app:v1")
    node.restart(pinned=("app:v1",))
    await node.images.start()
    assert node.images.list()[0].pinned
    node.restart()
    await node.images.start()
    assert not node.images.list()[0].pinned


# --- removing -----------------------------------------------------------------------------------------------


async def test_removing_by_one_tag_removes_all_of_it(node: Node) -> None:
    for name in ("app:v1", "app:v2", "a.test/app:v1"):
        await node.images.pull(name)
    await node.images.remove("app:v2")
    assert list(node.images.list()) == []
    assert node.images.find("a.test/app:v1") is None
    assert node.layers.published == {}
    assert node.journal.rows == {}


async def test_removing_keeps_layers_of_other_images(node: Node) -> None:
    await node.images.pull("app:v1")
    await node.images.pull("app:next")
    await node.images.remove("app:v1")
    node.consistent()
    assert len(node.layers.published) == 2


async def test_removing_what_is_not_there_is_fine(node: Node) -> None:
    await node.images.remove("app:v1")
    await node.images.remove(ZEROS)
    await node.images.remove("not a reference")


async def test_removing_at_once_succeeds_for_everybody(node: Node) -> None:
    image = await node.images.pull("app:v1")
    await asyncio.gather(*(node.images.remove(text) for text in ("app:v1", image.id, "app:v1", image.id)))
    node.consistent()


async def test_an_ambiguous_prefix_removes_nothing(node: Node) -> None:
    image = await node.images.pull("app:v1")
    twin = msgspec.structs.replace(image, id=image.id[:20] + "0" * 51, tags=(), digests=())
    await node.state.commit(twin)
    with pytest.raises(Invalid, match="ambiguous"):
        await node.images.remove(image.id[:15])
    assert len(node.images.list()) == 2
    assert list(node.images.list(image.id[:15])) == []


async def test_layers_of_a_running_container_stay_until_it_is_gone(node: Node) -> None:
    image = await node.images.pull("app:v1")
    await node.contain(image)
    await node.images.remove("app:v1")
    assert list(node.images.list()) == []
    assert node.images.find(image.id) is None
    assert node.images.find("app:v1") is None
    assert len(node.layers.published) == 2
    assert image.id in node.state.images
    await node.images.remove("app:v1")
    await node.state.commit(Gone("container", "c1"))
    await until(lambda: not node.state.images and not node.layers.published)


async def test_a_removed_image_comes_back_by_a_pull(node: Node) -> None:
    image = await node.images.pull("app:v1")
    await node.contain(image)
    await node.images.remove("app:v1")
    again = await node.images.pull("app:v2")
    assert again.tags == (f"{NAME}:v2",)
    assert again.digests == (f"{NAME}@{APP.digest}",)
    assert list(node.images.list()) == [again]
    assert node.registry.count("stream") == 2
    await node.state.commit(Gone("container", "c1"))
    await asyncio.sleep(0)
    assert list(node.images.list()) == [again]


async def test_a_removal_during_a_pull_takes_no_layer_from_it(node: Node) -> None:
    await node.images.pull("app:v1")
    digest = layer_digests(NEXT)[1]
    gate = node.registry.gate(digest)
    pulling = asyncio.create_task(node.images.pull("app:next"))
    await node.registry.arrived[digest].wait()
    await node.images.remove("app:v1")
    gate.set()
    assert (await pulling).id == NEXT.id
    node.consistent()


async def test_a_pull_that_fails_frees_what_was_removed_meanwhile(node: Node) -> None:
    await node.images.pull("app:v1")
    digest = layer_digests(NEXT)[1]
    gate = node.registry.gate(digest)
    node.registry.blobs[digest] = b"bad"
    pulling = asyncio.create_task(node.images.pull("app:next"))
    await node.registry.arrived[digest].wait()
    await node.images.remove("app:v1")
    gate.set()
    with pytest.raises(Invalid):
        await pulling
    assert node.layers.published == {}


# --- at boot ------------------------------------------------------------------------------------------------


async def test_everything_is_known_again_after_a_restart(node: Node) -> None:
    image = await node.images.pull("app:v1")
    node.restart()
    await node.images.start()
    assert node.images.find("app:v1") == image
    assert node.images.find(f"app@{APP.digest}") == image


async def test_an_image_that_lost_a_layer_is_forgotten_and_pulled_again(node: Node) -> None:
    image = await node.images.pull("app:v1")
    await node.images.pull("app:next")
    del node.layers.published[image.layers[1]]
    node.restart()
    await node.images.start()
    assert [each.id for each in node.images.list()] == [NEXT.id]
    assert (await node.images.pull("app:v1")).id == APP.id
    node.consistent()


async def test_a_damaged_layer_found_later_is_fetched_again(node: Node) -> None:
    image = await node.images.pull("app:v1")
    del node.layers.published[image.layers[1]]
    assert await node.images.pull("app:v1") == image
    node.consistent()


async def test_leftovers_of_a_crash_are_swept(node: Node) -> None:
    image = await node.images.pull("app:v1")
    await node.contain(image)
    await node.images.remove(image.id)
    node.layers.published[ZEROS] = node.layers.published[image.layers[0]]
    node.layers.staged.add("half")
    del node.journal.rows[("container", "c1")]
    node.restart()
    await node.images.start()
    assert node.state.images == {}
    assert node.layers.published == {}
    assert node.layers.staged == set()


# --- importing ----------------------------------------------------------------------------------------------


def archived(one: images.Image, *tags: str, promised: bool = True) -> ArchivedImage:
    def source(digest: str) -> LayerSource:
        async def stream() -> Any:
            yield one.blobs[digest]

        size = len(one.blobs[digest])
        return LayerSource(digest, size, "gzip", stream) if promised else LayerSource("", -1, "none", stream)

    digests = tuple(f"{tag.rpartition(':')[0]}@{one.digest}" for tag in tags) if promised else ()
    return ArchivedImage(tags, digests, one.blobs[one.id], tuple(source(each) for each in layer_digests(one)))


@pytest.mark.parametrize("promised", [True, False])
async def test_an_import_takes_in_every_image(node: Node, promised: bool) -> None:
    node.archives.found = [archived(APP, f"{NAME}:v1", promised=promised), archived(NEXT, promised=promised)]
    found = await node.images.import_archive(Path("archive.tar"))
    assert [image.id for image in found] == [APP.id, NEXT.id]
    assert node.images.find("app:v1") == found[0]
    assert found[1].tags == ()
    node.consistent()


async def test_an_imported_layer_that_is_damaged_is_refused(node: Node) -> None:
    bad = images.Image({**APP.blobs, layer_digests(APP)[0]: BASE}, APP.manifest)
    node.archives.found = [archived(NEXT), archived(bad, f"{NAME}:v1")]
    await node.images.import_archive(Path("archive.tar"))  # the layer is here already: nothing of it is read
    await node.images.remove(APP.id)
    await node.images.remove(NEXT.id)
    node.archives.found = [archived(bad, f"{NAME}:v1")]
    with pytest.raises(Invalid, match="other content"):
        await node.images.import_archive(Path("archive.tar"))
    assert node.state.images == {}
    node.consistent()


async def test_an_import_moves_a_tag_as_a_pull_does(node: Node) -> None:
    await node.images.pull("app:v1")
    node.archives.found = [archived(NEXT, f"{NAME}:v1")]
    await node.images.import_archive(Path("archive.tar"))
    assert node.images.find("app:v1").id == NEXT.id  # type: ignore[union-attr]
    assert node.images.find(APP.id).tags == ()  # type: ignore[union-attr]


# --- what downloads keep for another try ----------------------------------------------------------------------


def settled(node: Node, one: images.Image) -> list[int]:
    """How often each layer's download was let go of."""
    return [node.registry.asked.count(f"settle {digest}") for digest in layer_digests(one)]


async def test_what_downloads_kept_is_let_go_of_once_and_after_the_image_is_recorded(node: Node) -> None:
    node.registry.push(APP, f"{NAME}:v1")
    order: list[str] = []
    node.layers.failing = lambda step: order.append(f"{step} {settled(node, APP)}")
    await node.images.pull("app:v1")
    assert order[-1] == "commit [0, 0]" and settled(node, APP) == [1, 1]
    assert not node.registry.left
    await node.images.pull("app:v1")
    assert settled(node, APP) == [1, 1]


async def test_what_proved_wrong_is_let_go_of_at_once(node: Node) -> None:
    node.registry.push(APP, f"{NAME}:v1")
    node.registry.blobs[layer_digests(APP)[1]] += b"x"
    with pytest.raises(Invalid):
        await node.images.pull("app:v1")
    assert settled(node, APP) == [1, 1]
    node.consistent()


async def test_after_a_failure_of_the_network_it_stays_for_the_retry(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampan.runtime.images.RETRY_SECONDS", 0.001)
    node.registry.push(APP, f"{NAME}:v1")
    node.registry.failing[layer_digests(APP)[1]] = RegistryUnavailable("it went away")
    node.registry.left.add("sha256:" + "0" * 64)  # it is tidied again and again while something is left
    with pytest.raises(RegistryUnavailable):
        await node.images.pull("app:v1")
    assert settled(node, APP) == [0, 0]
    await until(lambda: node.registry.count("tidy") > 2)
    with pytest.raises(RegistryUnavailable):
        await node.images.pull("app:v1")
    node.registry.left.clear()
    await asyncio.sleep(0.01)
    count = node.registry.count("tidy")
    await asyncio.sleep(0.01)
    assert node.registry.count("tidy") == count
    node.registry.failing.clear()
    await node.images.pull("app:v1")
    assert settled(node, APP) == [1, 1]


async def test_a_pull_that_dies_before_it_is_recorded_keeps_it(node: Node) -> None:
    node.registry.push(APP, f"{NAME}:v1")

    def die(step: str) -> None:
        if step == "commit":
            raise asyncio.CancelledError

    node.layers.failing = die
    with pytest.raises(asyncio.CancelledError):
        await node.images.pull("app:v1")
    assert settled(node, APP) == [0, 0]
