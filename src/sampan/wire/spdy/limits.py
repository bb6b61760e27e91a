"""How much of everything a SPDY session takes from its peer before it ends the connection."""

from dataclasses import dataclass

DEFAULT_WINDOW = 1 << 16  # what a SPDY peer assumes before it has been told otherwise


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes. `streams` counts those that the peer has open at once; what it opens beyond is refused.

    `answers`: frames that the peer can make us queue between two calls of `to_send`. `idle_frames`: control frames that
    it may send beyond the number of data frames. Why these two are enough is said in `patience`.
    """

    streams: int = 20
    control_frame: int = 64 << 10
    block: int = 64 << 10  # a header block after decompression
    headers: int = 100  # of one block
    field: int = 8 << 10  # a header's name or value
    window: int = 512 << 10  # what the peer may send on a stream before it was consumed
    strict_windows: bool = False  # Kubernetes' clients know no windows: TCP holds them back
    answers: int = 1_000
    idle_frames: int = 500_000

    def __post_init__(self) -> None:
        if not DEFAULT_WINDOW <= self.window < 1 << 31:
            raise ValueError(f"a window of {self.window} bytes: from {DEFAULT_WINDOW} to 2^31 - 1")
