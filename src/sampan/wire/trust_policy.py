"""The policy file: which images may be on this node, by the names they are asked for, and whose signatures count.

    default = "reject"                              # accept or reject: what no rule is about

    [[rule]]
    prefix = "registry.example/team"                # a registry, or a path in it, written in full
    decision = "sigstore"                           # accept, reject or sigstore
    keys = ["/etc/sampan/keys/team.pub"]            # PEM; a signature by any of them is enough
    identity = "match-repository"                   # what it must be signed as; see `Identity`
    signed_prefix = "upstream.example/team"         # for copies: signed under this instead of `prefix`

Of the rules that are about a name, the one with the longest prefix decides alone. Pure: reading files and checking
signatures is done by others. Nothing here falls back to accepting: what cannot be read is an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Any

import msgspec

from sampan.model.errors import Invalid
from sampan.model.image import Signature
from sampan.wire import reference, sigstore
from sampan.wire.reference import DEFAULT_DOMAIN, Reference

FILE_LIMIT = 1 << 20  # bytes of the policy
RULE_LIMIT = 1000
KEY_LIMIT = 64 << 10  # bytes of a key file
_KEYS = frozenset({"prefix", "decision", "keys", "identity", "signed_prefix"})
_HUB_ALIASES = frozenset({"index.docker.io", "registry-1.docker.io"})
_PORT = re.compile(r"(.*):0*443")


class Decision(Enum):
    """What becomes of an image by its name."""

    ACCEPT = "accept"
    REJECT = "reject"
    SIGSTORE = "sigstore"


class Identity(Enum):
    """What the signed name must be.

    REPOSITORY: the repository that is asked for, with any tag. EXACT: what is asked for, tag and all; asked for by
    digest, the repository. ANY: nothing is asked, so that whatever the keys have signed may pass as this name.
    """

    REPOSITORY = "match-repository"
    EXACT = "match-exact"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is decided about names at or below `prefix`; "" is about every name."""

    prefix: str
    decision: Decision
    keys: tuple[str, ...] = ()
    identity: Identity = Identity.REPOSITORY
    signed_prefix: str = ""

    def __str__(self) -> str:
        return f"the rule for {self.prefix!r}" if self.prefix else "its default"


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules by their prefixes."""

    default: Rule
    rules: Mapping[str, Rule]
    source: str = "the policy"

    def rule(self, asked: Reference) -> Rule:
        """The rule that decides about this name."""
        parts = full_name(asked).split("/")
        for length in range(len(parts), 0, -1):
            found = self.rules.get("/".join(parts[:length]))
            if found is not None:
                return found
        return self.default


ACCEPT_ALL = Policy(Rule("", Decision.ACCEPT), {})


def full_name(asked: Reference) -> str:
    """The repository's name in the one form that rules are compared with: a host by another spelling is the same
    host, and must not lead to another rule."""
    return f"{_host(asked.domain)}/{asked.path}"


def _host(domain: str) -> str:
    host = domain.lower()
    port = _PORT.fullmatch(host)
    host = port[1] if port else host
    return DEFAULT_DOMAIN if host in _HUB_ALIASES else host


# --- judging a signature ----------------------------------------------------------------------------------


def check_claim(rule: Rule, asked: Reference, signature: Signature) -> None:
    """Raise Invalid unless the signature, if it is genuine, is for this digest and for the name that is asked for."""
    what = "a signature"
    claim = sigstore.claim(signature, what)
    if signature.digest not in claim.digests:
        raise Invalid(f"{what} is for {', '.join(sorted(claim.digests)[:3]) or 'no digest'}, another image")
    if rule.identity is Identity.ANY:
        return
    if not claim.reference:
        raise Invalid(
            f"{what} names no repository, as those in bundles do not, and {rule} asks for one: sign with "
            f'`--new-bundle-format=false`, or let it have identity = "any"'
        )
    signed = _parsed(claim.reference)
    wanted = _expected(rule, asked)
    if signed is None or full_name(signed) != wanted:
        raise Invalid(f"{what} is for {claim.reference[:200]!r}, not for {wanted}")
    if rule.identity is Identity.EXACT and asked.tagged and (signed.digest or signed.tag != asked.tag):
        raise Invalid(f"{what} is for {claim.reference[:200]!r}, not for tag {asked.tag!r} of it")


def _expected(rule: Rule, asked: Reference) -> str:
    name = full_name(asked)
    return rule.signed_prefix + name[len(rule.prefix) :] if rule.signed_prefix else name


def _parsed(text: str) -> Reference | None:
    """A signed name; one without a tag has none, and is not `latest`."""
    try:
        found = reference.parse(text)
    except Invalid:
        return None
    tagged = ":" in text.partition("@")[0].rpartition("/")[2]
    return found if tagged else Reference(found.domain, found.path, digest=found.digest)


# --- reading the file -------------------------------------------------------------------------------------


def parse(data: bytes, where: str) -> Policy:
    """The policy in a file. Raises Invalid saying what is wrong with it."""
    try:
        table = msgspec.toml.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"{where} is not TOML: {error}") from None
    _only(table, {"default", "rule"}, where)
    default = _decision(table.get("default"), f"{where}: default", (Decision.ACCEPT, Decision.REJECT))
    given = table.get("rule", [])
    if not isinstance(given, list) or len(given) > RULE_LIMIT:
        raise Invalid(f"{where}: rules are [[rule]] tables, at most {RULE_LIMIT}")
    rules: dict[str, Rule] = {}
    for number, each in enumerate(given, 1):
        rule = _rule(each, f"{where}: rule {number}")
        if rule.prefix in rules:
            raise Invalid(f"{where}: rule {number}: there is another rule for {rule.prefix!r}")
        rules[rule.prefix] = rule
    return Policy(Rule("", default), rules, where)


def _rule(table: object, where: str) -> Rule:
    if not isinstance(table, dict):
        raise Invalid(f"{where} is no table: write [[rule]]")
    _only(table, _KEYS, where)
    decision = _decision(table.get("decision"), f"{where}: decision", tuple(Decision))
    prefix = _prefix(table.get("prefix"), f"{where}: prefix")
    if decision is not Decision.SIGSTORE:
        if len(table) > 2:
            raise Invalid(f"{where}: keys, identity and signed_prefix are for decision sigstore alone")
        return Rule(prefix, decision)
    return Rule(
        prefix,
        decision,
        _key_files(table.get("keys"), f"{where}: keys"),
        _identity(table.get("identity", Identity.REPOSITORY.value), f"{where}: identity"),
        _prefix(table["signed_prefix"], f"{where}: signed_prefix") if "signed_prefix" in table else "",
    )


def _only(table: Mapping[str, object], known: "set[str] | frozenset[str]", where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise Invalid(f"{where}: unknown key {unknown[0]!r}; known here: {', '.join(sorted(known))}")


def _decision(given: object, where: str, allowed: tuple[Decision, ...]) -> Decision:
    for each in allowed:
        if given == each.value:
            return each
    raise Invalid(f"{where} must be one of {', '.join(each.value for each in allowed)}")


def _identity(given: object, where: str) -> Identity:
    for each in Identity:
        if given == each.value:
            return each
    raise Invalid(f"{where} must be one of {', '.join(each.value for each in Identity)}")


def _prefix(given: object, where: str) -> str:
    """A registry, or a registry and the beginning of a path, as `full_name` has them.

    A single name on docker.io is an image of `library` to everybody who asks for one, and a namespace here: it must end
    in a slash to say so, or such a rule would be about nothing.
    """
    if not isinstance(given, str) or not given:
        raise Invalid(f"{where} must be a registry or a path in one, such as registry.example/team")
    host, slash, path = given.partition("/")
    if not any(mark in host for mark in ".:") and host != "localhost":
        raise Invalid(f"{where} {given!r} must begin with a registry: docker.io/library/busybox, not busybox")
    if _host(host) == DEFAULT_DOMAIN and path and "/" not in path and path != "library":
        raise Invalid(
            f"{where} {given!r} is no image's name in full: write {DEFAULT_DOMAIN}/library/{path}, or "
            f"{DEFAULT_DOMAIN}/{path}/ for the namespace"
        )
    if _host(host) == DEFAULT_DOMAIN and path.count("/") == 1:
        path = path.removesuffix("/")
    try:
        if ":" in path or "@" in path:
            raise Invalid("a tag or a digest")
        named = reference.parse(f"{host}/any/{path if slash else 'any'}")
    except Invalid:
        raise Invalid(
            f"{where} {given!r} must be a registry or a path in one, without tag or digest"
        ) from None
    return _host(named.domain) + slash + path


def _key_files(given: object, where: str) -> tuple[str, ...]:
    if not isinstance(given, list) or not given or not all(isinstance(each, str) for each in given):
        raise Invalid(f"{where} must be a list of files with public keys")
    for each in given:
        if not each.startswith("/") or "\0" in each or ".." in PurePosixPath(each).parts:
            raise Invalid(f"{where}: {each!r} must be an absolute path without ..")
    return tuple(given)
