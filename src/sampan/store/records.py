"""Records ↔ the bodies of rows: JSON with a version around it, protobuf fields as base64 of their wire form.

What a record means is for `model`; where its bytes go is for `database`. A row that does not decode is moved
to the quarantine with the reason and reported: a bad record must never keep the daemon from starting.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message

from sampan.model.errors import Lost
from sampan.store.database import Change, Database, Delete, Put
from sampan.store.opening import Refused

VERSION = 1

R = TypeVar("R")


class Record(Protocol):
    """A frozen msgspec Struct with the id that names its row."""

    @property
    def id(self) -> str: ...


class _Envelope(msgspec.Struct):
    version: int
    record: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the database holds: records, and the rows that had to be refused now."""

    records: tuple[Any, ...]
    refused: tuple[Refused, ...]


def encode(record: Record) -> bytes:
    """The body of the record's row."""
    return _encoder.encode({"version": VERSION, "record": record})


def decode(kind: str, body: bytes, type: type[R]) -> R:
    """The record in a row's body. Raises Lost where it is damaged, incomplete or from a newer version."""
    try:
        envelope = _envelopes.decode(body)
        if envelope.version > VERSION:
            raise Lost(
                f"{kind} is in format {envelope.version}; this version of sampan reads up to {VERSION}"
            )
        return msgspec.json.decode(envelope.record, type=type, dec_hook=_from_base64)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Lost(f"{kind} cannot be decoded: {error}") from error


class Journal:
    """The database as the use cases see it: records in, records out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, changes: Iterable[tuple[str, str, Record | None]]) -> None:
        """Apply (kind, id, record, or None to delete) as one transaction; returns when it is durable.

        Raises Exhausted or Unavailable.
        """
        await self._database.commit([_change(*change) for change in changes])

    async def load(self, kinds: Mapping[str, type]) -> Loaded:
        """Every record; rows of no kind of `kinds`, or that don't decode, are quarantined and reported."""
        records: list[Any] = []
        refused: list[Refused] = []
        for row in await self._database.load():
            try:
                records.append(_checked(row.kind, row.id, row.body, kinds))
            except Lost as error:
                await self._database.quarantine(row.kind, row.id, str(error))
                refused.append(Refused(row.kind, row.id, str(error)))
        return Loaded(tuple(records), tuple(refused))


def _change(kind: str, id: str, record: Record | None) -> Change:
    return Delete(kind, id) if record is None else Put(kind, id, encode(record))


def _checked(kind: str, id: str, body: bytes, kinds: Mapping[str, type[Any]]) -> Record:
    if kind not in kinds:
        raise Lost(f"no records of kind {kind!r} are known")
    record: Record = decode(kind, body, kinds[kind])
    if record.id != id:
        raise Lost(f"the row of {kind} {id} holds the record of {record.id}")
    return record


def _to_base64(value: object) -> str:
    if isinstance(value, Message):
        return base64.b64encode(value.SerializeToString(deterministic=True)).decode()
    raise NotImplementedError(f"a record cannot hold a {type(value).__name__}")


def _from_base64(type: type, value: object) -> object:
    if not issubclass(type, Message):
        raise NotImplementedError(f"a record cannot hold a {type.__name__}")
    if not isinstance(value, str):
        raise ValueError(f"not a {type.__name__} in base64")
    try:
        return type.FromString(base64.b64decode(value, validate=True))
    except (binascii.Error, DecodeError) as error:
        raise ValueError(f"not a {type.__name__}: {error}") from error


_encoder = msgspec.json.Encoder(enc_hook=_to_base64)
_envelopes = msgspec.json.Decoder(_Envelope)
