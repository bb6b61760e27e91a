"""Messages with a channel, plain and as text, in any cut."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.wire.channel_messages import ChannelMessages
from sampan.wire.protocol_error import ProtocolError
from sampan.wire.websocket import Piece, WebSocket

SAID = st.lists(st.tuples(st.integers(0, 39), st.binary(max_size=40)), max_size=6)


@settings(deadline=None)
@given(said=SAID, cut=st.integers(1, 30), text=st.booleans())
def test_what_is_said_comes_on_its_channel_in_any_cut(
    said: list[tuple[int, bytes]], cut: int, text: bool
) -> None:
    client, server = WebSocket(server=False), WebSocket(server=True)
    says, hears = ChannelMessages(client, base64=text), ChannelMessages(server, base64=text)
    for number, data in said:
        says.send(number, data)
    sent = b"".join(client.to_send())
    heard: list[tuple[int, bytes]] = []
    under_way = b""
    for at in range(0, len(sent), cut):
        for piece in server.receive(sent[at : at + cut]):
            assert isinstance(piece, Piece)
            assert piece.text is text
            channel, clear = hears.take(piece)
            under_way += clear
            if piece.last:
                assert channel is not None
                heard.append((channel, under_way))
                under_way = b""
    assert heard == said


def test_no_channel_is_known_before_its_byte() -> None:
    hears = ChannelMessages(WebSocket(server=True))
    assert hears.take(Piece(b"", False, True, False)) == (None, b"")
    assert hears.take(Piece(b"\2x", False, False, True)) == (2, b"x")
    assert hears.take(Piece(b"", False, True, True)) == (None, b"")


@pytest.mark.parametrize("text", [b"0YQ", b"0Y!==", b"0YQ==YQ==", b"0\xc3\xa4aaa"])
@pytest.mark.parametrize("cut", [1, 2, 100])
def test_broken_base64_is_refused(text: bytes, cut: int) -> None:
    hears = ChannelMessages(WebSocket(server=True), base64=True)
    with pytest.raises(ProtocolError, match="base64"):
        for at in range(0, len(text), cut):
            hears.take(Piece(text[at : at + cut], True, not at, at + cut >= len(text)))


def test_lines_of_base64_are_one_text() -> None:
    hears = ChannelMessages(WebSocket(server=True), base64=True)
    lines = base64.encodebytes(bytes(100)).replace(b"\n", b"\r\n")
    assert hears.take(Piece(b"1" + lines, True, True, True)) == (1, bytes(100))
