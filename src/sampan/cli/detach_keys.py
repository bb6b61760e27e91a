"""The keys that leave a session with a terminal, such as Ctrl-P Ctrl-Q, found in what a person types. Pure."""

import re

DEFAULT = "ctrl-p,ctrl-q"
_CONTROL = "@abcdefghijklmnopqrstuvwxyz[\\]^_"  # ctrl-@ is 0, ctrl-a 1, ...


def parse(text: str) -> bytes:
    """The bytes of keys such as `ctrl-p,ctrl-q` or `~,.`; none for no keys at all. Raises ValueError."""
    keys = bytearray()
    for word in text.split(",") if text else ():
        found = re.fullmatch(r"ctrl-([a-z@\[\\\]^_])", word, re.IGNORECASE)
        if found:
            keys.append(_CONTROL.index(found[1].lower()))
        elif len(word) == 1 and " " < word <= "~":
            keys += word.encode()
        else:
            raise ValueError(
                "must be keys with commas between: ctrl- and a letter or one of @[\\]^_, or a character"
            )
    return bytes(keys)


class DetachKeys:
    """Finds the keys in bytes that come in any pieces. A beginning of them is held back until it is sure what it is,
    or until `release`."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self.held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the keys have come; what follows them is dropped."""
        if not self._keys:
            return data, False
        data = self.held + data
        self.held = b""
        at = data.find(self._keys)
        if at >= 0:
            return data[:at], True
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                self.held = data[-length:]
                return data[:-length], False
        return data, False

    def release(self) -> bytes:
        """What was held back: no more came in time, so it is meant for the other side."""
        held, self.held = self.held, b""
        return held
