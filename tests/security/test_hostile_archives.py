"""T5 of table A: more than six hundred hostile archives, pulled and unpacked for real, and nothing comes of them.

Those of `tests.hostile_archives`: each meets the verdict that it states, in ten seconds and little memory. The machine
is byte for byte as it was, the daemon goes on, and the next good pull works.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.host.unpack.confine import MEMORY
from sampan.model.errors import Exhausted, Invalid
from tests import hostile_archives, images, machine
from tests.bare_unpack import unconfined
from tests.daemon.conftest import Live
from tests.host import stores
from tests.host.stores import Store, fingerprint
from tests.hostile_archives import DOCKER_MANIFEST, EITHER, ENCODINGS, FITS, FULL, INVALID, Archive
from tests.security import shelf
from tests.security.shelf import Shelf

pytestmark = pytest.mark.root

SECONDS = 10
Peaks = Callable[[], list[int]]
AT_ONCE = 3
PULLED = ("docker", "index", "gzip", "zstd", "none")
CODES = {
    FITS: grpc.StatusCode.OK,
    INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[str]:
    """Nothing there and nothing of the machine may change."""
    stores.canary(tmp_path / "target")
    before, of_machine = fingerprint(tmp_path / "target"), machine.snapshot()
    assert len(of_machine) > 500
    yield str(tmp_path / "target")
    assert fingerprint(tmp_path / "target") == before
    assert machine.changes(of_machine) == {}


@pytest.fixture
def peaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peaks:
    return stores.peaks(monkeypatch, tmp_path / "peaks")


# --- by the layer store -------------------------------------------------------------------------------------


async def unpacked(store: Store, archive: Archive, compression: str, below: Sequence[str]) -> str:
    """What became of an archive over the layers `below`: the error's name, or FITS."""
    chain = list(below)
    try:
        async with asyncio.timeout(SECONDS):
            for layer in archive.layers:
                chain = await store.add(layer, chain, compression)
    except (Invalid, Exhausted) as error:
        return type(error).__name__
    finally:
        for chain_id in reversed(chain[len(below) :]):
            await store.layers.remove(chain_id)
    return FITS


async def test_t5_hostile_archives_are_unpacked_or_refused(tmp_path: Path, canary: str, peaks: Peaks) -> None:
    made = [*hostile_archives.edges(), *hostile_archives.duplicates(canary)]
    made += [hostile_archives.noise(seed, canary) for seed in range(40)]
    assert len(made) >= 480
    todo = iter(zip(made, itertools.cycle(ENCODINGS), strict=False))
    wrong: dict[str, str] = {}
    async with stores.opened(tmp_path / "store") as store:
        # one each: the same layer over the same layers is the same chain, which one worker would take from another
        bases = [
            await store.add([stores.d("a"), stores.f("a/b"), stores.s("b", "/etc"), stores.f(f"of{number}")])
            for number in range(AT_ONCE)
        ]
        before = [fingerprint(store.layers.directory(base[0])) for base in bases]

        async def work(base: Sequence[str]) -> None:
            for archive, compression in todo:
                outcome = await unpacked(store, archive, compression, base)
                if archive.verdict not in (outcome, EITHER):
                    wrong[f"{archive.name}, {compression}"] = outcome

        await asyncio.gather(*map(work, bases))
        assert wrong == {}
        assert [fingerprint(store.layers.directory(base[0])) for base in bases] == before
        assert not store.leftovers()
        assert len(await store.add([stores.f("good")], bases[0])) == 2
    most = peaks()
    assert len(most) > len(made)
    print(f"{len(most)} children, the largest {max(most) >> 20} MiB")
    assert max(most) <= MEMORY


def test_t5_the_writer_alone_keeps_them_in() -> None:
    """The same archives and four hundred of noise, without the child's confinement."""
    assert unconfined("archives") == {}


# --- by a whole daemon --------------------------------------------------------------------------------------


def put(there: Shelf, name: str, archive: Archive, encoding: str) -> str:
    """Make an image of an archive; its reference."""
    compression = encoding if encoding in ENCODINGS else "gzip"
    image = images.image(archive.layers, {"Cmd": ["sh"]}, compression=compression)
    if encoding == "docker":
        image = hostile_archives.docker(image)
        assert DOCKER_MANIFEST.encode() in image.manifest
    return there.put(name, image, *(hostile_archives.nested(image) if encoding == "index" else ()))


def pull(daemon: Live, name: str) -> tuple[grpc.StatusCode, str]:
    spec = cri.ImageSpec(image=name)
    try:
        daemon.images.PullImage(cri.PullImageRequest(image=spec), timeout=SECONDS)
    except grpc.RpcError as error:
        assert not daemon.images.ImageStatus(cri.ImageStatusRequest(image=spec), timeout=SECONDS).image.id
        return error.code(), error.details() or ""
    daemon.images.RemoveImage(cri.RemoveImageRequest(image=spec), timeout=SECONDS)
    return grpc.StatusCode.OK, ""


def layers(daemon: Live) -> list[str]:
    """What is in the store, but for what is on its way out."""
    root = daemon.own.root / "layers"
    return sorted(str(path.relative_to(root)) for path in [*root.glob("*"), *root.glob("staging/*")])


def test_t5_a_daemon_pulls_hostile_images_and_goes_on(daemon: Live, canary: str) -> None:
    made = [*hostile_archives.escapes(canary), *hostile_archives.edges()[::2]]
    assert len(made) >= 220
    before, pid = layers(daemon), daemon.own.pid
    with shelf.opened() as there, ThreadPoolExecutor(AT_ONCE) as pool:

        def outcome(numbered: tuple[int, Archive]) -> tuple[str, str, grpc.StatusCode, str]:
            number, archive = numbered
            encoding = PULLED[number % len(PULLED)]
            code, words = pull(daemon, put(there, f"hostile{number}", archive, encoding))
            return f"{archive.name}, {encoding}", archive.verdict, code, words

        outcomes = list(pool.map(outcome, enumerate(made)))
        good = there.put("good", images.busybox())
        assert pull(daemon, good)[0] is grpc.StatusCode.OK
    wrong = {
        name: (code, words)
        for name, verdict, code, words in outcomes
        if code is not CODES[verdict] or "Traceback" in words
    }
    assert wrong == {}
    assert "Traceback" not in daemon.own.log.read_text(errors="replace")
    deadline = time.monotonic() + 10
    while layers(daemon) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert layers(daemon) == before
    assert daemon.own.pid == pid and daemon.own.process is not None and daemon.own.process.poll() is None
    status = Path(f"/proc/{pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
    print(f"{len(outcomes)} images; the daemon's peak {peak >> 20} MiB")
    assert peak <= MEMORY
    daemon.life()


def test_t5_there_are_more_than_six_hundred() -> None:
    edges = hostile_archives.edges()
    pulled = len(hostile_archives.escapes("/x")) + len(edges[::2])
    kept = len(edges) + len(hostile_archives.duplicates("/x"))
    assert pulled >= 200 and pulled + kept >= 600
    assert [one.layers for one in hostile_archives.escapes("/x")] == [
        one.layers for one in hostile_archives.escapes("/x")
    ]
    assert hostile_archives.noise(7, "/x").layers == hostile_archives.noise(7, "/x").layers
