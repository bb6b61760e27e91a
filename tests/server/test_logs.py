import logging
import sys

from sampan.server.logs import KeyValue


def line(message: str, **fields: object) -> str:
    record = logging.LogRecord("sampan.rpc", logging.INFO, "f.py", 1, message, (), None)
    record.__dict__.update(fields)
    return KeyValue().format(record).split(" ", 1)[1]


def test_fields_follow_the_message_and_empty_ones_are_left_out() -> None:
    assert (
        line("rpc", method="Version", subject="", code="OK", ms=0.5)
        == "info sampan.rpc rpc method=Version code=OK ms=0.5"
    )


def test_what_others_say_cannot_begin_a_line_of_its_own() -> None:
    said = line("stuck: pid 7 (\n2026 info x\r\x1b[2K\u2028\x85\udc80)", path="/a\x1b[1m", error="a\rb \x7f")
    assert said == (
        r"info sampan.rpc stuck: pid 7 (\n2026 info x\r\x1b[2K\u2028\x85\udc80) "
        r'path="/a\u001b[1m" error="a\rb \u007f"'
    )


def test_a_traceback_has_lines_which_are_none_of_ours() -> None:
    try:
        raise ValueError("bad\n2026-01-01T00:00:00.000 info sampan.x forged\r\x1b[2K")
    except ValueError:
        record = logging.LogRecord("sampan", logging.ERROR, "f.py", 1, "failed", (), sys.exc_info())
    head, *rest = KeyValue().format(record).split("\n")
    assert head.endswith("error sampan failed") and rest[0] == "  Traceback (most recent call last):"
    assert rest[-2:] == ["  ValueError: bad", r"  2026-01-01T00:00:00.000 info sampan.x forged\r\x1b[2K"]


def test_values_that_would_break_the_line_are_quoted() -> None:
    assert line("rpc", error='a "b"\nc=d').endswith(r'error="a \"b\"\nc=d"')
