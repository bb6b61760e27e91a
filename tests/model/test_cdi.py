"""Names of CDI devices, and which of several of one name counts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model import cdi
from sampan.model.cdi import Device, Edits, Given, Index, Source, Spec
from sampan.model.errors import Invalid, NotFound

DIRECTORIES = ["/etc/cdi", "/var/run/cdi"]


@pytest.mark.parametrize(
    "name",
    [
        "vendor.com/class=name",
        "nvidia.com/gpu=all",
        "nvidia.com/gpu=GPU-1a2b:3",
        "a/b=0",
        "k8s.gpu.nvidia.com/claim=1f0e-gpu_0.1",
        "Vendor_1/class-2.x=A:b",
    ],
)
def test_a_full_name(name: str) -> None:
    assert cdi.qualified(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gpu",
        "/dev/null",
        "vendor.com/class",
        "vendor.com/class=",
        "vendor.com=name",
        "/class=name",
        "vendor.com/class=../../x",
        "../vendor/class=x",
        "vendor.com/../x=y",
        "vendor.com/class=a/b",
        "vendor.com/class=name\n",
        " vendor.com/class=name",
        "1vendor/class=x",
        "vendor.com/1class=x",
        "vendor.com-/class=x",
        "vendor.com/class=x-",
        "vendor.com/class=é",
        "vendor.com/class=a\0",
        "v" * 254 + "/class=x",
        "vendor/" + "c" * 64 + "=x",
    ],
)
def test_what_is_no_full_name(name: str) -> None:
    assert not cdi.qualified(name)


LETTERS = "abcXYZ"
INSIDE = LETTERS + "019_-."
part = st.builds(
    lambda first, middle, last: first + middle + last,
    st.sampled_from(LETTERS),
    st.text(INSIDE, max_size=20),
    st.sampled_from(LETTERS + "7"),
)


@given(part, part, part)
def test_every_name_of_the_grammar_is_one(vendor: str, kind: str, device: str) -> None:
    assert cdi.qualified(f"{vendor}/{kind}={device}")
    assert cdi.is_kind(f"{vendor}/{kind}")
    assert cdi.is_device(device)


@given(st.text())
def test_no_name_holds_anything_but_plain_characters(name: str) -> None:
    if cdi.qualified(name):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+=[A-Za-z0-9_.:-]+", name)


@given(part, part, part, st.sampled_from("/=, \n\t\0\\'\"`$;é"), st.integers(0, 60))
def test_a_character_outside_the_grammar_spoils_a_name(
    vendor: str, kind: str, device: str, bad: str, at: int
) -> None:
    name = f"{vendor}/{kind}={device}"
    assert not cdi.qualified(name[:at] + bad + name[at:])


# --- which device counts --------------------------------------------------------------------------


def source(path: str, priority: int, *names: str, kind: str = "v.com/c") -> Source:
    devices = tuple(Device(name, container_edits=Edits(env=(f"FROM={path}/{name}",))) for name in names)
    return Source(path, priority, Spec("0.6.0", kind, devices, container_edits=Edits(env=(f"ALL={path}",))))


def made(given_: tuple[Given, ...]) -> list[str]:
    return [variable for each in given_ for variable in each.edits.env]


def test_a_files_own_edits_come_once_before_its_first_device() -> None:
    index = Index([source("/a", 0, "x", "y"), source("/b", 0, "z")])
    names = ["v.com/c=y", "v.com/c=z", "v.com/c=x"]
    assert made(index.resolve(names, DIRECTORIES)) == [
        "ALL=/a",
        "FROM=/a/y",
        "ALL=/b",
        "FROM=/b/z",
        "FROM=/a/x",
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_the_later_directory_goes_first(order: int) -> None:
    sources = [source("/etc/a", 0, "x"), source("/run/a", 1, "x")][::order]
    assert made(Index(sources).resolve(["v.com/c=x"], DIRECTORIES)) == ["ALL=/run/a", "FROM=/run/a/x"]


def test_two_files_of_one_directory_with_one_device_are_a_conflict() -> None:
    index = Index([source("/etc/a", 0, "x", "y"), source("/etc/b", 0, "x")])
    with pytest.raises(Invalid, match=r"v.com/c=x is ambiguous: /etc/a and /etc/b"):
        index.resolve(["v.com/c=x"], DIRECTORIES)
    assert made(index.resolve(["v.com/c=y"], DIRECTORIES)) == ["ALL=/etc/a", "FROM=/etc/a/y"]


def test_a_conflict_is_settled_by_a_later_directory() -> None:
    index = Index([source("/etc/a", 0, "x"), source("/etc/b", 0, "x"), source("/run/c", 1, "x")])
    assert made(index.resolve(["v.com/c=x"], DIRECTORIES)) == ["ALL=/run/c", "FROM=/run/c/x"]


def test_an_absent_device_is_told_of_with_where_and_what_else() -> None:
    index = Index([source("/etc/a", 0, "x")], ["/etc/cdi/bad.json is not valid JSON: eh"])
    with pytest.raises(NotFound) as error:
        index.resolve(["v.com/c=x", "v.com/c=z"], DIRECTORIES)
    assert str(error.value) == (
        "CDI device v.com/c=z is not in /etc/cdi, /var/run/cdi (of v.com/c there is x); "
        "/etc/cdi/bad.json is not valid JSON: eh"
    )
    with pytest.raises(NotFound, match=r"nothing is known of other\.com/c"):
        index.resolve(["other.com/c=x"], DIRECTORIES)
    with pytest.raises(NotFound, match=r"runtime\.cdi_dirs is empty"):
        Index(()).resolve(["other.com/c=x"], [])
