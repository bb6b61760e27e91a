"""Downloads in ranges as they go over the wire: what is asked for, what is made of the answers, what is kept."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from sampan.host.registry.client import RegistryClient
from sampan.host.registry.download import CONNECTIONS, Effort
from sampan.host.registry.endpoint import Patience
from sampan.host.storage.spool import Spool
from sampan.model.errors import Invalid, RegistryUnavailable
from sampan.runtime.image_ports import Repository
from sampan.wire import reference
from sampan.wire.credentials import Credentials
from sampan.wire.manifest import Descriptor
from tests import images
from tests.evil_registry import (
    Behaviour,
    EvilRegistry,
    Request,
    answer,
    blob,
    redirect,
    running,
    throttled,
)

SIZE = 1 << 20
DATA = b"".join(number.to_bytes(4, "big") for number in range(SIZE // 4))
LAYER = Descriptor(digest=images.sha256(DATA), size=SIZE)
BLOB = f"/v2/app/blobs/{LAYER.digest}"
JOHN = Credentials(username="john", password="s3cret-password")
RATE = 1 << 20  # bytes a second of one connection
ALONE = Effort(asyncio.Semaphore(0), keep_after=0.0)
AT_ONCE = Effort(asyncio.Semaphore(6), spread_after=0.0, keep_after=0.0, segment=128 << 10)


@pytest.fixture
async def evil() -> AsyncIterator[EvilRegistry]:
    async with running() as registry:
        yield registry


class Shop:
    """A client that keeps at once what it fetches, and has what an earlier one kept."""

    def __init__(self, directory: Path, effort: Effort = ALONE) -> None:
        self.directory = directory
        self.parts = directory / "parts"
        self.client = RegistryClient([directory], self._patience, spool=Spool(self.parts), effort=effort)

    def _patience(self) -> Patience:
        return Patience(5.0, lambda _: asyncio.sleep(0))

    @contextlib.asynccontextmanager
    async def open(
        self, credentials: Credentials | None = None, text: str = "evil.test/app"
    ) -> AsyncIterator[Repository]:
        async with self.client.open(reference.parse(text), credentials) as repository:
            yield repository

    def kept(self) -> dict[int, bytes]:
        return {int(path.name): path.read_bytes() for path in self.parts.glob("*/*")}

    def lay(self, **parts: bytes) -> None:
        repository = hashlib.sha256(b"evil.test/app").hexdigest()[:32]
        place = self.parts / f"{LAYER.digest.removeprefix('sha256:')}-{repository}"
        place.mkdir(parents=True)
        for name, data in parts.items():
            (place / name.removeprefix("_")).write_bytes(data)


@pytest.fixture
def shop(tmp_path: Path, evil: EvilRegistry) -> Shop:
    evil.hosts_toml(tmp_path, "evil.test")
    return Shop(tmp_path)


@pytest.fixture
def spreading(tmp_path: Path, evil: EvilRegistry) -> Shop:
    """It also spreads at once what is slow."""
    evil.hosts_toml(tmp_path, "evil.test")
    return Shop(tmp_path, AT_ONCE)


async def download(repository: Repository, layer: Descriptor = LAYER) -> bytes:
    return b"".join([piece async for piece in repository.stream(layer)])


def ranges(registry: EvilRegistry) -> list[str]:
    return [each.headers.get("range", "").removeprefix("bytes=") for each in registry.asked("GET", BLOB)]


async def test_a_slow_blob_comes_by_several_connections(spreading: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, throttled(DATA, RATE))
    async with spreading.open() as repository:
        assert await download(repository) == DATA
    asked = ranges(evil)
    assert asked[0] == "" and len(asked) > CONNECTIONS
    bounds = sorted(
        (int(first), int(last or SIZE - 1)) for first, last in (each.split("-") for each in asked[1:])
    )
    assert all(last - first < AT_ONCE.segment for first, last in bounds)
    assert all(before[1] < after[0] for before, after in pairwise(bounds))
    for start, data in spreading.kept().items():
        assert data == DATA[start : start + len(data)]


async def test_what_was_kept_is_not_asked_for(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, blob(DATA))
    shop.lay(_1000=DATA[1000:500_000], _700000=DATA[700_000:])
    async with shop.open() as repository:
        assert await download(repository) == DATA
        assert ranges(evil) == ["0-999", "500000-699999"]
        await repository.settle(LAYER)
        await repository.settle(LAYER)
    assert shop.kept() == {}


async def test_the_end_of_a_blob_is_asked_for_without_an_end(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, blob(DATA))
    shop.lay(_0=DATA[:1000])
    async with shop.open() as repository:
        assert await download(repository) == DATA
    assert ranges(evil) == ["1000-"]


async def test_a_blob_that_is_all_there_is_not_asked_for_at_all(shop: Shop, evil: EvilRegistry) -> None:
    shop.lay(_0=DATA)
    async with shop.open() as repository:
        assert await download(repository) == DATA
    assert evil.requests == []


async def test_a_download_that_was_left_is_taken_up(
    spreading: Shop, evil: EvilRegistry, tmp_path: Path
) -> None:
    evil.on(BLOB, throttled(DATA, RATE))
    got = 0
    async with spreading.open() as repository, contextlib.aclosing(repository.stream(LAYER)) as pieces:
        async for piece in pieces:
            got += len(piece)
            if got > SIZE // 2:
                break
    there = sum(map(len, spreading.kept().values()))
    assert there >= got
    evil.requests.clear()
    evil.on(BLOB, blob(DATA))
    async with Shop(tmp_path).open() as repository:
        assert await download(repository) == DATA
    asked = [each.split("-") for each in ranges(evil)]
    assert sum(int(last or SIZE - 1) - int(first) + 1 for first, last in asked) == SIZE - there


def ranged(start: int, data: bytes, content_range: str | None = None) -> Behaviour:
    whole = content_range or f"bytes {start}-{start + len(data) - 1}/{SIZE}"
    return answer(data, 206, Content_Range=whole)


WRONG = {
    "another range": ranged(2000, DATA[2000:]),
    "no range": answer(DATA[1000:], 206),
    "nonsense": ranged(0, DATA[1000:], "bytes 1000-*/what"),
    "more than there is": ranged(1000, DATA[1000:] + b"x"),
    "not satisfiable": answer(b"", 416),
}


@pytest.mark.parametrize("behaviour", WRONG.values(), ids=WRONG)
async def test_a_wrong_answer_to_a_range_is_refused(
    shop: Shop, evil: EvilRegistry, behaviour: Behaviour
) -> None:
    evil.on(BLOB, behaviour)
    shop.lay(_0=DATA[:1000])
    async with shop.open() as repository:
        with pytest.raises(Invalid):
            await download(repository)


RIGHT = {
    "the whole blob": answer(DATA),
    "an earlier range": ranged(500, DATA[500:]),
    "from the first byte": ranged(0, DATA),
    "of unknown size": ranged(1000, DATA[1000:], f"bytes 1000-{SIZE - 1}/*"),
}


@pytest.mark.parametrize("behaviour", RIGHT.values(), ids=RIGHT)
async def test_an_answer_that_has_what_was_asked_for_is_enough(
    shop: Shop, evil: EvilRegistry, behaviour: Behaviour
) -> None:
    evil.on(BLOB, behaviour)
    shop.lay(_0=DATA[:1000])
    async with shop.open() as repository:
        assert await download(repository) == DATA


async def test_more_than_a_closed_range_asked_for_is_cut(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, ranged(0, DATA))
    shop.lay(_1000=DATA[1000:])
    async with shop.open() as repository:
        assert await download(repository) == DATA
    assert ranges(evil) == ["0-999"]


async def test_a_short_answer_to_a_range_is_taken_up(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, ranged(1000, DATA[1000:5000]), blob(DATA))
    shop.lay(_0=DATA[:1000])
    async with shop.open() as repository:
        assert await download(repository) == DATA
    assert ranges(evil) == ["1000-", "5000-"]


async def test_a_host_without_ranges_is_asked_for_one_once(spreading: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, throttled(DATA, 2 * RATE, ranges=False))
    async with spreading.open() as repository:
        assert await download(repository) == DATA
    assert len(ranges(evil)) == 2


async def test_ranges_go_through_redirects_without_credentials(
    spreading: Shop, evil: EvilRegistry, tmp_path: Path
) -> None:
    async with running() as other:
        other.on("/store", throttled(DATA, RATE))
        evil.on(BLOB, redirect(f"{other.url}/store?signature=abc"))
        evil.gate = lambda request: (
            None if request.authorization else answer(b"", 401, WWW_Authenticate='Basic realm="it"')
        )
        async with spreading.open(JOHN) as repository:
            assert await download(repository) == DATA
        assert len(other.requests) > CONNECTIONS
        assert not [each for each in other.requests if each.authorization]
        assert sorted(filter(None, ranges(evil)[1:])) == sorted(
            each.headers["range"].removeprefix("bytes=") for each in other.requests if "range" in each.headers
        )


async def test_a_token_that_expires_under_many_ranges_is_renewed(spreading: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, throttled(DATA, RATE))
    tokens = 0

    def gate(request: Request) -> Behaviour | None:
        nonlocal tokens
        if request.path == "/token":
            tokens += 1
            return answer(b'{"token": "t%d"}' % tokens)
        if request.authorization == f"Bearer t{tokens}" and len(evil.requests) % 5:
            return None
        realm = f'Bearer realm="{evil.url}/token",service="evil"'
        return answer(b"", 401, WWW_Authenticate=realm)

    evil.gate = gate
    async with spreading.open(JOHN) as repository:
        assert await download(repository) == DATA
    assert tokens < len(ranges(evil))


async def test_a_connection_that_is_refused_leaves_the_others_alone(
    spreading: Shop, evil: EvilRegistry
) -> None:
    """Some registries allow one connection a client."""
    serve = throttled(DATA, 4 * RATE)

    async def one_only(request: Request, writer: asyncio.StreamWriter) -> bool:
        return await (answer(b"", 403) if "range" in request.headers else serve)(request, writer)

    evil.on(BLOB, one_only)
    async with spreading.open() as repository:
        assert await download(repository) == DATA


async def test_two_downloads_of_the_same_blob_at_once(spreading: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, throttled(DATA, 2 * RATE))
    async with spreading.open() as first, spreading.open() as second:
        assert list(await asyncio.gather(download(first), download(second))) == [DATA, DATA]
        for start, data in spreading.kept().items():
            assert data == DATA[start : start + len(data)]


async def test_parts_that_are_of_something_else_are_given_out_once(shop: Shop, evil: EvilRegistry) -> None:
    """Whoever unpacks them finds another digest, says so, and the try after that begins anew."""
    evil.on(BLOB, blob(DATA))
    shop.lay(_0=b"\0" * 1000)
    async with shop.open() as repository:
        assert await download(repository) == b"\0" * 1000 + DATA[1000:]
        await repository.settle(LAYER)
        assert await download(repository) == DATA


async def test_what_one_repository_left_is_not_given_out_for_another(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, blob(b"E" * SIZE, cut=SIZE // 2), blob(b"", cut=0))
    with pytest.raises(RegistryUnavailable):
        async with shop.open() as repository:
            await download(repository)
    assert shop.kept()
    evil.on(BLOB.replace("/app/", "/good/"), blob(DATA))
    async with shop.open(text="evil.test/good") as repository:
        assert await download(repository) == DATA


async def test_a_failure_leaves_what_came_for_the_next_try(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, blob(DATA, cut=300_000), answer(b"", 500))
    async with shop.open() as repository:
        with pytest.raises(RegistryUnavailable):
            await download(repository)
        came = len(shop.kept()[0])
        assert 0 < came <= 300_000  # what was in flight when the connection broke is lost
        evil.on(BLOB, blob(DATA))
        assert await download(repository) == DATA
    assert ranges(evil)[-1] == f"{came}-"


async def test_eighty_mebibytes_by_four_connections(
    evil: EvilRegistry, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each connection brings 2 MiB/s; told by which ranges were under way together, not by the time it took."""
    data = bytes(80 << 20)
    one = Descriptor(digest=images.sha256(data), size=len(data))
    served = throttled(data, 16 << 20)  # times eight: nobody wants to wait for 40 s
    evil.on(f"/v2/app/blobs/{one.digest}", served)
    evil.hosts_toml(tmp_path, "evil.test")
    seconds = []
    for more in (0, 6):
        effort = Effort(asyncio.Semaphore(more), spread_after=0.125, keep_after=0.375)
        async with Shop(tmp_path, effort).open() as repository:
            served.most, began = 0, time.monotonic()
            assert len(await download(repository, one)) == len(data)
            seconds.append(time.monotonic() - began)
            await repository.settle(one)
        # the server hears a little late of the one that is left where it meets another
        assert served.most in ((CONNECTIONS, CONNECTIONS + 1) if more else (1,))
    record_property("seconds alone and spread", seconds)
    print("alone and spread:", seconds)
