"""What every protocol of a streaming connection raises when its peer breaks it."""


class ProtocolError(Exception):
    """The client broke the protocol, or one of our limits; the text says how. Its connection ends."""
