"""Image references and digests, by the grammar of the distribution project (docs: reference/reference.go,
names of the OCI distribution-spec). Not a resolver: nothing here knows which images exist.

Every test is a `fullmatch` over ASCII: `$` would let a trailing newline through, `\\w` other alphabets.
"""

import hashlib
import re
from dataclasses import dataclass

from sampan.model.errors import Invalid

DEFAULT_DOMAIN = "docker.io"
NAME_LIMIT = 255  # characters of domain and path together
REFERENCE_LIMIT = 1024  # characters of a whole reference; the grammar itself stays below it

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]{{2,39}}\])(?::([0-9]{{1,5}}))?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{3,64})")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in full: domain and path are always there, and a tag or a digest (or both: then the digest
    wins)."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Domain and path: "docker.io/library/busybox"."""
        return f"{self.domain}/{self.path}"

    @property
    def tagged(self) -> str:
        """The name with the tag, or "" for a reference by digest, which never stands for a tag."""
        return "" if self.digest or not self.tag else f"{self.name}:{self.tag}"

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def at(self, digest: str) -> str:
        """The name pinned to `digest`."""
        return f"{self.name}@{digest}"

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """The reference that `text` is short for: docker.io, library/ and :latest are what is left out. Raises
    Invalid."""
    if len(text) > REFERENCE_LIMIT:
        raise Invalid(f"image reference of {len(text)} characters; the limit is {REFERENCE_LIMIT}")
    if _ID.fullmatch(text):
        raise Invalid(f"image reference {text!r} is an image id, not a name")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise Invalid(
            f"image reference {text!r}: {digest!r} is no digest (sha256:<64 lower-case hex digits>)"
        )
    rest, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise Invalid(f"image reference {text!r}: {tag!r} is no tag")
    domain, path = _split_domain(rest)
    _check_name(text, domain, path)
    return Reference(domain, path, tag if tag is not None else "" if digest else "latest", digest)


def is_digest(text: str) -> bool:
    """Whether `text` is a digest that may be put in a URL or a path."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(data: bytes) -> str:
    """The sha256 digest of these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def image_id(text: str) -> str | None:
    """The image id that `text` spells out ("sha256:" may be left off), else None."""
    match = _ID.fullmatch(text)
    return f"sha256:{match[1]}" if match else None


def id_prefix(text: str) -> str | None:
    """The beginning of an image id that `text` could be, "sha256:" included, else None."""
    match = _ID_PREFIX.fullmatch(text)
    return f"sha256:{match[1]}" if match else None


def _split_tag(text: str) -> tuple[str, str | None]:
    """A colon after the last slash begins a tag; one before it, a port."""
    slash = text.rfind("/")
    colon = text.find(":", slash + 1)
    return (text, None) if colon < 0 else (text[:colon], text[colon + 1 :])


def _split_domain(text: str) -> tuple[str, str]:
    """The first component is a domain if it could not be a path or is "localhost"."""
    first, slash, rest = text.partition("/")
    if not slash or not (
        any(mark in first for mark in ".:[") or first == "localhost" or first.lower() != first
    ):
        domain, path = DEFAULT_DOMAIN, text
    else:
        domain, path = first, rest
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    return domain, path


def _check_name(text: str, domain: str, path: str) -> None:
    match = _DOMAIN.fullmatch(domain)
    if match is None or (match[1] is not None and not 0 < int(match[1]) < 65536):
        hint = "; leave the scheme out" if "://" in text else ""
        raise Invalid(f"image reference {text!r}: {domain!r} is no registry host{hint}")
    if not _PATH.fullmatch(path):
        raise Invalid(f"image reference {text!r}: {path.removeprefix('library/')!r} is no repository name")
    if len(domain) + 1 + len(path) > NAME_LIMIT:
        raise Invalid(f"image reference {text!r}: the name is longer than {NAME_LIMIT} characters")
