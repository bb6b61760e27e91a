"""From HTTP to SPDY or WebSocket: what is asked, what is answered, what is refused; wsproto judges the handshakes."""

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, Request

from sampan.wire.upgrade import (
    BROKEN,
    HEAD_MOST,
    Answer,
    Asking,
    Head,
    HeadReader,
    Kind,
    Refused,
    Upgrade,
    negotiate,
)

SPDY = ("v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io")
WEBSOCKET = ("v5.channel.k8s.io", "v4.channel.k8s.io", "")

POST = (
    b"POST /exec/token?a=b%20c HTTP/1.1\r\nHost: evil.example:1\r\nUser-Agent: Go-http-client/1.1\r\n"
    b"Content-Length: 0\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
    b"X-Stream-Protocol-Version: v5.channel.k8s.io\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"
    b"X-Stream-Protocol-Version: v3.channel.k8s.io\r\n\r\n"
)
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # with its answer, from RFC 6455, 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def read(data: bytes) -> Head:
    head = HeadReader().receive(data)
    assert head is not None
    return head


def request(method: str = "GET", target: str = "/x", **headers: str | None) -> Head:
    """A WebSocket's request, with some headers others, or (None) missing."""
    usual: dict[str, str | None] = {
        "host": "h",
        "connection": "keep-alive, Upgrade",
        "upgrade": "WebSocket",
        "sec_websocket_version": "13",
        "sec_websocket_key": KEY,
        "sec_websocket_protocol": "v4.channel.k8s.io, v5.channel.k8s.io",
    }
    lines = [
        f"{name.replace('_', '-')}: {value}" for name, value in (usual | headers).items() if value is not None
    ]
    return read("\r\n".join((f"{method} {target} HTTP/1.1", *lines, "", "")).encode("latin-1"))


def agreed(head: Head) -> Upgrade:
    return negotiate(head, spdy=SPDY, websocket=WEBSOCKET)


def fields(response: bytes) -> tuple[int, list[tuple[str, str]], str]:
    """Status, headers and body, as h11 reads them."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "h"), ("upgrade", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response)
    event = client.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    body = b""
    while isinstance(part := client.next_event(), h11.Data):
        body += part.data
    return (
        event.status_code,
        [(name.decode(), value.decode()) for name, value in event.headers],
        body.decode(),
    )


# Heads


def test_a_head_is_read_and_what_follows_belongs_to_the_next_protocol() -> None:
    head = read(POST + b"\x80\x03more")
    assert (head.method, head.path, head.query) == ("POST", "/exec/token", "a=b%20c")
    assert head.rest == b"\x80\x03more"
    assert head.values("x-stream-protocol-version") == [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
    ]


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=40))
def test_a_head_is_the_same_in_any_cut(sizes: list[int]) -> None:
    reader, at, found, rest = HeadReader(), 0, None, POST + b"rest"
    for size in [*sizes, len(rest)]:
        part, at = rest[at : at + size], at + size
        if part and found is None:
            found = reader.receive(part)
            if found:
                assert found.rest + rest[at:] == b"rest"
    assert found
    assert found.path == "/exec/token"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a?", "/a", ""),
        ("/a?b?c", "/a", "b?c"),
        ("/a#b?c", "/a", ""),
        ("//a/b", "//a/b", ""),
        ("/%2e%2e/a", "/%2e%2e/a", ""),
        ("http://evil.example/a?b", "/a", "b"),
        ("HTTPS://evil.example:1/a", "/a", ""),
    ],
)
def test_the_target_may_be_a_path_or_a_whole_url(target: str, path: str, query: str) -> None:
    head = request(target=target)
    assert (head.path, head.query) == (path, query)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", 505),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET example.org:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http://evil.example HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET ftp://evil.example/a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nabcde", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),  # TLS where none is spoken
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * HEAD_MOST + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * HEAD_MOST + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"G" * (HEAD_MOST + 1), 431),
        (b"", 400),
    ],
)
def test_a_head_that_cannot_be_served_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(Refused) as caught:
        HeadReader().receive(data)
    assert caught.value.status == status


def test_a_head_that_never_ends_is_refused_at_the_limit() -> None:
    reader, given_so_far = HeadReader(), 0
    with pytest.raises(Refused) as caught:
        while given_so_far < 10 * HEAD_MOST:
            reader.receive(b"a")
            given_so_far += 1
    assert caught.value.status == 431
    assert given_so_far == HEAD_MOST


def test_a_connection_that_ends_within_the_head_is_refused() -> None:
    reader = HeadReader()
    assert reader.receive(POST[:40]) is None
    with pytest.raises(Refused):
        reader.receive(b"")


# SPDY


def test_spdy_gets_what_the_client_likes_best() -> None:
    upgrade = agreed(read(POST))
    assert (upgrade.kind, upgrade.protocol) == (Kind.SPDY, "v4.channel.k8s.io")
    assert fields(upgrade.response)[:2] == (
        101,
        [
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ],
    )


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("v3.channel.k8s.io,v4.channel.k8s.io", "v3.channel.k8s.io"),
        (" channel.k8s.io ", "channel.k8s.io"),
        ("other,, v4.channel.k8s.io", "v4.channel.k8s.io"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_spdy_versions_may_be_a_list(method: str, asked: str, chosen: str) -> None:
    upgrade = agreed(request(method, upgrade="spdy/3.1", x_stream_protocol_version=asked))
    assert upgrade.protocol == chosen


def test_spdy_without_a_version_is_a_bad_request() -> None:
    with pytest.raises(Refused, match="X-Stream-Protocol-Version is required") as caught:
        agreed(request(upgrade="SPDY/3.1"))
    assert caught.value.status == 400


def test_spdy_without_a_known_version_is_told_ours() -> None:
    with pytest.raises(Refused) as caught:
        agreed(request(upgrade="SPDY/3.1", x_stream_protocol_version="v9"))
    status, headers, body = fields(caught.value.response())
    assert status == 403
    assert [value for name, value in headers if name == "x-accepted-stream-protocol-versions"] == list(SPDY)
    assert "'v9'" in body


# WebSocket


def test_a_websocket_gets_what_the_client_likes_best() -> None:
    upgrade = agreed(request())
    assert (upgrade.kind, upgrade.protocol) == (Kind.WEBSOCKET, "v4.channel.k8s.io")
    assert fields(upgrade.response)[:2] == (
        101,
        [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", ACCEPT),
            ("sec-websocket-protocol", "v4.channel.k8s.io"),
        ],
    )


def test_a_websocket_may_name_no_protocol() -> None:
    upgrade = agreed(request(sec_websocket_protocol=None))
    assert upgrade.protocol == ""
    assert b"Sec-WebSocket-Protocol" not in upgrade.response
    with pytest.raises(Refused, match="no subprotocol"):
        negotiate(request(sec_websocket_protocol=None), spdy=(), websocket=("x",))


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request(connection=None), 426),
        (request(connection="close"), 426),
        (request(upgrade=None), 426),
        (request(upgrade="h2c"), 400),
        (request("POST"), 405),
        (request(sec_websocket_version=None), 400),
        (request(sec_websocket_version="8"), 426),
        (request(sec_websocket_version="13, 8"), 426),
        (request(sec_websocket_key=None), 400),
        (request(sec_websocket_key="short"), 400),
        (request(sec_websocket_key=KEY[:-4]), 400),
        (request(sec_websocket_key="ä" * 24), 400),
        (request(sec_websocket_protocol="v9, v8"), 403),
    ],
)
def test_what_is_no_proper_upgrade_is_refused_with_words(head: Head, status: int) -> None:
    with pytest.raises(Refused) as caught:
        agreed(head)
    code, headers, body = fields(caught.value.response())
    assert code == status
    assert ("connection", "close") in headers
    assert body.strip() == str(caught.value)
    if status == 426:
        assert {"upgrade", "sec-websocket-version"} & {name for name, _ in headers}


@pytest.mark.parametrize("status", [400, 403, 404, 405, 426, 429, 500])
def test_any_refusal_is_a_whole_answer(status: int) -> None:
    refused = Refused(status, "because ä", (("retry-after", "60"),))
    code, headers, body = fields(refused.response())
    assert (code, body) == (status, "because ä\n")
    assert ("retry-after", "60") in headers


@settings(deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=255), max_size=30))
def test_a_refusal_never_carries_the_clients_words_into_its_head(said: str) -> None:
    head = Head(
        "GET",
        "/",
        "",
        (("connection", "upgrade"), ("upgrade", "spdy/3.1"), ("x-stream-protocol-version", said)),
        b"",
    )
    try:
        agreed(head)
    except Refused as refused:
        headers, _, body = refused.response().partition(b"\r\n\r\n")
        assert body.count(b"\n") == 1
        assert len(headers.split(b"\r\n")) <= 5 + len(SPDY)


# Client


def answered(asking: Asking, response: bytes, sizes: tuple[int, ...] = ()) -> Answer | None:
    asking.to_send()
    answer = None
    for size in (*sizes, len(response)):
        part, response = response[:size], response[size:]
        if part and answer is None:
            answer = asking.receive(part)
    return answer


@pytest.mark.parametrize("kind", Kind)
def test_our_client_and_our_server_agree(kind: Kind) -> None:
    asking = Asking(kind, "/exec/token?a=b", "127.0.0.1:1", ("v9", "v4.channel.k8s.io"))
    head = read(asking.to_send())
    assert (head.path, head.query) == ("/exec/token", "a=b")
    assert asking.to_send() == b""
    upgrade = agreed(head)
    assert upgrade.kind is kind
    assert asking.receive(upgrade.response[:30]) is None
    answer = asking.receive(upgrade.response[30:] + b"rest")
    assert answer == Answer("v4.channel.k8s.io", b"rest")


def test_wsproto_accepts_our_answer_and_we_accept_its() -> None:
    client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    upgrade = agreed(read(client.send(Request("h", "/x", subprotocols=["v5.channel.k8s.io"]))))
    client.receive_data(upgrade.response)
    (accepted,) = client.events()
    assert isinstance(accepted, AcceptConnection)
    assert accepted.subprotocol == "v5.channel.k8s.io"
    asking = Asking(Kind.WEBSOCKET, "/x", "h", ("a", "b"))
    server.receive_data(asking.to_send())
    (asked,) = server.events()
    assert isinstance(asked, Request)
    assert asked.subprotocols == ["a", "b"]
    assert asking.receive(server.send(AcceptConnection(subprotocol="b"))) == Answer("b", b"")


def test_a_refusal_is_read_with_its_words_in_any_cut() -> None:
    server = WSConnection(ConnectionType.SERVER)
    asking = Asking(Kind.WEBSOCKET, "/x", "h", ("a",))
    server.receive_data(asking.to_send())
    list(server.events())
    response = server.send(RejectConnection(status_code=418))
    with pytest.raises(Refused, match="answered 418") as caught:
        answered(asking, response, (10, 10))
    assert caught.value.status == 418
    for sizes in ((), (1,) * 500):
        with pytest.raises(Refused, match="no such token") as caught:
            answered(Asking(Kind.SPDY, "/x", "h", ("a",)), Refused(404, "no such token").response(), sizes)
        assert caught.value.status == 404


def test_a_refusal_may_end_with_its_connection() -> None:
    asking = Asking(Kind.SPDY, "/x", "h", ("a",))
    asking.to_send()
    assert asking.receive(b"HTTP/1.1 500 Oh\r\nConnection: close\r\n\r\nwhy") is None
    with pytest.raises(Refused, match=r"^why$"):
        asking.receive(b"")


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"\x00\x01",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: SPDY/3.1\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"y" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000,
    ],
)
def test_what_is_no_agreement_is_no_upgrade(response: bytes) -> None:
    asking = Asking(Kind.WEBSOCKET, "/x", "h", ("a",))
    asking.to_send()
    with pytest.raises(Refused):
        asking.receive(response)
        asking.receive(b"")


def test_an_answer_to_another_key_is_no_agreement() -> None:
    asking = Asking(Kind.WEBSOCKET, "/x", "h", ("v4.channel.k8s.io",))
    asking.to_send()
    with pytest.raises(Refused, match="another WebSocket"):
        asking.receive(agreed(request()).response)


def test_a_protocol_that_was_not_offered_is_no_agreement() -> None:
    asking = Asking(Kind.SPDY, "/x", "h", ("a",))
    asking.to_send()
    with pytest.raises(Refused, match="not offered"):
        asking.receive(b"HTTP/1.1 101 X\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: b\r\n\r\n")


def test_a_connection_that_ends_without_an_answer_is_told() -> None:
    asking = Asking(Kind.SPDY, "/exec/x", "127.0.0.1:1", ("v4.channel.k8s.io",))
    with pytest.raises(Refused, match="the connection ended before an answer came") as refused:
        asking.receive(b"")
    assert refused.value.status == BROKEN
