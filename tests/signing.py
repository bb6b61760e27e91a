"""Signed images for tests: keys, and signatures in both forms of cosign, as its specifications have them
(specs/SIGNATURE_SPEC.md, specs/BUNDLE_SPEC.md). Independent of the product's own code on purpose."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from tests import images

SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT = "application/vnd.in-toto+json"
SIGNED = "https://sigstore.dev/cosign/sign/v1"
Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class Signer(Protocol):
    def sign(self, message: bytes) -> bytes: ...


class Key:
    """A key pair; `sign` as cosign does with a key of its kind."""

    def __init__(self, private: Private | None = None) -> None:
        self.private = private or ec.generate_private_key(ec.SECP256R1())

    @property
    def pem(self) -> bytes:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, form)

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            big = isinstance(self.private.curve, ec.SECP384R1)
            return self.private.sign(message, ec.ECDSA(hashes.SHA384() if big else hashes.SHA256()))
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return self.private.sign(message)


def payload(digest: str, name: str) -> bytes:
    """What is signed in the simple form."""
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return images.dump({"critical": critical, "optional": None})


def statement(digest: str, predicate: str = SIGNED) -> bytes:
    """What is signed in a bundle."""
    algorithm, _, digits = digest.partition(":")
    return images.dump(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {algorithm: digits}, "annotations": {}}],
            "predicateType": predicate,
            "predicate": {},
        }
    )


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def enveloped(content: bytes) -> bytes:
    """The message that is signed for an envelope (DSSE, PAE)."""
    return b"DSSEv1 %d %s %d %s" % (len(STATEMENT), STATEMENT.encode(), len(content), content)


def bundle(key: Signer, content: bytes, **changes: Any) -> bytes:
    envelope = {
        "payload": encoded(content),
        "payloadType": STATEMENT,
        "signatures": [{"sig": encoded(key.sign(enveloped(content)))}],
    }
    material = {"publicKey": {"hint": "x"}, "tlogEntries": []}
    return images.dump(
        {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope, **changes}
    )


@dataclass
class Signatures:
    """What is pushed beside an image: `manifests` by tag ("" for those by digest alone), and their blobs."""

    manifests: list[tuple[str, bytes]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)


def simple(digest: str, signed: Sequence[tuple[bytes, bytes]]) -> Signatures:
    """The `.sig` tag with these payloads and signatures."""
    made = Signatures()
    layers = []
    for content, signature in signed:
        layer = images.describe(made.blobs, content, SIMPLE)
        layers.append({**layer, "annotations": {"dev.cosignproject.cosign/signature": encoded(signature)}})
    config = images.describe(made.blobs, b"{}", images.CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": images.MANIFEST, "config": config, "layers": layers}
    made.manifests.append((digest.replace(":", "-") + ".sig", images.dump(manifest)))
    return made


def signed_simply(key: Signer, digest: str, name: str) -> Signatures:
    """What `cosign sign --new-bundle-format=false` pushes."""
    content = payload(digest, name)
    return simple(digest, [(content, key.sign(content))])


def bundled(digest: str, *bundles: bytes, annotations: Mapping[str, str] | None = None) -> Signatures:
    """Bundles that refer to an image."""
    made = Signatures()
    for data in bundles:
        manifest = {
            "schemaVersion": 2,
            "mediaType": images.MANIFEST,
            "artifactType": BUNDLE,
            "config": images.describe(made.blobs, b"{}", "application/vnd.oci.empty.v1+json"),
            "layers": [images.describe(made.blobs, data, BUNDLE)],
            "subject": {"mediaType": images.MANIFEST, "digest": digest, "size": 1},
            "annotations": {"dev.sigstore.bundle.predicateType": SIGNED, **(annotations or {})},
        }
        made.manifests.append(("", images.dump(manifest)))
    return made


def signed_in_bundle(key: Signer, digest: str) -> Signatures:
    """What `cosign sign` pushes by default since its version 3."""
    return bundled(digest, bundle(key, statement(digest)))


def changed(content: bytes, path: str, value: Any) -> bytes:
    """The same JSON with another value at a dotted path; a value of ... takes it away."""
    whole = json.loads(content)
    *parents, last = path.split(".")
    at = whole
    for name in parents:
        at = at[int(name)] if isinstance(at, list) else at[name]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return images.dump(whole)
