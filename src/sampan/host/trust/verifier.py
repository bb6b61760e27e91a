"""The `Verifier` port: public keys and signatures as cosign makes them, by the library `cryptography`, which is
imported at the first key (docs/decisions/0019-signatures.md says what it weighs).

What may be used: ECDSA on P-256 (SHA-256) and P-384 (SHA-384, and SHA-256 as older tools did), RSA of 2048 to 8192 bits
(PKCS #1 v1.5, SHA-256), Ed25519 (not its pre-hashed form). Which, the key says, never the signature.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sampan.host.threads import in_thread
from sampan.model.errors import Invalid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

Check = Callable[[bytes, bytes], bool]  # signature and message; whether the one is of the other
RSA_BITS = range(2048, 8193)
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


class KeyVerifier:
    """Keeps nothing between two calls: keys are files that may change."""

    async def check(self, keys: Mapping[str, bytes]) -> None:
        await in_thread(_loaded, keys)

    async def signer(self, keys: Mapping[str, bytes], message: bytes, signature: bytes) -> str | None:
        return await in_thread(_signer, keys, message, signature)


def _signer(keys: Mapping[str, bytes], message: bytes, signature: bytes) -> str | None:
    checks = _loaded(keys)  # all of them, before any is used
    return next((name for name, genuine in checks.items() if genuine(signature, message)), None)


def _loaded(keys: Mapping[str, bytes]) -> dict[str, Check]:
    return {name: _load(name, pem) for name, pem in keys.items()}


def _load(name: str, pem: bytes) -> Check:
    """How signatures of a key are checked. Raises Invalid naming the key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    kinds = _PEM.findall(pem)
    if kinds != [b"PUBLIC KEY"]:
        raise Invalid(f"{name} must hold one PUBLIC KEY in PEM; it holds {_listed(kinds)}")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise Invalid(f"{name} holds no public key that can be read") from None
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _ecdsa(name, key)
    if isinstance(key, rsa.RSAPublicKey):
        return _rsa(name, key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return _genuine(key.verify)
    raise Invalid(f"{name} is a key of a kind that signs no images: ECDSA, RSA and Ed25519 do")


def _ecdsa(name: str, key: "EllipticCurvePublicKey") -> Check:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    match key.curve:
        case ec.SECP256R1():
            sha256 = ec.ECDSA(hashes.SHA256())
            return _genuine(lambda signature, message: key.verify(signature, message, sha256))
        case ec.SECP384R1():
            usual, older = (ec.ECDSA(hashes.SHA384()), ec.ECDSA(hashes.SHA256()))
            by_usual = _genuine(lambda signature, message: key.verify(signature, message, usual))
            by_older = _genuine(lambda signature, message: key.verify(signature, message, older))
            return lambda signature, message: by_usual(signature, message) or by_older(signature, message)
    raise Invalid(f"{name} is an ECDSA key on {key.curve.name}; only P-256 and P-384 are used")


def _rsa(name: str, key: "RSAPublicKey") -> Check:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    if key.key_size not in RSA_BITS:
        low, high = RSA_BITS[0], RSA_BITS[-1]
        raise Invalid(f"{name} is an RSA key of {key.key_size} bits; only {low} to {high} are used")
    scheme, sha256 = padding.PKCS1v15(), hashes.SHA256()
    return _genuine(lambda signature, message: key.verify(signature, message, scheme, sha256))


def _genuine(verify: Callable[[bytes, bytes], None]) -> Check:
    from cryptography.exceptions import InvalidSignature

    def check(signature: bytes, message: bytes) -> bool:
        try:
            verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    return check


def _listed(kinds: list[bytes]) -> str:
    return ", ".join(kind.decode() for kind in kinds[:3]) or "none"
