"""The address ranges of a `host-local` network and the order in which they are handed out.

Pure: which address is free is the caller's knowledge. Ranges, defaults and order are those of the reference
plugin, so that both may serve the same network in turn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

from sampan.model.errors import Invalid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class RangeConf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A range as the configuration writes it."""

    subnet: str
    range_start: str = msgspec.field(default="", name="rangeStart")
    range_end: str = msgspec.field(default="", name="rangeEnd")
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses `start` to `end` of a subnet, both included, without the gateway."""

    subnet: Network
    start: Address
    end: Address
    gateway: Address

    def __contains__(self, address: Address) -> bool:
        return address.version == self.subnet.version and int(self.start) <= int(address) <= int(self.end)

    def overlaps(self, other: "Range") -> bool:
        return self.start in other or other.start in self


RangeSet = tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address that may be given out, with the prefix length and the gateway that go with it."""

    address: Address
    prefix: int
    gateway: Address

    @property
    def cidr(self) -> str:
        return f"{self.address}/{self.prefix}"


def parse_sets(sets: Sequence[Sequence[RangeConf]]) -> tuple[RangeSet, ...]:
    """The range sets of a configuration: one address is taken from each. Raises Invalid."""
    parsed = tuple(_set(entries) for entries in sets)
    if not parsed:
        raise Invalid("no address ranges are given")
    for place, first in enumerate(parsed):
        for second in parsed[place + 1 :]:
            _no_overlap(first, second)
    return parsed


def _set(entries: Sequence[RangeConf]) -> RangeSet:
    if not entries:
        raise Invalid("a range set is empty")
    ranges = tuple(parse_range(entry) for entry in entries)
    if len({each.subnet.version for each in ranges}) > 1:
        raise Invalid("a range set mixes IPv4 and IPv6")
    for place, each in enumerate(ranges):
        _no_overlap((each,), ranges[place + 1 :])
    return ranges


def _no_overlap(first: RangeSet, second: RangeSet) -> None:
    for one in first:
        for other in second:
            if one.overlaps(other):
                raise Invalid(f"range {one.start}-{one.end} overlaps {other.start}-{other.end}")


def parse_range(conf: RangeConf) -> Range:
    """A range with its defaults: all of the subnet but network and broadcast; the gateway is its first."""
    try:
        subnet = ip_network(conf.subnet)  # refuses host bits
        if subnet.prefixlen > subnet.max_prefixlen - 2:
            raise ValueError("the subnet is too small to allocate from")
        start = ip_address(conf.range_start) if conf.range_start else subnet[1]
        last = subnet[-2] if subnet.version == 4 else subnet[-1]
        end = ip_address(conf.range_end) if conf.range_end else last
        gateway = ip_address(conf.gateway) if conf.gateway else subnet[1]
    except ValueError as error:
        raise Invalid(f"range {conf.subnet}: {error}") from None
    for name, address in (("rangeStart", start), ("rangeEnd", end)):
        if address not in subnet:
            raise Invalid(f"{name} {address} is not in {subnet}")
    if int(start) > int(end):
        raise Invalid(f"rangeStart {start} lies after rangeEnd {end}")
    if gateway.version != subnet.version:
        raise Invalid(f"gateway {gateway} is of another family than {subnet}")
    return Range(subnet, start, end, gateway)


def candidates(ranges: RangeSet, last: Address | None) -> Iterator[Candidate]:
    """Every address of the set once: round robin, from the one after `last` if that lies in the set."""
    first = next((place for place, each in enumerate(ranges) if last is not None and last in each), None)
    if first is None or last is None:
        for each in ranges:
            yield from _walk(each, each.start, each.end)
        return
    begun = ranges[first]
    if last != begun.end:
        yield from _walk(begun, last + 1, begun.end)
    for each in (*ranges[first + 1 :], *ranges[:first]):
        yield from _walk(each, each.start, each.end)
    yield from _walk(begun, begun.start, last)


def _walk(each: Range, start: Address, end: Address) -> Iterator[Candidate]:
    kind: type[IPv4Address] | type[IPv6Address] = type(each.start)
    for number in range(int(start), int(end) + 1):
        if number != int(each.gateway):
            yield Candidate(kind(number), each.subnet.prefixlen, each.gateway)
