"""The texts of the registry protocol."""

import time

import pytest

from sampan.model.errors import Invalid
from sampan.wire import distribution, reference
from sampan.wire.distribution import Challenge
from sampan.wire.hosts_toml import Host

MIRROR = Host("https", "m.test")
HUB = Host("https", "registry-1.docker.io", origin=True)


def test_addresses() -> None:
    wanted = reference.parse("busybox:1.36")
    assert distribution.manifest_url(HUB, wanted, "1.36") == (
        "https://registry-1.docker.io/v2/library/busybox/manifests/1.36"
    )
    digest = "sha256:" + "a" * 64
    assert distribution.blob_url(MIRROR, wanted, digest) == (
        f"https://m.test/v2/library/busybox/blobs/{digest}?ns=docker.io"
    )
    ours = reference.parse("m.test/app")
    assert distribution.manifest_url(MIRROR, ours, "latest") == "https://m.test/v2/app/manifests/latest"
    port = reference.parse("a.test:5000/app")
    assert distribution.manifest_url(MIRROR, port, "v").endswith("?ns=a.test%3A5000")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.test/v2/x", "https://a.test/v2/x"),
        ("https://u:p@a.test:5000/x?sig=S#f", "https://a.test:5000/x"),
        ("http://[::1]:5000/x?y", "http://[::1]:5000/x"),
        ("http://[::1", "a malformed URL"),
        ("http://a.test:port/x", "a malformed URL"),
        ("https://a.test/\x1b[31m\n", "https://a.test/%1B[31m"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert distribution.redact(url) == shown


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], []),
        (["Basic"], [Challenge("basic")]),
        (['Basic realm="a b"'], [Challenge("basic", "a b")]),
        (
            ['bEaReR realm="https://a.test/t",service="s",scope="x"'],
            [Challenge("bearer", "https://a.test/t", "s", "x")],
        ),
        (["Bearer realm=https://a.test/t"], [Challenge("bearer", "https://a.test/t")]),
        (['Bearer realm = "r" , scope = "a,b"'], [Challenge("bearer", "r", "", "a,b")]),
        (
            ['Basic realm="x", Bearer realm="y",service=z'],
            [Challenge("basic", "x"), Challenge("bearer", "y", "z")],
        ),
        (["Negotiate", 'Basic realm="x"'], [Challenge("negotiate"), Challenge("basic", "x")]),
        (["Negotiate YWJj==, Basic realm=x"], [Challenge("negotiate"), Challenge("basic", "x")]),
        ([r'Basic realm="a \"b\" \\"'], [Challenge("basic", 'a "b" \\')]),
        (['Bearer realm="first",realm="second"'], [Challenge("bearer", "first")]),
        (['Bearer realm="unterminated'], [Challenge("bearer"), Challenge("unterminated")]),
        (['=,"', ",,,", "\u00e9"], []),
    ],
)
def test_challenges(headers: list[str], found: list[Challenge]) -> None:
    assert distribution.challenges(headers) == found


@pytest.mark.parametrize(
    "header", ['a="\\' * 3000, "a" * 8000, "a=" * 4000, 'Bearer realm="' + "\\" * 8000, " " * 8000]
)
def test_a_challenge_made_to_take_long_does_not(header: str) -> None:
    begin = time.process_time()
    distribution.challenges([header])
    assert time.process_time() - begin < 1


def test_what_a_token_is_asked_for() -> None:
    assert distribution.token_query(Challenge("bearer", "r", "s", "x"), "a/b") == {
        "service": "s",
        "scope": "x",
    }
    assert distribution.token_query(Challenge("bearer", "r"), "a/b") == {"scope": "repository:a/b:pull"}


@pytest.mark.parametrize(
    ("body", "token"),
    [
        (b'{"token":"abc.def-_=/+~"}', "abc.def-_=/+~"),
        (b'{"access_token":"abc","expires_in":300}', "abc"),
        (b'{"token":"a","access_token":"b"}', "a"),
    ],
)
def test_tokens(body: bytes, token: str) -> None:
    assert distribution.token(body, "it") == token


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"token":""}', b'{"token":"a\\r\\nb"}', b'{"token":"\\u00e9"}', b'{"token":[]}', b"[]"],
)
def test_what_is_no_token_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        distribution.token(body, "it")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("7", 7),
        ("0", 0),
        ("-7", None),
        ("7.5", None),
        ("1_000", None),
        ("soon", None),
        ("\u0667", None),
        ("9" * 400, None),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 0),
        ("Thu, 99 Jan 1970 00:01:00 GMT", None),
    ],
)
def test_how_long_to_wait(value: str, seconds: float | None) -> None:
    assert distribution.retry_after(value, now=100) == seconds


@pytest.mark.parametrize(
    ("value", "start"),
    [
        ("bytes 5-9/10", 5),
        ("bytes 0-9/*", 0),
        ("bytes 5-9", None),
        ("items 5-9/10", None),
        ("bytes */10", None),
        ("", None),
    ],
)
def test_where_a_range_begins(value: str, start: int | None) -> None:
    assert distribution.range_start(value) == start


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (b'{"errors":[{"code":"DENIED","message":"password is hunter2"}]}', "DENIED"),
        (b'{"errors":[{"code":"A"},{"code":"B_2"}]}', "A, B_2"),
        (b'{"errors":[{"code":"evil code\\n"},{"code":5}]}', ""),
        (b'{"errors":[{}]}', ""),
        (b'{"errors":{}}', ""),
        (b"[1]", ""),
        (b"<html>", ""),
        (b"", ""),
    ],
)
def test_only_the_codes_of_an_error_are_told(body: bytes, codes: str) -> None:
    assert distribution.error_codes(body) == codes
