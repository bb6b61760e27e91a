"""Structured logs: one line an event, `key=value`, readable and greppable; a traceback's lines are indented."""

import json
import logging
import sys
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValue(logging.Formatter):
    """`time level logger message key=value ...`; the fields come from `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d} {record.levelname.lower()} "
        fields = " ".join(f"{key}={_quoted(value)}" for key, value in _fields(record).items() if value != "")
        line = f"{head}{record.name} {_visible(record.getMessage())} {fields}".rstrip()
        return line if not record.exc_info else "\n  ".join([line, *self._traceback(record.exc_info)])

    def _traceback(self, error: Any) -> list[str]:
        return [_visible(line) for line in self.formatException(error).split("\n")]


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _quoted(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(sign in text for sign in ' "=')
    return text if plain else _visible(json.dumps(text))


def _visible(text: str) -> str:
    """With escapes for what would begin another line, or steer a terminal: messages repeat what others said."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def setup(level: str) -> None:
    """Log to standard error, which systemd's journal or a terminal takes from there."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValue())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("asyncio", "grpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
