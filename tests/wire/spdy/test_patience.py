"""The account of work that a peer makes for nothing."""

import pytest

from sampan.wire.spdy.frames import SpdyError
from sampan.wire.spdy.limits import Limits
from sampan.wire.spdy.patience import USUAL_HEADERS, Patience


def test_the_account_can_be_spent_to_the_last() -> None:
    patience = Patience(Limits(idle_frames=3))
    patience.spend(3)
    with pytest.raises(SpdyError, match="more than 3"):
        patience.spend()


def test_what_was_earned_is_not_hoarded() -> None:
    patience = Patience(Limits(idle_frames=3))
    patience.earn(1000)
    patience.spend(2)
    patience.earn(1)
    patience.spend(2)
    with pytest.raises(SpdyError, match="more than 3"):
        patience.spend()


def test_usual_headers_are_free() -> None:
    patience = Patience(Limits(idle_frames=0))
    patience.spend_on(USUAL_HEADERS)
    with pytest.raises(SpdyError, match="more than 0"):
        patience.spend_on(USUAL_HEADERS + 1)


def test_answers_are_counted_between_drains() -> None:
    patience = Patience(Limits(answers=2))
    for _ in range(3):
        patience.owe()
        patience.owe()
        patience.drained()
    patience.owe()
    patience.owe()
    with pytest.raises(SpdyError, match="more than 2 answers"):
        patience.owe()
