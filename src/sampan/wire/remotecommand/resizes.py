"""Terminal sizes on the resize channel: JSON objects, one after another, cut anywhere.

Source: Kubernetes, client-go tools/remotecommand TerminalSize; its names are compared without case, as Go does.
"""

from typing import Any

import msgspec

from sampan.wire.remotecommand.channels import Data, ProtocolError, Resize

_MOST = 1024
_AT_ONCE = 64 * 1024
_DECODER = msgspec.json.Decoder(dict[str, Any])


class Resizes:
    """A resize channel's bytes in, sizes out: of several that come at once, the last."""

    def __init__(self) -> None:
        self._held = b""

    def receive(self, data: Data) -> list[Resize]:
        """Raises ProtocolError for what is no size. A size that isn't whole yet waits for its rest."""
        if len(data) > _AT_ONCE:
            raise ProtocolError(f"{len(data)} bytes at once on the resize channel")
        *whole, self._held = (self._held + bytes(data)).split(b"}")
        if len(self._held) > _MOST or any(len(text) > _MOST for text in whole):
            raise ProtocolError(f"a terminal size of more than {_MOST} bytes")
        sizes = [_size(text + b"}") for text in whole]
        return sizes[-1:]


def _size(text: bytes) -> Resize:
    try:
        size = {name.lower(): value for name, value in _DECODER.decode(text).items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"{text[:100]!r} is no terminal size: {error}") from None
    return Resize(_characters(size.get("width", 0)), _characters(size.get("height", 0)))


def _characters(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0xFFFF:
        raise ProtocolError(f"{str(value)[:100]!r} is no width or height of a terminal")
    return value
