"""Signatures of images as cosign attaches them in a registry, both forms (cosign: specs/SIGNATURE_SPEC.md and
specs/BUNDLE_SPEC.md; sigstore protobuf-specs: sigstore_bundle.proto; DSSE: protocol.md).

simple  a tag beside the image, `sha256-HEX.sig`, holds a manifest whose layers are small JSON payloads; each has its
        signature as an annotation. The payload says digest and repository.
dsse    what refers to the image (OCI referrers) holds a bundle: an envelope around an in-toto statement. The
        statement says the digest and, as cosign writes it, no repository.

Not the judgement of keys, which is `wire.trust_policy`'s and a library's. All of it is a stranger's: what is read here
is true only when a key that counts has signed `message`.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sampan.model.errors import Invalid
from sampan.model.image import Signature
from sampan.wire import strict_json
from sampan.wire.manifest import Descriptor
from sampan.wire.reference import is_digest

COUNT_LIMIT = 32  # signatures of one image, in each form
PAYLOAD_LIMIT = 64 << 10  # bytes of what is signed
BUNDLE_LIMIT = 256 << 10  # bytes of a bundle: its payload in base64, and proofs that are passed over
SIGNATURE_LIMIT = 1024  # bytes; what an RSA key of 8192 bits makes

SIMPLE, DSSE = "simple", "dsse"
SIMPLE_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_BUNDLE_TYPES = frozenset({BUNDLE_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3"})
_ANNOTATION = "dev.cosignproject.cosign/signature"
_PREDICATE_ANNOTATION = "dev.sigstore.bundle.predicateType"
_CLAIM_TYPE = "cosign container image signature"
_STATEMENT_MEDIA = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
# What cosign states by signing. Others (provenance, bills of materials) are made by the same keys and say
# something else: that an image was scanned does not mean that it may run.
_SIGNED = "https://sigstore.dev/cosign/sign/v1"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a signature says: the digests it is for, and as what the image was signed ("": it does not say)."""

    digests: frozenset[str]
    reference: str = ""


# --- where they are ---------------------------------------------------------------------------------------


def tag(digest: str) -> str:
    """The tag of an image's signatures in the simple form. Raises Invalid for what is no sha256 digest."""
    if not digest.startswith("sha256:") or not is_digest(digest):
        raise Invalid(f"{digest[:80]!r} is no sha256 digest, and only those are signed")
    return digest.replace(":", "-") + ".sig"


class _Attachment(msgspec.Struct):
    layers: tuple[Descriptor, ...]


def attached(data: bytes, what: str) -> tuple[tuple[Descriptor, bytes], ...]:
    """The payloads that a `.sig` manifest names, each with its signature; others are passed over. Raises Invalid."""
    found: list[tuple[Descriptor, bytes]] = []
    for layer in strict_json.decode(data, _Attachment, what).layers:
        text = (layer.annotations or {}).get(_ANNOTATION, "")
        if layer.media_type != SIMPLE_TYPE or not text or len(found) == COUNT_LIMIT:
            continue
        if is_digest(layer.digest) and layer.size <= PAYLOAD_LIMIT:
            found.append((layer, _bytes(text, what)))
    return tuple(found)


class _Referrers(msgspec.Struct):
    manifests: tuple[Descriptor, ...] = ()


def bundles(data: bytes, what: str) -> tuple[str, ...]:
    """The digests of the manifests, in an index of referrers, that should hold signatures. Raises Invalid."""
    entries = strict_json.decode(data, _Referrers, what).manifests
    found = [entry.digest for entry in entries if is_digest(entry.digest) and _is_signature(entry)]
    return tuple(found[:COUNT_LIMIT])


def _is_signature(entry: Descriptor) -> bool:
    """An entry need not say what it states; one that says it states something else is none."""
    states = (entry.annotations or {}).get(_PREDICATE_ANNOTATION, _SIGNED)
    return entry.artifact_type in _BUNDLE_TYPES and states == _SIGNED


def bundle_blob(data: bytes, what: str) -> Descriptor:
    """The bundle in a referring manifest. Raises Invalid."""
    layers = strict_json.decode(data, _Attachment, what).layers
    if not layers or layers[0].media_type not in _BUNDLE_TYPES or not is_digest(layers[0].digest):
        raise Invalid(f"{what} holds no bundle of signatures")
    return layers[0]


# --- bundles ----------------------------------------------------------------------------------------------


class _EnvelopeSignature(msgspec.Struct):
    sig: str


class _Envelope(msgspec.Struct, rename="camel"):
    payload: str
    payload_type: str
    signatures: tuple[_EnvelopeSignature, ...]


class _Bundle(msgspec.Struct, rename="camel"):
    media_type: str
    dsse_envelope: _Envelope | None = None


def from_bundle(data: bytes, digest: str, what: str) -> Signature:
    """The signature in a bundle that was found for `digest`. Raises Invalid for bundles of another kind.

    The material for keyless verification in it (certificates, log entries, time stamps) is passed over.
    """
    bundle = strict_json.decode(data, _Bundle, what, BUNDLE_LIMIT)
    envelope = bundle.dsse_envelope
    if bundle.media_type not in _BUNDLE_TYPES or envelope is None:
        raise Invalid(f"{what} is no bundle with an envelope but {bundle.media_type[:80]!r}")
    if envelope.payload_type != _STATEMENT_MEDIA:
        raise Invalid(f"{what} signs {envelope.payload_type[:80]!r}, no statement")
    if len(envelope.signatures) != 1:
        raise Invalid(f"{what} has {len(envelope.signatures)} signatures; a bundle has one")
    payload, signature = _bytes(envelope.payload, what), _bytes(envelope.signatures[0].sig, what)
    return Signature(digest=digest, form=DSSE, payload=payload, signature=signature)


# --- what is signed, and what it says -----------------------------------------------------------------------


def message(signature: Signature) -> bytes:
    """The bytes that the key has signed."""
    if signature.form == SIMPLE:
        return signature.payload
    kind = _STATEMENT_MEDIA.encode()
    return b" ".join(
        (b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(signature.payload), signature.payload)
    )  # DSSE's PAE


def claim(signature: Signature, what: str) -> Claim:
    """What the payload says. Raises Invalid where it could be read in another way, or says something else than that
    an image is signed."""
    if len(signature.payload) > PAYLOAD_LIMIT or len(signature.signature) > SIGNATURE_LIMIT:
        raise Invalid(f"{what} is larger than any signature that is looked at")
    match signature.form:
        case "simple":
            return _simple(signature.payload, what)
        case "dsse":
            return _statement(signature.payload, what)
    raise Invalid(f"{what} is of a form {signature.form[:20]!r} that this version of sampan does not know")


class _Image(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    docker_manifest_digest: str


class _Identity(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    docker_reference: str


class _Critical(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    image: _Image
    identity: _Identity


class _Payload(msgspec.Struct, forbid_unknown_fields=True):
    critical: _Critical
    optional: dict[str, Any] | None = None


def _simple(payload: bytes, what: str) -> Claim:
    """Nothing critical may be passed over: a field that we do not know may be what makes it another statement."""
    critical = strict_json.decode(payload, _Payload, what, PAYLOAD_LIMIT).critical
    if critical.type != _CLAIM_TYPE:
        raise Invalid(f"{what} is of type {critical.type[:80]!r}, no image's signature")
    digest = critical.image.docker_manifest_digest
    if not is_digest(digest):
        raise Invalid(f"{what} is for {digest[:80]!r}, which is no digest")
    return Claim(frozenset((digest,)), critical.identity.docker_reference)


class _Subject(msgspec.Struct):
    digest: dict[str, str]


class _Statement(msgspec.Struct, rename={"kind": "_type", "predicate_type": "predicateType"}):
    kind: str
    predicate_type: str
    subject: tuple[_Subject, ...]


def _statement(payload: bytes, what: str) -> Claim:
    statement = strict_json.decode(payload, _Statement, what, PAYLOAD_LIMIT)
    if statement.kind != _STATEMENT_TYPE:
        raise Invalid(f"{what} is a statement of type {statement.kind[:80]!r}, which is not known")
    if statement.predicate_type != _SIGNED:
        raise Invalid(f"{what} states {statement.predicate_type[:80]!r}, not that the image is signed")
    return Claim(frozenset(_digests(statement.subject)))


def _digests(subjects: Sequence[_Subject]) -> list[str]:
    found = [f"sha256:{subject.digest.get('sha256', '')}" for subject in subjects]
    return [digest for digest in found if is_digest(digest)]


def _bytes(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(f"{what} holds a value that is not in base64") from None
