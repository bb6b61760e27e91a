"""Pulls that are cut short, by whom and when it may be: what is left is a working image or none, and the next pull goes
on where it ended. And pulls side by side: what many want is fetched once.
"""

import hashlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import sampan_pb2 as own
from sampan.api import sampan_pb2_grpc as own_rpc
from tests import census, images
from tests.daemon.conftest import Live
from tests.daemon.test_crash import settled, without_daemon
from tests.images import Entry
from tests.slow_registry import SlowRegistry

pytestmark = [pytest.mark.root, pytest.mark.limit(200)]

RATE = 4 << 20  # bytes a second of one connection
LAYER = 1 << 20
# What a real one does after seconds it does at once: so is every download one that takes long.
HASTY = f"""\
import sys
sys.path[:0] = {[str(Path(__file__).parents[2] / "src")]!r}
from functools import partial
from sampan import daemon
daemon.Effort = partial(daemon.Effort, spread_after=0.1, keep_after=0.03, segment=200_000)
daemon.main()
"""
STEPS = (
    *("image.layer.unpack", "image.layer.publish", "layer.unpack", "layer.publish", "image.spool.part"),
    *("layer.merge", "image.layers.commit", "layer.sync", "layer.record", "image.record"),
)


def content(seed: str) -> bytes:
    return random.Random(seed).randbytes(LAYER)


def data_layer(seed: str) -> list[Entry]:
    return [Entry(f"data/{seed}", data=content(seed)), Entry(f"data/{seed}.txt", data=seed.encode() * 99)]


def app(*seeds: str) -> images.Image:
    """busybox, a layer for each seed, and one on top that knows the sums of all their files, and waits for what is
    below it."""
    base = [*images.busybox_entries(), Entry("etc/own", data=b"not the layer of the daemon's first image")]
    layers = [base, *map(data_layer, seeds)]
    files = [entry for layer in layers for entry in layer if entry.kind == "file"]
    sums = "".join(f"{hashlib.sha256(entry.data).hexdigest()}  /{entry.path}\n" for entry in files)
    layers.append([Entry("sums", data=sums.encode()), Entry("etc/again", "hardlink", link="etc/passwd")])
    return images.image(list(map(images.layer, layers)), {"Cmd": ["sh"], "Env": [images.PATH]})


@pytest.fixture
def registry() -> Iterator[SlowRegistry]:
    running = SlowRegistry(RATE)
    try:
        yield running
    finally:
        running.kill()


class Puller:
    """A daemon, and a pod to try images in."""

    def __init__(self, daemon: Live) -> None:
        self.daemon = daemon
        self.pod = daemon.pod("tries")

    def begin(self, reference: str) -> grpc.Call:
        """What `sampan pull` asks for."""
        stub = own_rpc.ImagesStub(self.daemon.own.cri.channel)
        call: grpc.Call = stub.Pull(own.PullRequest(image=reference), timeout=60)
        return call

    def pull(self, reference: str) -> str:
        request = cri.PullImageRequest(image=cri.ImageSpec(image=reference))
        return self.daemon.images.PullImage(request, timeout=60).image_ref

    def found(self, reference: str) -> str:
        """The image's id; "" if there is none."""
        request = cri.ImageStatusRequest(image=cri.ImageSpec(image=reference))
        return self.daemon.images.ImageStatus(request, timeout=30).image.id

    def remove(self, reference: str) -> None:
        self.daemon.images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=reference)))

    def check(self, reference: str) -> None:
        """Every file of the image is there and what it should be, seen from a container."""
        look = "busybox sha256sum -c /sums && busybox cmp /etc/again /etc/passwd"
        config = self.daemon.container_config("sh", "-c", look)
        config.image.image = reference
        request = cri.CreateContainerRequest(pod_sandbox_id=self.pod, config=config)
        container = self.daemon.runtime.CreateContainer(request, timeout=30).container_id
        self.daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=container), timeout=30)
        code = self.daemon.until_exited(container).exit_code
        said = self.daemon.logged(container) if code else []
        self.daemon.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=container), timeout=30)
        assert code == 0, said

    def absent_or_working(self, reference: str) -> bool:
        there = self.found(reference)
        if there:
            self.check(reference)
        return bool(there)


@pytest.fixture
def puller(daemon: Live) -> Puller:
    return Puller(daemon)


@pytest.fixture
def hasty(daemon: Live) -> Puller:
    """One that keeps and spreads all downloads."""
    program = daemon.own.directory / "sampand"
    program.write_text(HASTY)
    daemon.program = [sys.executable, program]
    daemon.kill()
    daemon.start()
    return Puller(daemon)


class Cut:
    """One pull that is cut short at a point of `seed`'s choosing, and the one after it."""

    def __init__(self, puller: Puller, registry: SlowRegistry, reference: str, seconds: float) -> None:
        self.puller = puller
        self.daemon = puller.daemon
        self.registry = registry
        self.reference = reference
        self.seconds = seconds  # of a pull that nobody disturbs

    def client(self, rng: random.Random) -> str:
        when = rng.uniform(0, self.seconds)
        call = self.puller.begin(self.reference)
        time.sleep(when)
        call.cancel()
        return f"client after {when:.3f} s"

    def daemon_killed(self, rng: random.Random) -> str:
        when = rng.uniform(0, self.seconds)
        call = self.puller.begin(self.reference)
        time.sleep(when)
        self.daemon.kill()
        call.cancel()
        self.daemon.start()
        return f"daemon after {when:.3f} s"

    def daemon_at(self, step: str, rng: random.Random) -> str:
        skip = 0 if step in ("layer.merge", *STEPS[-4:]) else rng.randrange(3)
        self.daemon.faults.write_text(json.dumps([{"step": step, "action": "kill", "skip": skip}]))
        call = self.puller.begin(self.reference)
        self.daemon.own.process.wait(30)  # type: ignore[union-attr]
        call.cancel()
        self.daemon.faults.unlink(missing_ok=True)
        self.daemon.kill()
        self.daemon.start()
        return f"daemon at {step}, the time after {skip}"

    def registry_killed(self, rng: random.Random) -> str:
        when = rng.uniform(0, self.seconds)
        call = self.puller.begin(self.reference)
        time.sleep(when)
        self.registry.kill()
        try:
            for _ in call:  # type: ignore[attr-defined]
                pass
        except grpc.RpcError:
            pass
        return f"registry after {when:.3f} s"

    def cut(self, number: int) -> str:
        rng = random.Random(number)
        kind = number % 5
        if kind == 0:
            return self.client(rng)
        if kind == 1:
            return self.daemon_killed(rng)
        if kind == 2:
            return self.registry_killed(rng)
        if kind == 3:
            return self.daemon_at(STEPS[number // 5], rng)
        return (self.client, self.daemon_killed, self.registry_killed)[number // 5 % 3](rng)


def test_a_pull_cut_short_at_50_points_leaves_an_image_or_none_and_is_taken_up(
    hasty: Puller, registry: SlowRegistry
) -> None:
    image = app("one", "two", "three", "four")
    reference = registry.push("app", image)
    whole = sum(map(len, image.blobs.values()))
    began = time.monotonic()
    hasty.pull(reference)
    cut = Cut(hasty, registry, reference, time.monotonic() - began)
    hasty.check(reference)
    hasty.remove(reference)
    daemon = hasty.daemon
    parts = daemon.own.root / "blobs" / "parts"
    time.sleep(0.2)
    before = without_daemon(daemon.census())
    figures = []
    for number in range(50):
        registry.served = 0
        what = f"point {number}: {cut.cut(number)}"
        there = hasty.absent_or_working(reference)
        first = registry.served
        if "daemon" in what and not there:
            left = settled_but_for(daemon, before, parts)
            assert not left, f"{what}\n{left}"
        if "registry" in what:
            registry.start()
        assert hasty.pull(reference) == image.id, what
        hasty.check(reference)
        assert not list(parts.iterdir()), what
        assert registry.served < 1.5 * whole, (
            f"{what}: {first}, then {registry.served - first} of {whole} bytes"
        )
        figures.append((what, there, first / whole, (registry.served - first) / whole))
        hasty.remove(reference)
        assert not hasty.found(reference), what
    assert not settled(daemon, before)
    print(f"a pull takes {cut.seconds:.2f} s")
    for what, there, first_share, second_share in figures:
        print(f"{what}: {there} {first_share:.2f} + {second_share:.2f}")


def settled_but_for(daemon: Live, before: census.Census, parts: Path) -> str:
    """The census, without what downloads keep for the pull after them."""
    lines = settled_lines(daemon, before, parts)
    for _ in range(100):
        if not lines:
            break
        time.sleep(0.05)
        lines = settled_lines(daemon, before, parts)
    return "\n".join(lines)


def settled_lines(daemon: Live, before: census.Census, parts: Path) -> list[str]:
    left = census.diff(before, without_daemon(daemon.census())).splitlines()
    return [line for line in left if f"{parts}/" not in line]


def test_eight_clients_at_once_cost_one_download(puller: Puller, registry: SlowRegistry) -> None:
    image = app("one", "two")
    reference = registry.push("app", image)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(puller.pull, [reference] * 8)) == {image.id}
    assert Counter(digest for digest, _ in registry.asked) == Counter(list(image.blobs))
    assert registry.served == sum(map(len, image.blobs.values()))
    puller.check(reference)


def test_images_that_share_layers_fetch_them_once(puller: Puller, registry: SlowRegistry) -> None:
    first, second = app("one", "two", "three"), app("one", "two", "four")
    references = [registry.push("first", first), registry.push("second", second)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(puller.pull, references)) == [first.id, second.id]
    assert Counter(digest for digest, _ in registry.asked) == Counter({*first.blobs, *second.blobs})
    for reference in references:
        puller.check(reference)


def test_a_client_that_leaves_does_not_end_the_others_pull(puller: Puller, registry: SlowRegistry) -> None:
    image = app("one", "two")
    reference = registry.push("app", image)
    with ThreadPoolExecutor(4) as pool:
        leaving = [puller.begin(reference) for _ in range(3)]
        staying = [pool.submit(puller.pull, reference) for _ in range(3)]
        for number, call in enumerate(leaving):
            time.sleep(0.05 * (number + 1))
            call.cancel()
        assert {each.result() for each in staying} == {image.id}
    assert Counter(digest for digest, _ in registry.asked) == Counter(list(image.blobs))
    puller.check(reference)


def test_a_daemon_that_is_told_to_end_keeps_what_it_had(hasty: Puller, registry: SlowRegistry) -> None:
    image = app("one", "two", "three")
    reference = registry.push("app", image)
    registry.rate = 1 << 20
    call = hasty.begin(reference)
    time.sleep(0.6)  # a third of it, in which nothing ends
    process = hasty.daemon.own.process
    assert process is not None
    process.terminate()
    call.cancel()
    assert hasty.daemon.ended(40) == 0
    kept = sum(path.stat().st_size for path in (hasty.daemon.own.root / "blobs/parts").glob("*/*"))
    assert kept > 0
    registry.rate, registry.served = RATE, 0
    hasty.daemon.start()
    assert not hasty.absent_or_working(reference)
    assert hasty.pull(reference) == image.id
    # a connection that meets what is there may bring a little of it
    assert registry.served <= sum(map(len, image.blobs.values())) - kept + 5 * (64 << 10)
    hasty.check(reference)
