"""Which addresses host-local may give out, and in which order."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.wire.cni_ranges import RangeConf, RangeSet, candidates, parse_range, parse_sets


def ranges(*confs: RangeConf) -> RangeSet:
    return parse_sets([confs])[0]


def order(set_: RangeSet, last: str | None) -> list[str]:
    return [str(each.address) for each in candidates(set_, ip_address(last) if last else None)]


SMALL = RangeConf(subnet="10.0.0.0/29")


def test_a_subnet_alone_gives_all_but_network_broadcast_and_gateway() -> None:
    assert order(ranges(SMALL), None) == [f"10.0.0.{i}" for i in range(2, 7)]


def test_ipv6_has_no_broadcast() -> None:
    assert order(ranges(RangeConf(subnet="fd00::/126")), None) == ["fd00::2", "fd00::3"]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("10.0.0.3", "456 23"),
        ("10.0.0.6", "23456"),
        ("10.0.0.2", "3456 2"),
        ("10.0.0.7", "23456"),  # not in the range: as if there were none
        ("192.0.2.1", "23456"),
        ("::1", "23456"),
    ],
)
def test_the_search_goes_on_after_the_last_address(last: str, expected: str) -> None:
    assert order(ranges(SMALL), last) == [f"10.0.0.{digit}" for digit in expected.replace(" ", "")]


def test_ranges_of_one_set_are_used_in_turn() -> None:
    set_ = ranges(
        RangeConf(subnet="10.0.0.0/24", range_start="10.0.0.10", range_end="10.0.0.11"),
        RangeConf(subnet="10.1.0.0/24", range_start="10.1.0.1", range_end="10.1.0.3", gateway="10.1.0.2"),
    )
    assert order(set_, None) == ["10.0.0.10", "10.0.0.11", "10.1.0.1", "10.1.0.3"]
    assert order(set_, "10.1.0.1") == ["10.1.0.3", "10.0.0.10", "10.0.0.11", "10.1.0.1"]


def test_a_candidate_knows_its_prefix_and_gateway() -> None:
    first = next(candidates(ranges(RangeConf(subnet="10.0.0.0/24", gateway="10.0.0.254")), None))
    assert (first.cidr, str(first.gateway)) == ("10.0.0.1/24", "10.0.0.254")


def test_a_large_subnet_is_not_walked_before_it_is_needed() -> None:
    assert (
        next(candidates(ranges(RangeConf(subnet="fd00::/64")), ip_address("fd00::ffff"))).cidr
        == "fd00::1:0/64"
    )


@given(
    st.lists(st.tuples(st.integers(1, 13), st.integers(1, 13)), min_size=1, max_size=4),
    st.integers(0, 4 * 16),
)
def test_every_address_comes_exactly_once_wherever_the_search_starts(
    spans: list[tuple[int, int]], last: int
) -> None:
    set_ = ranges(
        *(
            RangeConf(
                subnet=f"10.0.{place}.0/28",
                range_start=f"10.0.{place}.{min(span)}",
                range_end=f"10.0.{place}.{max(span)}",
            )
            for place, span in enumerate(spans)
        )
    )
    found = order(set_, f"10.0.{last // 16}.{last % 16}")
    assert sorted(found) == sorted(order(set_, None))
    assert len(found) == len(set(found))
    assert not any(address.endswith(".1") for address in found)  # the gateways


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        (RangeConf(subnet="10.0.0.0/31"), "too small"),
        (RangeConf(subnet="10.0.0.0/32"), "too small"),
        (RangeConf(subnet="fd00::/127"), "too small"),
        (RangeConf(subnet="10.0.0.1/24"), "host bits"),
        (RangeConf(subnet="ten"), "ten"),
        (RangeConf(subnet="10.0.0.0/24", range_start="10.0.1.1"), "rangeStart"),
        (RangeConf(subnet="10.0.0.0/24", range_end="10.0.1.1"), "rangeEnd"),
        (RangeConf(subnet="10.0.0.0/24", range_start="10.0.0.9", range_end="10.0.0.8"), "after"),
        (RangeConf(subnet="10.0.0.0/24", gateway="fd00::1"), "family"),
        (RangeConf(subnet="10.0.0.0/24", range_start="fd00::1"), "rangeStart"),
        (RangeConf(subnet="10.0.0.0/24", gateway="x"), "x"),
    ],
)
def test_an_impossible_range_is_refused(conf: RangeConf, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        parse_range(conf)


@pytest.mark.parametrize(
    "sets",
    [
        [],
        [[]],
        [[RangeConf(subnet="10.0.0.0/24"), RangeConf(subnet="fd00::/64")]],
        [[RangeConf(subnet="10.0.0.0/24")], [RangeConf(subnet="10.0.0.128/25")]],
        [[RangeConf(subnet="10.0.0.0/24"), RangeConf(subnet="10.0.0.0/24")]],
    ],
)
def test_sets_are_of_one_family_and_do_not_overlap(sets: list[list[RangeConf]]) -> None:
    with pytest.raises(Invalid):
        parse_sets(sets)
