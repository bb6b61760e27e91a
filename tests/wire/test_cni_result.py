"""What a CNI plugin may answer."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.wire.cni import VERSIONS
from sampan.wire.cni_result import Result, addresses, convert, encode, failure, parse

GOOD = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "lab0", "mac": "92:8a:b9:d5:ab:e0"},
        {"name": "veth1", "mac": "c2:6f:09:ac:3c:84"},
        {"name": "eth0", "mac": "92:26:e7:0f:08:96", "sandbox": "/run/netns/t1"},
    ],
    "ips": [{"interface": 2, "address": "10.77.0.2/24", "gateway": "10.77.0.1"}, {"address": "fd00::2/64"}],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd01::/64", "gw": "fd00::1"}],
    "dns": {},
}


def answer(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_a_result_is_read() -> None:
    result = parse(answer(), "1.0.0")
    assert addresses(result) == ("10.77.0.2", "fd00::2")
    assert result.interfaces[2].sandbox == "/run/netns/t1"


def test_encoding_keeps_everything_but_an_empty_dns() -> None:
    kept = {key: value for key, value in GOOD.items() if key != "dns"}
    assert json.loads(encode(parse(answer(), "1.0.0"))) == kept
    named = parse(answer(dns={"nameservers": ["10.0.0.1"], "search": ["x"]}), "1.0.0")
    assert json.loads(encode(named))["dns"] == {"nameservers": ["10.0.0.1"], "search": ["x"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("spoken", VERSIONS)
def test_a_result_may_come_in_any_version_and_leaves_in_the_one_asked_for(version: str, spoken: str) -> None:
    ips = [{"version": "4", "address": "10.0.0.2/24"}] if spoken < "1" else [{"address": "10.0.0.2/24"}]
    said = json.loads(encode(parse(answer(cniVersion=spoken, ips=ips), version)))
    assert said["cniVersion"] == version
    assert said["ips"][0].get("version") == ("4" if version < "1" else None)


def test_the_fields_of_1_1_are_dropped_for_older_plugins() -> None:
    interfaces = [{"name": "eth0", "sandbox": "/x", "mtu": 1400, "pciID": "0000:01"}]
    new = parse(answer(cniVersion="1.1.0", interfaces=interfaces, ips=[]), "1.1.0")
    assert new.interfaces[0].mtu == 1400
    assert json.loads(encode(convert(new, "1.0.0")))["interfaces"] == [{"name": "eth0", "sandbox": "/x"}]


def test_addresses_of_host_interfaces_are_not_the_pods() -> None:
    ips = [{"interface": 0, "address": "10.0.0.1/24"}, {"interface": 2, "address": "10.0.0.2/24"}]
    assert addresses(parse(answer(ips=ips), "1.0.0")) == ("10.0.0.2",)


@pytest.mark.parametrize("ips", [[], [{"interface": 0, "address": "10.0.0.1/24"}]])
def test_a_result_without_an_address_for_the_pod_is_none(ips: list[object]) -> None:
    with pytest.raises(Invalid, match="no address"):
        addresses(parse(answer(ips=ips), "1.0.0"))


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"   \n",
        b"ok",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"{}{}",
        b"[" * 100_000,
        b" " * ((1 << 20) + 1),
        answer(cniVersion="0.2.0"),
        answer(cniVersion="7.0.0"),
        answer(cniVersion=1),
        answer(ips={}),
        answer(ips=[{"address": "1.2.3.4\n/24"}]),
        answer(ips=[{"address": "1.2.3.4/24\n"}]),
        answer(ips=[{"address": "1.2.3/24"}]),
        answer(ips=[{"address": "1.2.3.4/33"}]),
        answer(ips=[{"address": "fe80::1%eth0/64"}]),
        answer(ips=[{"address": ""}]),
        answer(ips=[{"gateway": "10.0.0.1"}]),
        answer(ips=[{"address": "10.0.0.2/24", "gateway": "nowhere"}]),
        answer(ips=[{"address": "10.0.0.2/24", "interface": 3}]),
        answer(ips=[{"address": "10.0.0.2/24", "interface": -1}]),
        answer(ips=[{"address": "10.0.0.2/24", "interface": "2"}]),
        answer(ips=[{"address": f"10.0.0.{i}/24"} for i in range(200)]),
        answer(routes=[{"dst": "everywhere"}]),
        answer(routes=[{"dst": "0.0.0.0/0", "gw": "10.0.0.0/8"}]),
        answer(routes=[{"dst": "10.0.0.0/8"}] * 1000),
        answer(interfaces=[{"name": "x"}] * 1000),
        answer(interfaces=[{"name": "a\nb"}]),
        answer(interfaces=[{"name": ""}]),
        answer(interfaces=[{"mac": "x"}]),
        answer(dns={"nameservers": "10.0.0.1"}),
    ],
)
def test_anything_else_is_refused(output: bytes) -> None:
    with pytest.raises(Invalid):
        parse(output, "1.0.0")


@given(st.binary(max_size=200))
def test_no_output_does_more_than_be_refused(output: bytes) -> None:
    with suppress(Invalid):
        assert isinstance(parse(output, "1.0.0"), Result)
    failure(output, output)


def test_an_error_object_says_its_code_and_words() -> None:
    said = failure(b'{"cniVersion": "1.0.0", "code": 11, "msg": "busy", "details": "later"}', b"log line")
    assert said is not None
    assert (said.code, said.text) == (11, "CNI error 11: busy; later")


def test_an_error_object_may_lie_on_stderr() -> None:
    said = failure(b"", b'{"code": 7, "msg": "bad\\nconfig"}')
    assert said is not None
    assert said.text == "CNI error 7: bad config"


@pytest.mark.parametrize("output", [b"", b"{}", b"panic: oops", b'{"code": "7"}', b"[1]"])
def test_other_words_are_no_error_object(output: bytes) -> None:
    assert failure(output, output) is None
