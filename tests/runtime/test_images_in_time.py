"""What becomes of images over time: pruning, pins, damage and its repair, room on the disk, and races of it all."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Any

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.container import Container
from sampan.model.errors import Exhausted, Lost, NotFound, RegistryUnavailable
from sampan.model.image import Image, Signature
from sampan.runtime import image_records
from sampan.runtime.images import Images, Supply
from sampan.runtime.prune import Pruned
from sampan.runtime.state import Gone, State
from sampan.runtime.trust import Trust
from sampan.tasks import Tasks
from tests import images
from tests.fake_layers import FakeLayers
from tests.fake_registry import FakeRegistry, layer_digests
from tests.fakes import FakeJournal
from tests.images import Entry

BASE, ONE, TWO, THREE = (
    images.layer([Entry(name, data=name.encode() * 1000)]) for name in ("base", "one", "two", "three")
)
SIZES = {"base": 4000, "one": 3000, "two": 3000, "three": 5000}
A = images.image([BASE, ONE], {"Cmd": ["a"]}, architecture="amd64")
B = images.image([BASE, TWO], {"Cmd": ["b"]}, architecture="amd64")
C = images.image([BASE, ONE, THREE], {"Cmd": ["c"]}, architecture="amd64")
NAME = "docker.io/library"


class Node:
    """A node's images over fakes; `restart` begins anew with what was durable."""

    def __init__(self) -> None:
        self.journal = FakeJournal()
        self.layers = FakeLayers()
        self.registry = FakeRegistry()
        self.tasks = Tasks()
        for one, name in ((A, "a"), (B, "b"), (C, "c")):
            self.registry.push(one, f"{NAME}/{name}:1")
        self.restart()

    def restart(self, pinned: tuple[str, ...] = ()) -> None:
        self.state = State(self.journal)
        self.state.adopt(self.journal.rows.values())
        supply = Supply(self.registry, None, "x86_64", pinned=pinned)  # type: ignore[arg-type]  # nothing is imported
        self.images = Images(self.state, self.layers, supply, self.tasks)

    async def contain(self, image: str, id: str = "c1", shows: tuple[str, ...] = ()) -> None:
        await self.state.commit(
            Container(
                id=id,
                pod_id="p",
                config=cri.ContainerConfig(),
                handler="crun",
                image_id=image,
                volume_images=shows,
                created_at=1,
            )
        )

    async def prune(self, *, everything: bool = True, dry: bool = False) -> dict[str, int]:
        """Which images went, and the bytes of each."""
        found: list[Pruned] = list(await self.images.prune.run(everything=everything, dry=dry))
        return {each.image.id: each.bytes for each in found}

    def ids(self) -> set[str]:
        return {image.id for image in self.images.list()}


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    yield node
    await node.tasks.stop()


# --- prune --------------------------------------------------------------------------------------------------


async def test_all_that_nobody_uses_goes_and_its_bytes_are_told(node: Node) -> None:
    for name in ("a", "b", "c"):
        await node.images.pull(f"{name}:1")
    await node.contain(B.id)
    foreseen = await node.prune(dry=True)
    assert node.ids() == {A.id, B.id, C.id}
    assert foreseen == await node.prune() == {A.id: 0, C.id: SIZES["one"] + SIZES["three"]}
    assert node.ids() == {B.id}
    assert (await node.images.fs_info()).bytes == SIZES["base"] + SIZES["two"]


async def test_without_all_only_images_without_a_tag_go(node: Node) -> None:
    await node.images.pull("a:1")
    node.registry.push(B, f"{NAME}/a:1")
    await node.images.pull("a:1")
    await node.images.pull("c:1")
    assert await node.prune(everything=False) == {A.id: 0}
    assert node.ids() == {B.id, C.id}


@pytest.mark.parametrize("use", ["a container", "an image volume", "a create under way", "a pin"])
async def test_what_is_needed_is_not_pruned(node: Node, use: str) -> None:
    if use == "a pin":
        node.restart(pinned=("a:1",))
    await node.images.pull("a:1")
    if use == "a container":
        await node.contain(A.id)
    elif use == "an image volume":
        await node.contain("sha256:other", shows=(A.id,))
    elif use == "a create under way":
        node.images.hold(A.id)
    assert await node.prune(dry=True) == await node.prune() == {}
    assert node.ids() == {A.id}


async def test_a_create_that_begins_while_pruning_keeps_its_image(node: Node) -> None:
    await node.images.pull("a:1")
    await node.images.pull("b:1")
    work = asyncio.ensure_future(node.prune())
    while A.id in node.ids():  # noqa: ASYNC110 - the journal has no event
        await asyncio.sleep(0)
    node.images.hold(B.id)
    assert set(await work) == {A.id}
    assert node.ids() == {B.id}


# --- pins ---------------------------------------------------------------------------------------------------


async def test_the_kubelets_word_removes_a_pinned_image_too(node: Node) -> None:
    node.restart(pinned=("a:1",))
    assert (await node.images.pull("a:1")).pinned
    await node.images.remove("a:1")
    assert node.ids() == set() and not node.layers.published


async def test_a_pin_that_the_configuration_lost_no_longer_keeps_an_image(node: Node) -> None:
    node.restart(pinned=(f"{NAME}/*",))
    await node.images.pull("a:1")
    node.restart()
    await node.images.start()
    assert await node.prune() == {A.id: SIZES["base"] + SIZES["one"]}


# --- damage -------------------------------------------------------------------------------------------------


def streamed(node: Node) -> list[str]:
    return [asked.split()[1] for asked in node.registry.asked if asked.startswith("stream")]


async def test_a_pull_mends_an_image_and_fetches_only_what_is_missing(node: Node) -> None:
    image = await node.images.pull("a:1")
    node.registry.asked.clear()
    node.layers.lost.add(image.layers[1])
    assert await node.images.pull("a:1") == image
    assert streamed(node) == layer_digests(A)[1:]
    assert set(node.layers.published) == set(image.layers)


async def test_a_pull_mends_a_layer_that_another_image_brought(node: Node) -> None:
    image = await node.images.pull("a:1")
    node.layers.lost.add(image.layers[0])
    node.registry.asked.clear()
    await node.images.pull("b:1")
    assert streamed(node) == layer_digests(B)
    await node.images.require(A.id, B.id)


async def test_a_container_is_not_made_of_a_damaged_image_and_the_next_pull_mends_it(node: Node) -> None:
    image = await node.images.pull("a:1")
    await node.images.pull("b:1")
    await node.images.require(A.id, B.id)
    node.layers.lost.add(image.layers[0])
    with pytest.raises(Lost, match=r"a:1 is damaged.*pull it again"):
        await node.images.require(A.id)
    assert node.ids() == set()  # both need that layer, and the kubelet shall see that it has to pull
    assert await node.images.pull("a:1")
    assert node.ids() == {A.id}


async def test_containers_of_a_damaged_image_keep_what_is_left_of_it(node: Node) -> None:
    image = await node.images.pull("a:1")
    await node.contain(A.id)
    node.layers.lost.add(image.layers[1])
    with pytest.raises(Lost):
        await node.images.require(A.id)
    assert node.state.images[A.id].removed and image.layers[0] in node.layers.published
    node.registry.asked.clear()
    again = await node.images.pull("a:1")
    assert again.layers == image.layers and not again.removed
    assert streamed(node) == layer_digests(A)[1:]


async def test_a_damaged_image_that_cannot_be_mended_now_is_no_longer_listed(node: Node) -> None:
    image = await node.images.pull("a:1")
    node.layers.lost.add(image.layers[1])
    node.registry.failing[layer_digests(A)[1]] = RegistryUnavailable("down")
    with pytest.raises(RegistryUnavailable):
        await node.images.pull("a:1")
    assert node.ids() == set()
    node.registry.failing.clear()
    assert await node.images.pull("a:1")


async def test_a_start_forgets_images_without_their_layers_and_keeps_those_in_use_hidden(node: Node) -> None:
    for name in ("a", "b", "c"):
        await node.images.pull(f"{name}:1")
    await node.contain(C.id)
    del node.layers.published[node.state.images[A.id].layers[1]]
    node.restart()
    await node.images.start()
    assert node.ids() == {B.id}
    assert node.state.images[C.id].removed and A.id not in node.state.images
    assert set(node.layers.published) == {*node.state.images[B.id].layers, node.state.images[C.id].layers[2]}


# --- removing -----------------------------------------------------------------------------------------------


async def test_layers_that_cannot_be_freed_now_are_freed_later(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_records, "RETRY_SECONDS", 0)
    await node.images.pull("a:1")
    failures = [OSError(5, "Input/output error")] * 2
    remove_layer = node.layers.remove

    async def failing(chain_id: str) -> None:
        if failures:
            raise failures.pop()
        await remove_layer(chain_id)

    monkeypatch.setattr(node.layers, "remove", failing)
    await node.images.remove("a:1")
    assert node.ids() == set() and node.layers.published
    async with asyncio.timeout(5):
        while node.layers.published:  # noqa: ASYNC110 - the store has no event
            await asyncio.sleep(0)
    assert not failures


# --- room ---------------------------------------------------------------------------------------------------


async def test_a_pull_that_cannot_fit_ends_before_the_first_byte(node: Node) -> None:
    await node.images.pull("a:1")
    node.registry.asked.clear()
    node.layers.room = 10
    with pytest.raises(Exhausted, match="c:1 needs"):
        await node.images.pull("c:1")
    assert streamed(node) == [] and node.ids() == {A.id}
    assert await node.images.pull("a:1")  # what is there needs no room
    node.layers.room = len(C.blobs[layer_digests(C)[2]])  # nor does the part that is there
    assert await node.images.pull("c:1")


# --- races --------------------------------------------------------------------------------------------------


class Race:
    """Random operations on three images at once, and what must hold whenever one has ended."""

    def __init__(self, node: Node, random: random.Random) -> None:
        self.node = node
        self.random = random
        self.containers = 0
        self.made: dict[str, str] = {}  # container → the image that it uses, from the create's answer on
        self.tally: Counter[str] = Counter()

    async def some(self) -> None:
        """One operation that is drawn by lot."""
        work = self.random.choice(
            (self.pull, self.pull, self.create, self.remove, self.volume, self.usage, self.end, self.prune)
        )
        await self.paused()
        await work(self.random.choice("abc"))
        self.tally[work.__name__] += 1
        self.check()

    async def paused(self) -> None:
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)

    async def pull(self, name: str) -> None:
        image = await self.node.images.pull(f"{name}:1")
        assert all(self.node.layers.has(id) for id in image.layers) or image.id not in self.node.state.images

    async def create(self, name: str, volume: bool = False) -> None:
        """As `runtime.containers` does it: hold, record, look, release."""
        images, state = self.node.images, self.node.state
        found = images.find(f"{name}:1")
        if found is None:
            return
        images.hold(found.id)
        self.containers += 1
        id = f"c{self.containers}"
        try:
            await self.paused()
            await self.node.contain("sha256:none" if volume else found.id, id, (found.id,) if volume else ())
            if found.id not in state.images:
                await state.commit(Gone("container", id))
                return
            await images.require(found.id)
            await self.paused()
            assert all(self.node.layers.has(layer) for layer in found.layers), "held without its layers"
            if id in state.containers:
                self.made[id] = found.id
        finally:
            images.release(found.id)

    async def volume(self, name: str) -> None:
        await self.create(name, volume=True)

    async def remove(self, name: str) -> None:
        await self.node.images.remove(f"{name}:1")

    async def prune(self, name: str) -> None:
        await self.node.prune()

    async def usage(self, name: str) -> None:
        known = sum(self.node.layers.size(id) for id in self.node.layers.published)
        assert (await self.node.images.fs_info()).bytes == known

    async def end(self, name: str) -> None:
        """A container ends and goes."""
        for id in list(self.node.state.containers)[:1]:
            await self.node.state.commit(Gone("container", id))

    def check(self) -> None:
        state = self.node.state
        for container in self.made.keys() & state.containers:
            image: Image | None = state.images.get(self.made[container])
            assert image is not None, "used and forgotten"
            assert all(self.node.layers.has(layer) for layer in image.layers), "used without its layers"


async def test_a_removal_whose_client_leaves_frees_the_layers_all_the_same() -> None:
    node = Node()
    await node.images.pull("a:1")
    removing, go = asyncio.Event(), asyncio.Event()
    remove = node.layers.remove

    async def slow(chain_id: str) -> None:
        removing.set()
        await go.wait()
        await remove(chain_id)

    node.layers.remove = slow  # type: ignore[method-assign]
    call = asyncio.create_task(node.images.remove("a:1"))
    await removing.wait()
    call.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert node.state.images == {} and node.layers.published == {}


async def test_names_that_went_while_a_pull_looked_stay_away() -> None:
    node = Node()
    node.registry.push(A, f"{NAME}/a:2")
    for name in ("a:1", "a:2", "c:1"):  # c has the layers of a
        await node.images.pull(name)
    node.images.trust = RemovesMeanwhile(node.images)
    assert (await node.images.pull("a:1")).tags == (f"{NAME}/a:1",)


class RemovesMeanwhile(Trust):
    """Trusts everything, and somebody removes a:1 while it looks."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        self._images = images

    async def prove(self, *what: Any) -> tuple[Signature, ...]:
        await self._images.remove("a:1")
        return ()


@pytest.mark.parametrize("seed", range(20))
async def test_a_hundred_operations_at_once_never_take_a_layer_that_is_used(seed: int) -> None:
    node = Node()
    race = Race(node, random.Random(seed))
    try:
        for _ in range(20):
            await asyncio.gather(*(gone(race.some()) for _ in range(5)))
        assert sum(race.tally.values()) > 90
        for id in list(node.state.containers):
            await node.state.commit(Gone("container", id))
        for name in "abc":
            await node.images.remove(f"{name}:1")
            await node.images.remove(f"{name}:1")
        await node.images.collect()
        assert node.state.images == {} and node.layers.published == {} and node.layers.staged == set()
        assert (await node.images.fs_info()).bytes == 0
    finally:
        await node.tasks.stop()


async def gone(work: Awaitable[None]) -> None:
    with suppress(NotFound):
        await work
