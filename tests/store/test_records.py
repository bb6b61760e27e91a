"""Records survive the way to the disk and back; what does not decode is put aside, named."""

from pathlib import Path

import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Lost
from sampan.model.image import Image, ImageConfig, Signature
from sampan.model.process import ProcessRef
from sampan.store.database import Database, Put
from sampan.store.records import Journal, decode, encode


class Boat(msgspec.Struct, frozen=True, kw_only=True):
    """Every type of field that records have."""

    id: str
    config: cri.PodSandboxConfig
    other: cri.ContainerConfig | None = None
    crew: frozenset[str] = frozenset()
    ports: tuple[str, ...] = ()
    blob: bytes = b""
    init: ProcessRef | None = None
    at: int = 0


BOAT = Boat(
    id="b1",
    config=cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name="web", uid="u"), annotations={"z": "1", "a": "é"}
    ),
    crew=frozenset({"net", "ipc"}),
    ports=("a", "b"),
    blob=b"\x00\xff",
    init=ProcessRef(1, 2),
    at=1 << 62,
)
IMAGE = Image(
    id="sha256:" + "0" * 64,
    config=ImageConfig(env=("A=b",)),
    layers=("sha256:1",),
    raw_config=b"{}",
    signatures=(Signature(digest="sha256:" + "4" * 64, form="simple", payload=b"{}", signature=b"\x00\xff"),),
)


@pytest.fixture
async def database(tmp_path: Path) -> Database:
    return await Database.open(tmp_path / "state.db")


@pytest.mark.parametrize("record", [BOAT, IMAGE])
def test_a_record_comes_back_equal(record: Boat | Image) -> None:
    assert decode("kind", encode(record), type(record)) == record


def test_the_body_is_json_with_a_version() -> None:
    assert msgspec.json.decode(encode(IMAGE))["version"] == 1


def test_an_image_from_before_signatures_has_none() -> None:
    older = msgspec.json.decode(encode(IMAGE))
    del older["record"]["signatures"]
    assert decode("image", msgspec.json.encode(older), Image) == msgspec.structs.replace(IMAGE, signatures=())


def test_fields_that_a_later_version_added_take_their_default() -> None:
    body = msgspec.json.encode({"version": 1, "record": {"id": "b", "config": "", "unheard": 1}})
    assert decode("boat", body, Boat) == Boat(id="b", config=cri.PodSandboxConfig())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "cannot be decoded"),
        (b"\xff\xfe", "cannot be decoded"),
        (b'{"version": 1}', "missing required field `record`"),
        (b'{"version": 2, "record": {}}', "is in format 2; this version of sampan reads up to 1"),
        (b'{"version": 1, "record": {"id": "b"}}', "missing required field `config`"),
        (b'{"version": 1, "record": {"id": 5, "config": ""}}', "Expected `str`"),
        (b'{"version": 1, "record": {"id": "b", "config": "!"}}', "not a PodSandboxConfig"),
        (b'{"version": 1, "record": {"id": "b", "config": "/w=="}}', "not a PodSandboxConfig"),
        (b'{"version": 1, "record": {"id": "b", "config": 1}}', "Pod"),
        (b"[" * 100_000, "cannot be decoded"),
    ],
)
def test_what_makes_no_sense_is_lost_and_says_why(body: bytes, why: str) -> None:
    with pytest.raises(Lost, match=why):
        decode("boat", body, Boat)


def test_a_field_that_cannot_be_stored_is_refused_when_it_is_written() -> None:
    class Odd(msgspec.Struct):
        id: str
        value: object

    with pytest.raises(NotImplementedError, match="cannot hold a complex"):
        encode(Odd("x", 1j))


async def test_the_journal_writes_and_loads(database: Database) -> None:
    journal = Journal(database)
    await journal.write([("boat", "b1", BOAT), ("image", IMAGE.id, IMAGE), ("boat", "gone", BOAT)])
    await journal.write([("boat", "gone", None)])
    loaded = await journal.load({"boat": Boat, "image": Image})
    assert loaded.records == (BOAT, IMAGE)
    assert loaded.refused == ()
    await database.close()


async def test_rows_that_do_not_decode_are_quarantined_once_and_the_rest_loads(database: Database) -> None:
    journal = Journal(database)
    await journal.write([("boat", "b1", BOAT), ("boat", "other", BOAT), ("plane", "p", IMAGE)])
    await database.commit([Put("boat", "bad", b"{}")])
    loaded = await journal.load({"boat": Boat})
    assert loaded.records == (BOAT,)
    assert [(each.kind, each.id) for each in loaded.refused] == [
        ("boat", "bad"),
        ("boat", "other"),
        ("plane", "p"),
    ]
    assert "the row of boat other holds the record of b1" in loaded.refused[1].reason
    assert (await journal.load({"boat": Boat})).refused == ()
    await database.close()
