"""CNI configuration: which files are taken and which are refused, with what words."""

import json
from typing import Any

import pytest

from sampan.model.errors import Invalid
from sampan.wire.cni import choose, parse, wants_directory

LAB: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "lab",
    "plugins": [
        {"type": "bridge"},
        {"type": "portmap", "capabilities": {"portMappings": True, "dns": False}},
    ],
}


def conflist(**changes: object) -> bytes:
    return json.dumps({**LAB, **changes}).encode()


def test_a_list_is_read() -> None:
    read = parse(conflist())
    assert (read.name, read.version) == ("lab", "1.0.0")
    assert [plugin.type for plugin in read.plugins] == ["bridge", "portmap"]
    assert read.plugins[1].capabilities == {"portMappings"}
    assert not read.disable_check


def test_a_single_plugin_becomes_a_list_of_one() -> None:
    read = parse(b'{"cniVersion": "0.3.1", "name": "one", "type": "ptp", "mtu": 9000}')
    assert [plugin.type for plugin in read.plugins] == ["ptp"]
    assert read.plugins[0].conf["mtu"] == 9000


def test_what_is_encoded_is_read_again() -> None:
    read = parse(conflist(disableCheck="true", disableGC=True))
    again = parse(read.encode())
    assert again == read
    assert again.disable_check
    assert again.disable_gc
    assert not wants_directory(read.encode())


@pytest.mark.parametrize(
    ("version", "versions", "chosen"),
    [
        ("0.3.0", None, "0.3.0"),
        ("0.4.0", ["1.0.0", "0.3.1"], "1.0.0"),
        ("1.0.0", ["1.1.0", "2.7.0"], "1.1.0"),
        (None, ["1.0.0"], "1.0.0"),
        ("9.9.9", ["0.4.0"], "0.4.0"),
    ],
)
def test_the_highest_version_that_both_know_is_spoken(
    version: str | None, versions: list[str] | None, chosen: str
) -> None:
    root = {**LAB, "cniVersion": version}
    if versions is not None:
        root["cniVersions"] = versions
    assert parse(json.dumps({k: v for k, v in root.items() if v is not None}).encode()).version == chosen


@pytest.mark.parametrize(
    "type_",
    [
        "../../bin/sh",
        "/bin/sh",
        "a/b",
        "..",
        ".",
        ".hidden",
        "",
        "a b",
        "a\n",
        "bridge\x00",
        "bridge;id",
        "br\u00efdge",
        "x" * 200,
        None,
        7,
        ["bridge"],
    ],
)
@pytest.mark.parametrize("place", ["type", "ipam"])
def test_a_type_can_only_name_a_file_in_the_plugin_directories(type_: object, place: str) -> None:
    plugin = {"type": type_} if place == "type" else {"type": "bridge", "ipam": {"type": type_}}
    with pytest.raises(Invalid, match="type"):
        parse(conflist(plugins=[plugin]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (b"[" * 100_000, "JSON"),
        (b'{"name": "' + b"x" * (1 << 20) + b'"}', "larger"),
        (conflist(name=""), "name"),
        (conflist(name="../etc"), "name"),
        (conflist(name="a/b"), "name"),
        (conflist(name=None), "name"),
        (conflist(cniVersion="2.0.0"), "cniVersion"),
        (conflist(cniVersion=1), "cniVersion"),
        (conflist(cniVersions="1.0.0"), "cniVersions"),
        (conflist(plugins=[]), "plugins"),
        (conflist(plugins={}), "plugins"),
        (conflist(plugins=[{"type": "a"}] * 40), "plugins"),
        (conflist(plugins=["bridge"]), "object"),
        (conflist(plugins=[{"type": "a", "capabilities": ["portMappings"]}]), "capabilities"),
        (conflist(plugins=[{"type": "a", "ipam": "host-local"}]), "ipam"),
        (conflist(disableCheck="maybe"), "disableCheck"),
    ],
)
def test_an_unsound_configuration_is_refused_with_the_reason(text: bytes, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        parse(text)


def test_the_first_valid_file_by_name_counts_and_the_bad_ones_before_it_are_told() -> None:
    choice = choose({"20-b.conf": conflist(name="b"), "30-c.conflist": conflist(name="c"), "10-a.conf": b"{"})
    assert choice.conflist is not None
    assert choice.conflist.name == "b"
    assert choice.file == "20-b.conf"
    assert len(choice.problems) == 1
    assert choice.problems[0].startswith("10-a.conf: is not JSON")


def test_without_a_valid_file_every_problem_is_told() -> None:
    choice = choose({"1.conf": b"{", "2.conf": conflist(name="/")})
    assert choice.conflist is None
    assert [problem.partition(":")[0] for problem in choice.problems] == ["1.conf", "2.conf"]


def test_plugins_of_the_networks_own_directory_are_appended() -> None:
    assert wants_directory(conflist()) == "lab"
    choice = choose({"1.conflist": conflist()}, {"lab": [("lab/1.conf", b'{"type": "tuning"}')]})
    assert choice.conflist is not None
    assert [plugin.type for plugin in choice.conflist.plugins] == ["bridge", "portmap", "tuning"]


def test_a_list_without_plugins_needs_that_directory() -> None:
    bare = b'{"cniVersion": "1.1.0", "name": "lab"}'
    assert choose({"1.conflist": bare}).conflist is None
    assert choose({"1.conflist": bare}, {"lab": [("x", b'{"type": "ptp"}')]}).conflist is not None


@pytest.mark.parametrize(
    "text",
    [b"{", b'{"name": "lab", "type": "ptp"}', conflist(loadOnlyInlinedPlugins=True), conflist(name="../x")],
)
def test_no_directory_is_read_for_what_does_not_ask_for_one(text: bytes) -> None:
    assert wants_directory(text) == ""
