"""The texts of the registry protocol (OCI distribution-spec; RFC 9110 for its HTTP): addresses, challenges,
tokens.

Not its requests: `host.registry.client` makes those. Whatever a registry sends is judged here before it is used.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from sampan.model.errors import Invalid
from sampan.wire import strict_json
from sampan.wire.hosts_toml import DOCKER_HUB, Host
from sampan.wire.reference import DEFAULT_DOMAIN, Reference

TOKEN_LIMIT = 1 << 20  # bytes of a token server's answer
CHALLENGES_LIMIT = 4096  # characters of WWW-Authenticate that are looked at

_PARAMETER = re.compile(r"""([A-Za-z0-9!#$%&'*+.^_`|~-]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s",]+))""")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9-]*+)(?:\s+|$)(?!=)")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/(?:[0-9]{1,19}|\*)")
_ERROR_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


# --- where to ask -----------------------------------------------------------------------------------------


def manifest_url(host: Host, reference: Reference, target: str) -> str:
    """Where `host` has a manifest; `target` is a tag or a digest."""
    return f"{host.url}/{reference.path}/manifests/{target}{_namespace(host, reference)}"


def blob_url(host: Host, reference: Reference, digest: str) -> str:
    """Where `host` has a blob."""
    return f"{host.url}/{reference.path}/blobs/{digest}{_namespace(host, reference)}"


def referrers_url(host: Host, reference: Reference, digest: str, kind: str) -> str:
    """Where `host` lists the artifacts of type `kind` that refer to a manifest (distribution-spec, "Listing
    Referrers")."""
    query = urlencode({"artifactType": kind})
    namespace = _namespace(host, reference).replace("?", "&")
    return f"{host.url}/{reference.path}/referrers/{digest}?{query}{namespace}"


def referrers_tag(digest: str) -> str:
    """The tag that has the same list at registries without that request ("Referrers Tag Schema")."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


def _namespace(host: Host, reference: Reference) -> str:
    """`?ns=` tells a mirror whose images are meant, also one that is the `server` (containerd docs/hosts.md)."""
    hub = DOCKER_HUB if reference.domain == DEFAULT_DOMAIN else ""
    if host.host in (reference.domain, hub):
        return ""
    return "?" + urlencode({"ns": reference.domain})


def redact(url: str) -> str:
    """A URL fit for an error or a log: no user, no query, no fragment (signed URLs carry secrets there)."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a malformed URL"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return quote(f"{parts.scheme}://{host}{port}{parts.path}"[:300], safe=":/%[]@!$&'()*+,;=~-._")


# --- who may ask ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a WWW-Authenticate header: the scheme in lower case, and its parameters."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def challenges(headers: Sequence[str]) -> list[Challenge]:
    """The challenges of all WWW-Authenticate headers, in order; what cannot be read is passed over (RFC 9110
    11.6.1)."""
    found: list[Challenge] = []
    for header in headers:
        text = header[:CHALLENGES_LIMIT]
        position = 0
        scheme, parameters = "", dict[str, str]()
        while position < len(text):
            if match := _PARAMETER.match(text, position):
                quoted = match[2]
                value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else match[3]
                parameters.setdefault(match[1].lower(), value)
            elif match := _SCHEME.match(text, position):
                found += _challenge(scheme, parameters)
                scheme, parameters = match[1].lower(), {}
            position = match.end() if match else position + 1
        found += _challenge(scheme, parameters)
    return found


def _challenge(scheme: str, parameters: dict[str, str]) -> list[Challenge]:
    if not scheme:
        return []
    names = ("realm", "service", "scope")
    return [Challenge(scheme, **{name: parameters[name] for name in names if name in parameters})]


def token_query(challenge: Challenge, path: str) -> dict[str, str]:
    """The parameters of a token request: what the challenge asked for, or the right to pull `path`."""
    query = {"scope": challenge.scope or f"repository:{path}:pull"}
    if challenge.service:
        query["service"] = challenge.service
    return query


class _Token(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None


def token(data: bytes, what: str) -> str:
    """The bearer token in a token server's answer. Raises Invalid."""
    answer = strict_json.decode(data, _Token, what, TOKEN_LIMIT)
    found = answer.token or answer.access_token or ""
    if not _TOKEN.fullmatch(found):
        raise Invalid(f"{what} holds no usable token")
    return found


# --- answers ----------------------------------------------------------------------------------------------


def retry_after(value: str, now: float) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110 10.2.3), given the wall clock; None if it says
    nothing."""
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def range_start(content_range: str) -> int | None:
    """Where the body of a 206 answer begins (RFC 9110 14.4)."""
    match = _CONTENT_RANGE.fullmatch(content_range)
    return int(match[1]) if match else None


def error_codes(body: bytes) -> str:
    """The error codes in a registry's answer ("TOOMANYREQUESTS"), nothing else of it: the rest might echo a
    secret."""
    try:
        value = strict_json.loads(body, "error", 64 << 10)
        codes = [entry["code"] for entry in value["errors"]]
    except (Invalid, LookupError, TypeError):
        return ""
    return ", ".join(code for code in codes[:3] if isinstance(code, str) and _ERROR_CODE.fullmatch(code))
