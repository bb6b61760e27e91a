"""The last word of a session, on the error channel: a metav1.Status as JSON (v4 and later), or words (before).

Source: Kubernetes, apimachinery meta/v1 Status; remotecommand's reason NonZeroExitCode and cause ExitCode.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

NON_ZERO_EXIT = "NonZeroExitCode"
EXIT_CODE = "ExitCode"
INTERNAL = "InternalError"

MOST = 64 * 1024
"""Bytes of an error channel that are read; a status is far smaller."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a session ended: the command's exit `code`, or, where it never ran or was not seen to end, `failure` with
    the words for a person."""

    code: int = 0
    failure: str = ""


class _Cause(msgspec.Struct, omit_defaults=True):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct, omit_defaults=True):
    causes: list[_Cause] = []


class _Wire(msgspec.Struct, omit_defaults=True):
    """The part of metav1.Status that a session uses. Clients of Go expect `metadata` to be there."""

    metadata: dict[str, Any] | None = None
    status: str = ""
    message: str = ""
    reason: str = ""
    details: _Details | None = None
    code: int = 0


_DECODER = msgspec.json.Decoder(_Wire)


def words(status: Status) -> str:
    """For a person, and for the error channel before v4; "" for success."""
    if status.failure:
        return status.failure
    return f"command terminated with non-zero exit code {status.code}" if status.code else ""


def encode(status: Status) -> bytes:
    """The JSON that v4 and later put on the error channel, success too."""
    said = words(status)
    if not said:
        wire = _Wire(metadata={}, status="Success")
    elif status.failure:
        details = _Details([_Cause(message=said)])
        wire = _Wire({}, "Failure", f"Internal error occurred: {said}", INTERNAL, details, 500)
    else:
        details = _Details([_Cause(EXIT_CODE, str(status.code))])
        wire = _Wire({}, "Failure", said, NON_ZERO_EXIT, details)
    return msgspec.json.encode(wire)


def decode(data: bytes) -> Status:
    """What an error channel said, whatever it was: the words themselves where they are no metav1.Status."""
    try:
        wire = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Status(failure=_foreign(data))
    if wire.status == "Success":
        return Status()
    code = _exit_code(wire) if wire.reason == NON_ZERO_EXIT else 0
    if code:
        return Status(code)
    return Status(failure=wire.message or wire.reason or _foreign(data))


def _foreign(data: bytes) -> str:
    """Never "": that would be success."""
    return data[:MOST].decode("utf-8", "replace").strip() or f"the server said {data[:100]!r}"


def _exit_code(wire: _Wire) -> int:
    """0 where none is told, or none that a process can have."""
    for cause in wire.details.causes if wire.details else ():
        number = cause.message
        if cause.reason == EXIT_CODE and number.isascii() and number.isdigit() and len(number) <= 3:
            code = int(number)
            return code if code <= 255 else 0
    return 0
