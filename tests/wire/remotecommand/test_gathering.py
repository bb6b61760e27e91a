"""Few events, and the same meaning."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.wire.remotecommand.channels import Event, Input, InputEnd, Left, Ready, Resize
from sampan.wire.remotecommand.gathering import Gathering


def gathered(*events: Event) -> list[Event]:
    gathering = Gathering()
    gathering.add(events)
    return gathering.taken()


def test_small_input_is_joined_and_large_is_not_copied() -> None:
    large = memoryview(bytes(5000))
    events = gathered(Ready(), Input(b"a"), Input(b"b"), Input(large), Input(b"c"), InputEnd())
    assert events == [Ready(), Input(b"ab"), Input(large), Input(b"c"), InputEnd()]
    assert isinstance(events[2], Input)
    assert events[2].data is large


def test_of_sizes_the_last_one_matters() -> None:
    assert gathered(Resize(1, 1), Input(b"a"), Resize(2, 2), Input(b"b")) == [Resize(2, 2), Input(b"ab")]


def test_a_size_comes_when_the_session_is_ready() -> None:
    assert gathered(Ready(), Input(b"a"), Resize(2, 2)) == [Ready(), Resize(2, 2), Input(b"a")]


def test_nothing_comes_after_the_end() -> None:
    assert gathered(Input(b"a"), Resize(1, 1), Left("x")) == [Resize(1, 1), Input(b"a"), Left("x")]


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=9), st.just(bytes(5000)))))
def test_no_byte_is_lost_or_moved(said: list[bytes]) -> None:
    events = gathered(*map(Input, said))
    assert b"".join(event.data for event in events if isinstance(event, Input)) == b"".join(said)


def test_a_flood_of_tiny_messages_is_one_event() -> None:
    flood = [event for _ in range(10_000) for event in (Input(b"x"), Resize(80, 24))]
    assert len(gathered(*flood)) == 2
