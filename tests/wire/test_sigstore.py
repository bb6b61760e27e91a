"""Signatures as a registry holds them: what is read of them, and what is refused."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.model.image import Signature
from sampan.wire import sigstore
from tests import images, signing
from tests.signing import changed

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
NAME = "registry.example/team/app"
KEY = signing.Key()
PAYLOAD = signing.payload(DIGEST, NAME)
STATEMENT = signing.statement(DIGEST)
BUNDLE = signing.bundle(KEY, STATEMENT)
SIG = signing.simple(DIGEST, [(PAYLOAD, b"first"), (PAYLOAD, b"second")])


def simple(payload: bytes) -> Signature:
    return Signature(digest=DIGEST, form="simple", payload=payload, signature=b"s")


def dsse(payload: bytes) -> Signature:
    return Signature(digest=DIGEST, form="dsse", payload=payload, signature=b"s")


# --- where they are ---------------------------------------------------------------------------------------


def test_the_signatures_of_an_image_have_a_tag_made_of_its_digest() -> None:
    assert sigstore.tag(DIGEST) == f"sha256-{'a' * 64}.sig"


@pytest.mark.parametrize("digest", ["", "latest", "sha256:a", "sha512:" + "a" * 128, DIGEST + "\n"])
def test_only_sha256_digests_have_one(digest: str) -> None:
    with pytest.raises(Invalid, match="no sha256 digest"):
        sigstore.tag(digest)


def test_each_payload_comes_with_its_own_signature() -> None:
    found = sigstore.attached(SIG.manifests[0][1], "it")
    assert [signature for _, signature in found] == [b"first", b"second"]
    assert {blob.digest for blob, _ in found} == {images.sha256(PAYLOAD)}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("layers.0.mediaType", images.LAYER),
        ("layers.0.annotations", ...),
        ("layers.0.annotations", {}),
        ("layers.0.digest", "sha256:x"),
        ("layers.0.size", sigstore.PAYLOAD_LIMIT + 1),
    ],
)
def test_a_layer_that_is_no_signature_is_passed_over(path: str, value: Any) -> None:
    found = sigstore.attached(changed(SIG.manifests[0][1], path, value), "it")
    assert [signature for _, signature in found] == [b"second"]


def test_no_more_signatures_are_looked_at_than_the_limit() -> None:
    many = signing.simple(DIGEST, [(PAYLOAD, b"%d" % number) for number in range(100)])
    assert len(sigstore.attached(many.manifests[0][1], "it")) == sigstore.COUNT_LIMIT
    bundles = [signing.bundle(KEY, STATEMENT, extra=number) for number in range(40)]
    index = images.referrers([data for _, data in signing.bundled(DIGEST, *bundles).manifests])
    assert len(sigstore.bundles(index, "it")) == sigstore.COUNT_LIMIT


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"null", b"{}", b'{"layers": 1}', b'{"layers": [1]}', b'{"layers": [], "layers": []}'),
        changed(SIG.manifests[0][1], "layers.0.annotations", {signing.SIMPLE: 1}),
        changed(SIG.manifests[0][1], "layers.0.annotations", {"dev.cosignproject.cosign/signature": "?"}),
        changed(SIG.manifests[0][1], "layers.0.size", -1),
    ],
)
def test_a_malformed_manifest_of_signatures_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        sigstore.attached(data, "it")


def test_of_what_refers_to_an_image_signatures_are_told_from_the_rest() -> None:
    signed = signing.bundled(DIGEST, BUNDLE).manifests[0][1]
    silent = changed(signed, "annotations", {})
    scanned = signing.bundled(
        DIGEST, BUNDLE, annotations={"dev.sigstore.bundle.predicateType": "https://slsa.dev/provenance/v1"}
    )
    other = changed(signed, "artifactType", "application/spdx+json")
    index = images.referrers([other, signed, scanned.manifests[0][1], silent])
    assert sigstore.bundles(index, "it") == (images.sha256(signed), images.sha256(silent))
    assert sigstore.bundles(b'{"manifests": []}', "it") == ()


def test_the_bundle_is_the_first_layer_of_what_refers() -> None:
    manifest = signing.bundled(DIGEST, BUNDLE).manifests[0][1]
    assert sigstore.bundle_blob(manifest, "it").digest == images.sha256(BUNDLE)
    for path, value in [("layers", []), ("layers.0.mediaType", "x"), ("layers.0.digest", "x")]:
        with pytest.raises(Invalid, match="no bundle"):
            sigstore.bundle_blob(changed(manifest, path, value), "it")


# --- bundles ----------------------------------------------------------------------------------------------


def test_a_bundle_holds_a_statement_and_its_signature() -> None:
    found = sigstore.from_bundle(BUNDLE, DIGEST, "it")
    assert (found.digest, found.form, found.payload) == (DIGEST, "dsse", STATEMENT)
    assert sigstore.message(found) == signing.enveloped(STATEMENT)


def test_the_older_spelling_of_the_bundle_type_is_the_same() -> None:
    older = changed(BUNDLE, "mediaType", "application/vnd.dev.sigstore.bundle+json;version=0.3")
    assert sigstore.from_bundle(older, DIGEST, "it").payload == STATEMENT


ONE = {"sig": signing.encoded(b"x")}


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("mediaType", "application/vnd.dev.sigstore.bundle.v9+json", "no bundle"),
        ("dsseEnvelope", ..., "no bundle"),
        ("dsseEnvelope", None, "no bundle"),
        ("dsseEnvelope.payloadType", "text/plain", "no statement"),
        ("dsseEnvelope.signatures", [], "0 signatures"),
        ("dsseEnvelope.signatures", [ONE, ONE], "2 signatures"),
        ("dsseEnvelope.signatures.0.sig", "not base64", "not in base64"),
        ("dsseEnvelope.payload", "é", "not in base64"),
        ("dsseEnvelope.payload", 7, "malformed"),
        ("dsseEnvelope.signatures.0.sig", ..., "malformed"),
    ],
)
def test_a_bundle_of_another_kind_is_refused(path: str, value: Any, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        sigstore.from_bundle(changed(BUNDLE, path, value), DIGEST, "it")


def test_a_message_signature_is_no_statement_about_an_image() -> None:
    message = changed(BUNDLE, "dsseEnvelope", ...)[:-1] + b', "messageSignature": {"signature": "eA=="}}'
    with pytest.raises(Invalid, match="no bundle with an envelope"):
        sigstore.from_bundle(message, DIGEST, "it")


def test_a_bundle_beyond_the_limit_is_not_parsed() -> None:
    with pytest.raises(Invalid, match="larger than"):
        sigstore.from_bundle(BUNDLE + b" " * sigstore.BUNDLE_LIMIT, DIGEST, "it")


# --- what they say ----------------------------------------------------------------------------------------


def test_the_simple_form_says_digest_and_name() -> None:
    assert sigstore.claim(simple(PAYLOAD), "it") == sigstore.Claim(frozenset((DIGEST,)), NAME)
    assert sigstore.message(simple(PAYLOAD)) == PAYLOAD


def test_what_is_optional_is_the_signers_own() -> None:
    own = changed(PAYLOAD, "optional", {"creator": "x", "timestamp": 7, "deep": {"er": [1]}})
    assert sigstore.claim(simple(own), "it").reference == NAME


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("critical", ...),
        ("critical", None),
        ("critical.type", "atomic container signature"),
        ("critical.type", ...),
        ("critical.type", 1),
        ("critical.image", ...),
        ("critical.image", {}),
        ("critical.image", {"Docker-manifest-digest": DIGEST}),
        ("critical.image.docker-manifest-digest", "sha256:x"),
        ("critical.image.docker-manifest-digest", None),
        ("critical.identity", ...),
        ("critical.identity", {}),
        ("critical.identity.docker-reference", 1),
        ("critical.unknown", 1),
        ("critical.image.unknown", 1),
        ("critical.identity.unknown", 1),
        ("unknown", 1),
        ("optional", 1),
    ],
)
def test_a_payload_that_could_mean_something_else_is_refused(path: str, value: Any) -> None:
    with pytest.raises(Invalid):
        sigstore.claim(simple(changed(PAYLOAD, path, value)), "it")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", PAYLOAD + b"x", b"[" * 100, PAYLOAD + PAYLOAD])
@pytest.mark.parametrize("form", [simple, dsse])
def test_what_is_no_json_says_nothing(form: Callable[[bytes], Signature], data: bytes) -> None:
    with pytest.raises(Invalid):
        sigstore.claim(form(data), "it")


def test_a_key_that_occurs_twice_is_refused() -> None:
    twice = PAYLOAD.replace(b'"type":', b'"type": "cosign container image signature", "type":')
    with pytest.raises(Invalid, match="twice"):
        sigstore.claim(simple(twice), "it")


def test_a_statement_says_digests_and_no_name() -> None:
    assert sigstore.claim(dsse(STATEMENT), "it") == sigstore.Claim(frozenset((DIGEST,)))


def test_a_statement_may_have_several_subjects_and_foreign_digests() -> None:
    subjects = [
        {"name": "x", "digest": {"sha1": "c" * 40}},
        {"digest": {"sha256": "b" * 64}},
        {"digest": {"sha256": "nonsense"}},
    ]
    assert sigstore.claim(dsse(changed(STATEMENT, "subject", subjects)), "it").digests == {OTHER}


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("_type", "https://in-toto.io/Statement/v9", "which is not known"),
        ("_type", ..., "malformed"),
        ("predicateType", "https://slsa.dev/provenance/v1", "not that the image is signed"),
        ("predicateType", ..., "malformed"),
        ("subject", ..., "malformed"),
        ("subject", None, "malformed"),
        ("subject", [None], "malformed"),
        ("subject.0.digest", ["x"], "malformed"),
        ("subject.0.digest.sha256", 1, "malformed"),
    ],
)
def test_a_statement_of_another_kind_is_refused(path: str, value: Any, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        sigstore.claim(dsse(changed(STATEMENT, path, value)), "it")


def test_a_form_or_a_size_that_is_not_known_is_refused() -> None:
    with pytest.raises(Invalid, match="form 'x'"):
        sigstore.claim(Signature(digest=DIGEST, form="x", payload=PAYLOAD, signature=b""), "it")
    with pytest.raises(Invalid, match="larger"):
        sigstore.claim(Signature(digest=DIGEST, form="simple", payload=PAYLOAD, signature=b"x" * 1025), "it")
    with pytest.raises(Invalid, match="larger"):
        sigstore.claim(simple(PAYLOAD + b" " * sigstore.PAYLOAD_LIMIT), "it")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_invalid(data: bytes) -> None:
    for read in (
        lambda: sigstore.attached(data, "it"),
        lambda: sigstore.bundles(data, "it"),
        lambda: sigstore.bundle_blob(data, "it"),
        lambda: sigstore.from_bundle(data, DIGEST, "it"),
        lambda: sigstore.claim(simple(data), "it"),
        lambda: sigstore.claim(dsse(data), "it"),
    ):
        with contextlib.suppress(Invalid):
            read()
