"""Values and messages → JSON for scripts, all fields of a message. Pure.

Names and messages come from images and clients, and a script's output may end on a terminal: what could steer one is
written as its JSON escape, which says the same to every reader of JSON.
"""

import json
import re

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

_ODD = re.compile(r"[^\n -~]")


def fields(message: Message) -> dict[str, object]:
    """The message as the JSON of its proto, all fields."""
    found: dict[str, object] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return found


def text(value: object, *, indent: int | None = 2) -> str:
    """The JSON of a message or of plain values; without `indent` a single line."""
    plain = fields(value) if isinstance(value, Message) else value
    return _ODD.sub(_escaped, json.dumps(plain, indent=indent, ensure_ascii=False))


def _escaped(odd: re.Match[str]) -> str:
    sign = odd[0]
    return sign if sign.isprintable() else json.dumps(sign)[1:-1]
