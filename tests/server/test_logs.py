import logging

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


def test_values_that_would_break_the_line_are_quoted() -> None:
    assert line("rpc", error='a "b"\nc=d').endswith(r'error="a \"b\"\nc=d"')
