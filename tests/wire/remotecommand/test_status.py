"""The last word: what Kubernetes' clients read, and what we make of whatever a server says."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.wire.remotecommand.status import Status, decode, encode, words


def test_success_is_said_too() -> None:
    assert json.loads(encode(Status())) == {"metadata": {}, "status": "Success"}


def test_an_exit_code_is_a_cause() -> None:
    assert json.loads(encode(Status(code=42))) == {
        "metadata": {},
        "status": "Failure",
        "message": "command terminated with non-zero exit code 42",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": "42"}]},
    }


def test_what_never_ran_is_an_internal_error() -> None:
    said = json.loads(encode(Status(failure="no such file")))
    assert said["status"] == "Failure"
    assert said["reason"] == "InternalError"
    assert said["code"] == 500
    assert said["message"] == "Internal error occurred: no such file"
    assert said["details"] == {"causes": [{"message": "no such file"}]}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (Status(), ""),
        (Status(3), "command terminated with non-zero exit code 3"),
        (Status(failure="gone"), "gone"),
        (Status(3, "gone"), "gone"),
    ],
)
def test_before_v4_words_are_all_there_is(status: Status, said: str) -> None:
    assert words(status) == said


@settings(deadline=None)
@given(st.integers(0, 255))
def test_every_exit_code_survives(code: int) -> None:
    assert decode(encode(Status(code))) == Status(code)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b'{"status":"Success","extra":[1]}', Status()),
        (b"rpc error: not found\n", Status(failure="rpc error: not found")),
        (b"\xff\xfe", Status(failure="��")),
        (b'{"status":"\xff"}', Status(failure='{"status":"\ufffd"}')),
        (b"", Status(failure="the server said b''")),
        (b" \n", Status(failure="the server said b' \\n'")),
        (b"[1, 2]", Status(failure="[1, 2]")),
        (b"{}", Status(failure="{}")),
        (b'{"status":"Failure","message":"m","code":404}', Status(failure="m")),
        (b'{"status":"Failure","reason":"NonZeroExitCode","message":"m"}', Status(failure="m")),
        (b'{"status":"Failure","reason":"NonZeroExitCode"}', Status(failure="NonZeroExitCode")),
        (
            b'{"status":"Failure","reason":"NonZeroExitCode","message":"m",'
            b'"details":{"causes":[{"reason":"Other","message":"7"},{"reason":"ExitCode","message":"8"}]}}',
            Status(8),
        ),
        *(
            (
                b'{"status":"Failure","reason":"NonZeroExitCode","message":"m",'
                b'"details":{"causes":[{"reason":"ExitCode","message":"%b"}]}}' % number,
                Status(failure="m"),
            )
            for number in (b"0", b"-1", b"256", b"1e3", b"9" * 5000, "²".encode(), b"")
        ),
    ],
)
def test_what_others_say_is_understood_or_passed_on(said: bytes, status: Status) -> None:
    assert decode(said) == status


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_nothing_that_a_server_says_is_taken_for_success(said: bytes) -> None:
    assert decode(said) != Status()


def test_deep_nesting_is_only_words() -> None:
    assert decode(b'{"metadata":' + b"[" * 100_000).failure
