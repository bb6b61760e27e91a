"""The policy file: which rule is about a name, and what a signature must be for."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from sampan.model.errors import Invalid
from sampan.model.image import Signature
from sampan.wire import reference, trust_policy
from sampan.wire.trust_policy import Decision, Identity, Rule
from tests import signing

DOCS = Path(__file__).parents[2] / "docs/trust.md"
DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
TEAM = """
default = "reject"
[[rule]]
prefix = "registry.example/team"
decision = "sigstore"
keys = ["/keys/one.pub", "/keys/two.pub"]
identity = "match-exact"
signed_prefix = "upstream.example/x"
"""


def policy(*rules: tuple[str, str], default: str = "reject") -> trust_policy.Policy:
    lines = [f'default = "{default}"']
    for prefix, decision in rules:
        lines += ["[[rule]]", f'prefix = "{prefix}"', f'decision = "{decision}"']
        lines += ['keys = ["/k"]'] if decision == "sigstore" else []
    return trust_policy.parse("\n".join(lines).encode(), "p")


# --- which rule -------------------------------------------------------------------------------------------

RULES = policy(
    ("registry.example", "accept"),
    ("registry.example/team", "sigstore"),
    ("registry.example/team/open", "accept"),
    ("registry.example:5000", "accept"),
    ("docker.io/library", "accept"),
    ("docker.io/library/busybox", "sigstore"),
    ("localhost", "accept"),
)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("registry.example/app", "registry.example"),
        ("registry.example/team/app:v1", "registry.example/team"),
        ("registry.example/team", "registry.example/team"),
        ("registry.example/teamster/app", "registry.example"),
        ("registry.example/team/open", "registry.example/team/open"),
        ("registry.example/team/open/deep/er", "registry.example/team/open"),
        ("registry.example/team/opened", "registry.example/team"),
        ("registry.example:5000/team/app", "registry.example:5000"),
        ("registry.example:5001/team/app", ""),
        ("a.registry.example/team/app", ""),
        ("registry.example.org/team/app", ""),
        ("busybox", "docker.io/library/busybox"),
        (f"docker.io/busybox@{DIGEST}", "docker.io/library/busybox"),
        ("alpine", "docker.io/library"),
        ("other/busybox", ""),
        ("localhost/box", "localhost"),
        # another spelling of the same host leads to the same rule
        ("REGISTRY.example/team/app", "registry.example/team"),
        ("registry.example:443/team/app", "registry.example/team"),
        ("registry.example:0443/team/app", "registry.example/team"),
        ("Registry.Example:443/team/app", "registry.example/team"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox"),
        ("INDEX.docker.IO/library/busybox", "docker.io/library/busybox"),
        ("registry-1.docker.io/library/busybox", "docker.io/library/busybox"),
        ("Docker.io:443/library/busybox", "docker.io/library/busybox"),
    ],
)
def test_the_longest_prefix_by_components_decides(name: str, prefix: str) -> None:
    assert RULES.rule(reference.parse(name)).prefix == prefix


def test_what_no_rule_is_about_is_decided_by_the_default() -> None:
    asked = reference.parse("elsewhere.example/x")
    assert policy().rule(asked).decision is Decision.REJECT
    assert policy(default="accept").rule(asked).decision is Decision.ACCEPT
    assert trust_policy.ACCEPT_ALL.rule(asked).decision is Decision.ACCEPT


def test_prefixes_are_kept_in_the_form_that_names_are_compared_in() -> None:
    assert list(policy(("INDEX.docker.io/library/x", "accept"), ("R.example:443", "accept")).rules) == [
        *("docker.io/library/x", "r.example"),
    ]


@pytest.mark.parametrize("prefix", ["docker.io/team/", "index.docker.io/team/"])
def test_a_namespace_of_docker_hub_ends_in_a_slash_and_is_about_what_is_in_it(prefix: str) -> None:
    found = policy((prefix, "accept"), ("docker.io/library/", "accept"))
    assert list(found.rules) == ["docker.io/team", "docker.io/library"]
    for name, by in (("team/app", "docker.io/team"), ("teams/app", ""), ("team", "docker.io/library")):
        assert found.rule(reference.parse(name)).prefix == by


# --- the file ---------------------------------------------------------------------------------------------


def test_a_rule_has_everything_that_the_file_says() -> None:
    found = trust_policy.parse(TEAM.encode(), "p").rules["registry.example/team"]
    keys = ("/keys/one.pub", "/keys/two.pub")
    assert found == Rule(
        "registry.example/team", Decision.SIGSTORE, keys, Identity.EXACT, "upstream.example/x"
    )


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (TEAM, "", "default must be one of"),
        (TEAM, "= 1", "not TOML"),
        (TEAM, 'default = "accept"\ndefault = "reject"', "not TOML"),
        (TEAM, 'default = "accept"\nrules = []', "unknown key 'rules'"),
        (TEAM, 'default = "accept"\nrule = 1', r"\[\[rule\]\] tables"),
        (TEAM, 'default = "accept"\nrule = [1]', "rule 1 is no table"),
        ('default = "reject"', 'default = "sigstore"', "default must be one of accept, reject$"),
        ('default = "reject"', "default = false", "default must be one of"),
        ('decision = "sigstore"', 'decision = "Sigstore"', "rule 1: decision must be one of"),
        ('decision = "sigstore"', "", "rule 1: decision must be one of"),
        ('decision = "sigstore"', 'decision = "accept"', "are for decision sigstore alone"),
        ('prefix = "registry.example/team"', "", "rule 1: prefix must be a registry"),
        ('"registry.example/team"', '""', "rule 1: prefix must be a registry"),
        ('"registry.example/team"', "1", "rule 1: prefix must be a registry"),
        ('"registry.example/team"', '"busybox"', "must begin with a registry"),
        ('"registry.example/team"', '"library/busybox"', "must begin with a registry"),
        ('"registry.example/team"', '"registry.example/team:v1"', "without tag or digest"),
        ('"registry.example/team"', f'"registry.example/team@{DIGEST}"', "without tag or digest"),
        ('"registry.example/team"', '"registry.example/"', "without tag or digest"),
        ('"registry.example/team"', '"registry.example/Team"', "without tag or digest"),
        ('"registry.example/team"', '"registry.example/team/"', "without tag or digest"),
        ('"registry.example/team"', '"docker.io/a/b/"', "without tag or digest"),
        ('"registry.example/team"', '"docker.io/"', "without tag or digest"),
        ('"registry.example/team"', '"docker.io//"', "without tag or digest"),
        ('"registry.example/team"', '"docker.io/box"', "write docker.io/library/box, or docker.io/box/ for"),
        (
            '"registry.example/team"',
            '"Index.docker.io:443/box"',
            "write docker.io/library/box, or docker.io/box/",
        ),
        ('"upstream.example/x"', '"docker.io/box"', "signed_prefix .* docker.io/box/ for the namespace"),
        ('"registry.example/team"', '"registry.example/*"', "without tag or digest"),
        ('"registry.example/team"', '"*.example"', "without tag or digest"),
        ('"registry.example/team"', '"https://registry.example/team"', "registry"),
        ('keys = ["/keys/one.pub", "/keys/two.pub"]', "", "keys must be a list"),
        ('keys = ["/keys/one.pub", "/keys/two.pub"]', "keys = []", "keys must be a list"),
        ('["/keys/one.pub", "/keys/two.pub"]', '"/keys/one.pub"', "keys must be a list"),
        ("/keys/one.pub", "one.pub", "absolute path"),
        ("/keys/one.pub", "/keys/../one.pub", "absolute path"),
        ("match-exact", "exact", "identity must be one of match-repository, match-exact, any"),
        ("signed_prefix", "signedPrefix", "unknown key 'signedPrefix'"),
        ('"upstream.example/x"', '"upstream"', "signed_prefix 'upstream' must begin with a registry"),
        ('"upstream.example/x"', '""', "signed_prefix must be a registry"),
    ],
)
def test_a_file_that_is_not_understood_is_refused_whole(old: str, new: str, why: str) -> None:
    assert old in TEAM
    with pytest.raises(Invalid, match=why):
        trust_policy.parse(TEAM.replace(old, new, 1).encode(), "p")


@pytest.mark.parametrize("data", [b"\xff", b"default = 'accept'\n\0", b"[" * 5000])
def test_bytes_that_are_no_toml_are_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        trust_policy.parse(data, "p")


def test_the_manuals_example_is_a_policy() -> None:
    after = DOCS.read_text().partition("policy.toml`:\n")[2]
    example = re.search(r"(?: {4}.*\n|\n)+", after)
    assert example
    found = trust_policy.parse(textwrap.dedent(example[0]).encode(), "p")
    assert found.rules["registry.example/team"].keys == ("/etc/sampan/keys/team.pub",)
    assert found.default.decision is Decision.REJECT


def test_two_rules_for_one_prefix_are_refused_in_any_spelling() -> None:
    with pytest.raises(Invalid, match="another rule for"):
        policy(("registry.example", "accept"), ("Registry.example:443", "reject"))


# --- what a signature must be for -------------------------------------------------------------------------


def simple(name: str, digest: str = DIGEST, of: str = DIGEST) -> Signature:
    payload = signing.payload(digest, name)
    return Signature(digest=of, form="simple", payload=payload, signature=b"")


def dsse(digest: str = DIGEST) -> Signature:
    return Signature(digest=DIGEST, form="dsse", payload=signing.statement(digest), signature=b"")


def rule(identity: Identity = Identity.REPOSITORY, **more: Any) -> Rule:
    return Rule("registry.example/team", Decision.SIGSTORE, ("/k",), identity, **more)


REPOSITORY, EXACT, ANY = rule(), rule(Identity.EXACT), rule(Identity.ANY)
COPY = rule(signed_prefix="upstream.example/x")
APP = "registry.example/team/app"


@pytest.mark.parametrize(
    ("by", "asked", "signed"),
    [
        (REPOSITORY, APP, APP),
        (REPOSITORY, f"{APP}:v1", APP),
        (REPOSITORY, f"{APP}:v1", f"{APP}:v2"),
        (REPOSITORY, f"{APP}@{DIGEST}", f"{APP}:v2"),
        (REPOSITORY, f"{APP}:v1", f"{APP}@{DIGEST}"),
        (REPOSITORY, "docker.io/library/busybox", "index.docker.io/library/busybox"),
        (REPOSITORY, f"Registry.example:443/{APP.partition('/')[2]}", APP),
        (EXACT, f"{APP}:v1", f"{APP}:v1"),
        (EXACT, APP, f"{APP}:latest"),
        (EXACT, f"{APP}@{DIGEST}", f"{APP}:v2"),
        (ANY, APP, "elsewhere.example/y"),
        (ANY, APP, ""),
        (COPY, f"{APP}:v1", "upstream.example/x/app"),
    ],
)
def test_a_signature_is_for_the_name_that_is_asked_for(by: Rule, asked: str, signed: str) -> None:
    trust_policy.check_claim(by, reference.parse(asked), simple(signed))


@pytest.mark.parametrize(
    ("by", "asked", "signed", "why"),
    [
        (REPOSITORY, APP, f"{APP}2", "not for registry.example/team/app"),
        (REPOSITORY, APP, "registry.example/team/other", "not for"),
        (REPOSITORY, APP, "registry.example:5000/team/app", "not for"),
        (REPOSITORY, APP, "team/app", "not for"),
        (REPOSITORY, APP, "app", "not for"),
        (REPOSITORY, APP, "", "names no repository"),
        (REPOSITORY, APP, "UPPER CASE", "not for"),
        (REPOSITORY, APP, f"{APP}:v1\n", "not for"),
        (REPOSITORY, APP, "a" * 64, "not for"),
        (EXACT, f"{APP}:v1", f"{APP}:v2", "not for tag 'v1'"),
        (EXACT, f"{APP}:v1", APP, "not for tag 'v1'"),
        (EXACT, APP, APP, "not for tag 'latest'"),
        (EXACT, f"{APP}:v1", f"{APP}:v1@{DIGEST}", "not for tag 'v1'"),
        (EXACT, f"{APP}@{DIGEST}", f"{APP}2:v1", "not for"),
        (COPY, APP, APP, "not for upstream.example/x/app"),
        (COPY, APP, "upstream.example/x/other", "not for"),
    ],
)
def test_a_signature_for_another_name_does_not_count(by: Rule, asked: str, signed: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        trust_policy.check_claim(by, reference.parse(asked), simple(signed))


@pytest.mark.parametrize("by", [REPOSITORY, EXACT, ANY, COPY])
def test_a_signature_of_another_image_counts_under_no_rule(by: Rule) -> None:
    for replayed in (simple(APP, OTHER), simple(APP, DIGEST, of=OTHER), dsse(OTHER)):
        with pytest.raises(Invalid, match="another image"):
            trust_policy.check_claim(by, reference.parse(APP), replayed)


def test_a_bundle_counts_only_where_no_name_is_asked_for() -> None:
    trust_policy.check_claim(ANY, reference.parse(APP), dsse())
    for by in (REPOSITORY, EXACT, COPY):
        with pytest.raises(Invalid, match=r'names no repository.*identity = "any"'):
            trust_policy.check_claim(by, reference.parse(APP), dsse())
