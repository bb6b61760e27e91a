"""Signals: CRI's enum, an image's StopSignal text, and Linux's numbers (signal(7), the generic and x86/arm
ones).

CRI's enum has its own numbering, in the order of the names; it is mapped by number, because the names of its
values changed between releases of the CRI.
"""

import re

from sampan.model.errors import Invalid

RTMIN = 34  # the first that glibc and musl leave to programs
RTMAX = 64
SIGTERM = 15

NUMBERS = {
    "ABRT": 6, "ALRM": 14, "BUS": 7, "CHLD": 17, "CLD": 17, "CONT": 18, "FPE": 8, "HUP": 1, "ILL": 4,
    "INT": 2, "IO": 29, "IOT": 6, "KILL": 9, "PIPE": 13, "POLL": 29, "PROF": 27, "PWR": 30, "QUIT": 3,
    "SEGV": 11, "STKFLT": 16, "STOP": 19, "SYS": 31, "TERM": 15, "TRAP": 5, "TSTP": 20, "TTIN": 21,
    "TTOU": 22, "URG": 23, "USR1": 10, "USR2": 12, "VTALRM": 26, "WINCH": 28, "XCPU": 24, "XFSZ": 25,
}  # fmt: skip

# The enum: 0 is "not said", then the names above in their order, then RTMIN to RTMAX.
_FROM_ENUM: tuple[int, ...] = (0, *NUMBERS.values(), *range(RTMIN, RTMAX + 1))
_TO_ENUM: dict[int, int] = {number: value for value, number in reversed(list(enumerate(_FROM_ENUM)))}

_NAME = re.compile(r"(?:SIG)?([A-Z0-9]+)")
_REAL_TIME = re.compile(r"(?:SIG)?RT(?:MIN(?:\+([0-9]{1,2}))?|MAX(?:-([0-9]{1,2}))?)")
_NUMBER = re.compile(r"[0-9]{1,2}")


def number(requested: int, image_stop_signal: str) -> int:
    """The signal that stops a container: the request's enum value, else the image's StopSignal, else SIGTERM.

    Raises Invalid for an enum value or a text that names no signal.
    """
    if not 0 <= requested < len(_FROM_ENUM):
        raise Invalid(f"stop_signal {requested} is not a signal of the CRI (0 to {len(_FROM_ENUM) - 1})")
    if requested:
        return _FROM_ENUM[requested]
    return parse(image_stop_signal) if image_stop_signal else SIGTERM


def parse(text: str) -> int:
    """The number of an image's StopSignal: a name with or without SIG in any case, 1 to 64, RTMIN+n or
    RTMAX-n.

    Raises Invalid for anything else.
    """
    upper = text.upper() if text.isascii() else text
    if _NUMBER.fullmatch(upper):
        found = int(upper)
    elif real_time := _REAL_TIME.fullmatch(upper):
        found = _real_time(upper, real_time)
    elif name := _NAME.fullmatch(upper):
        found = NUMBERS.get(name[1], 0)
    else:
        found = 0
    if not 1 <= found <= RTMAX:
        raise Invalid(f"the image's StopSignal {text[:64]!r} names no signal")
    return found


def _real_time(text: str, match: re.Match[str]) -> int:
    """RTMIN+n and RTMAX-n; 0 if that leaves the range."""
    found = RTMIN + int(match[1] or 0) if "MIN" in text else RTMAX - int(match[2] or 0)
    return found if RTMIN <= found <= RTMAX else 0


def enum(number: int) -> int:
    """The CRI enum value of a signal number, for ContainerStatus.stop_signal; 0 where it has none."""
    return _TO_ENUM.get(number, 0)
