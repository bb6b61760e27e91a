"""Image references: what they are short for, and what is none."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.wire import reference
from sampan.wire.reference import Reference

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"
LONG = f"sha512:{HEX}{HEX}"


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("docker.io/library/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("a/b", "docker.io/a/b:latest"),
        ("a/b/c", "docker.io/a/b/c:latest"),
        ("a/b:v1", "docker.io/a/b:v1"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("localhost:5000/a:v", "localhost:5000/a:v"),
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
        ("registry.k8s.io/a/b/c/d", "registry.k8s.io/a/b/c/d:latest"),
        ("gcr.io/a-b/c_d/e__f/g.h/i---j", "gcr.io/a-b/c_d/e__f/g.h/i---j:latest"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
        ("10.0.0.1/a", "10.0.0.1/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("[2001:db8::1]/a", "[2001:db8::1]/a:latest"),
        ("Upper/a", "Upper/a:latest"),
        ("UPPER.example/a", "UPPER.example/a:latest"),
        ("host:1/a", "host:1/a:latest"),
        ("host:65535/a", "host:65535/a:latest"),
        ("a.b.c-d.example:80/x", "a.b.c-d.example:80/x:latest"),
        ("busybox:_", "docker.io/library/busybox:_"),
        ("busybox:A.b-c_9", "docker.io/library/busybox:A.b-c_9"),
        ("busybox:" + "t" * 128, "docker.io/library/busybox:" + "t" * 128),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox@{LONG}", f"docker.io/library/busybox@{LONG}"),
        (f"busybox:v1@{DIGEST}", f"docker.io/library/busybox:v1@{DIGEST}"),
        (f"host:5000/a:v1@{DIGEST}", f"host:5000/a:v1@{DIGEST}"),
        ("deadbeef", "docker.io/library/deadbeef:latest"),
        (HEX[:63], f"docker.io/library/{HEX[:63]}:latest"),
        (f"{HEX}0", f"docker.io/library/{HEX}0:latest"),
        (f"a/{HEX}", f"docker.io/a/{HEX}:latest"),
        (f"{HEX}:v1", f"docker.io/library/{HEX}:v1"),
        ("sha256:abc", "docker.io/library/sha256:abc"),
        ("0/0", "docker.io/0/0:latest"),
        ("a--b", "docker.io/library/a--b:latest"),
        ("x" * 200, f"docker.io/library/{'x' * 200}:latest"),
    ],
)
def test_a_short_name_stands_for_a_full_one(text: str, full: str) -> None:
    assert str(reference.parse(text)) == full
    assert str(reference.parse(full)) == full


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "/", ":", "@", ".", "..", "-", "_"),
        *("a/", "/a", "a//b", "a/b/", "//", "a:", "a@", ":v1", "@" + DIGEST),
        *("busybox\n", "busybox\r", "\nbusybox", "busybox "),
        *(" busybox", "busy box", "busybox\0", "busybox\t", "a\u2028"),
        *("busybox:v1\n", "busybox:v 1", "busybox:v1:v2"),
        *("busybox:-v", "busybox:.v", "busybox:v/1", "busybox:" + "t" * 129),
        *("busybox:v\u00e9", "b\u00fcsybox", "busybox:\u0661"),
        *("\u0662/a", "bu\u017fybox", "\uff41/b", "busybox:\uff11"),
        *("Busybox", "a/B", "docker.io/A", "a_/b", "_a", "a._b"),
        *("a..b", "a___b", "a.-b", "-a/b", "a-/b", ".a/b", "a./b"),
        *("a/../b", "../a", "./a", "a/./b", "a\\b", "a%2fb", "a?b"),
        *("a#b", "a+b", "a~b", "a*b", "a&b=c", "a;b", "a'b", 'a"b'),
        *("http://a/b", "https://docker.io/a", "docker://a"),
        *("//a/b", "user@host/a", "user:pw@host/a", "a@b@" + DIGEST),
        *("host:/a", "host:0/a", "host:65536/a", "host:99999/x"),
        *("host:123456/a", "host:1a/a", "host:-1/a", "host:+1/a", "host: 1/a"),
        *("-host.x/a", "host-.x/a", "ho_st.x/a", "a..b.x/a", ".x.y/a"),
        *("x.y./a", "[::1/a", "::1/a", "[::g]/a", "[]/a", "[::1]x/a"),
        *(HEX, DIGEST, f"{DIGEST}:v", f"{HEX}@{HEX}"),
        *(f"a@{HEX}", f"a@{DIGEST}0", f"a@{DIGEST[:-1]}", f"a@{DIGEST.upper()}"),
        *("a@md5:" + "0" * 32, "a@sha256:", "a@sha256:../../x"),
        *(f"a@SHA256:{HEX}", f"a@sha512:{HEX}", f"a@{DIGEST}\n", f"a@ {DIGEST}"),
        *("a@sha256:" + "g" * 64, "a@sha256+b64u:" + HEX, f"a@{DIGEST}:v1"),
        *(f"a:@{DIGEST}", "a:v@", f"a@{DIGEST}@{DIGEST}"),
        *("x" * 240, "a" * 2000, "h.x/" + "a/" * 200 + "b"),
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        reference.parse(text)


def test_a_digest_wins_over_a_tag_which_then_stands_for_nothing() -> None:
    both = reference.parse(f"busybox:v1@{DIGEST}")
    assert both.target == DIGEST
    assert both.tagged == ""
    assert both.at(DIGEST) == f"docker.io/library/busybox@{DIGEST}"
    assert reference.parse("busybox").tagged == "docker.io/library/busybox:latest"
    assert reference.parse("busybox").target == "latest"


@pytest.mark.parametrize(
    ("text", "id", "prefix"),
    [
        (HEX, DIGEST, DIGEST),
        (DIGEST, DIGEST, DIGEST),
        ("dead", None, "sha256:dead"),
        ("sha256:dead", None, "sha256:dead"),
        ("de", None, None),
        ("DEAD", None, None),
        ("dead\n", None, None),
        ("deadx", None, None),
        (HEX + "0", None, None),
        ("sha512:dead", None, None),
        ("\u0661\u0661\u0661", None, None),
    ],
)
def test_ids_and_their_prefixes(text: str, id: str | None, prefix: str | None) -> None:
    assert reference.image_id(text) == id
    assert reference.id_prefix(text) == prefix


@given(st.text(alphabet=string.printable + "é\u2028\0", max_size=80))
def test_whatever_is_taken_is_safe_in_a_url_and_stays_what_it_is(text: str) -> None:
    try:
        found = reference.parse(text)
    except Invalid:
        return
    assert isinstance(found, Reference)
    assert set(str(found)) <= set(string.ascii_letters + string.digits + "._-/:@[]")
    assert ".." not in found.path
    assert reference.parse(str(found)) == found


@pytest.mark.parametrize("text", ["http://127.0.0.1:5000/x", "docker://busybox"])
def test_a_scheme_is_to_be_left_out(text: str) -> None:
    with pytest.raises(Invalid, match=r"is no registry host; leave the scheme out$"):
        reference.parse(text)


def test_what_is_no_host_for_another_reason_has_no_such_hint() -> None:
    with pytest.raises(Invalid, match=r"is no registry host$"):
        reference.parse("a_b.example/x")
