"""Keys and signatures: which kinds count, and that nothing else does."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519

from sampan.host.trust.verifier import KeyVerifier
from sampan.model.errors import Invalid
from tests.signing import Key

MESSAGE = b'{"critical": "whatever"}'
RSA = rsa.generate_private_key(65537, 2048)
P384 = ec.generate_private_key(ec.SECP384R1())
KEYS = {
    "P-256": Key(),
    "P-384": Key(P384),
    "RSA": Key(RSA),
    "Ed25519": Key(ed25519.Ed25519PrivateKey.generate()),
}


async def signed_by(pem: bytes, signature: bytes, message: bytes = MESSAGE) -> bool:
    return await KeyVerifier().signer({"/k": pem}, message, signature) == "/k"


@pytest.mark.parametrize("kind", KEYS)
async def test_keys_of_these_kinds_count(kind: str) -> None:
    key = KEYS[kind]
    assert await signed_by(key.pem, key.sign(MESSAGE))
    assert not await signed_by(key.pem, key.sign(MESSAGE), MESSAGE + b" ")


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("other", KEYS)
async def test_a_key_of_another_kind_or_pair_signs_nothing(kind: str, other: str) -> None:
    if kind != other:
        assert not await signed_by(KEYS[kind].pem, KEYS[other].sign(MESSAGE))


@pytest.mark.parametrize("kind", KEYS)
async def test_a_signature_with_any_bit_changed_does_not_count(kind: str) -> None:
    signature = KEYS[kind].sign(MESSAGE)
    for place in range(0, len(signature), 7):
        broken = bytearray(signature)
        broken[place] ^= 1 << place % 8
        assert not await signed_by(KEYS[kind].pem, bytes(broken))


async def test_p384_counts_with_the_hash_of_older_tools_too_and_with_no_other() -> None:
    pem = KEYS["P-384"].pem
    assert await signed_by(pem, P384.sign(MESSAGE, ec.ECDSA(hashes.SHA256())))
    assert not await signed_by(pem, P384.sign(MESSAGE, ec.ECDSA(hashes.SHA512())))
    assert not await signed_by(pem, P384.sign(MESSAGE, ec.ECDSA(hashes.SHA1())))


@pytest.mark.parametrize(
    "sign",
    [
        lambda: RSA.sign(MESSAGE, padding.PKCS1v15(), hashes.SHA1()),
        lambda: RSA.sign(MESSAGE, padding.PKCS1v15(), hashes.SHA512()),
        lambda: RSA.sign(MESSAGE, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()),
    ],
)
async def test_rsa_counts_with_one_padding_and_hash(sign: Callable[[], bytes]) -> None:
    assert not await signed_by(KEYS["RSA"].pem, sign())


def pem_of(public: object) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    data: bytes = public.public_bytes(serialization.Encoding.PEM, form)  # type: ignore[attr-defined]
    return data


def private_pem() -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return KEYS["P-256"].private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: b"", "it holds none"),
        (lambda: b"nonsense", "it holds none"),
        (private_pem, "it holds PRIVATE KEY"),
        (lambda: KEYS["P-256"].pem + KEYS["RSA"].pem, "it holds PUBLIC KEY, PUBLIC KEY"),
        (lambda: KEYS["P-256"].pem[:60] + b"!" + KEYS["P-256"].pem[61:], "no public key that can be read"),
        (
            lambda: b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "no public key that can be read",
        ),
        (lambda: pem_of(ec.generate_private_key(ec.SECP521R1()).public_key()), "on secp521r1"),
        (lambda: pem_of(ec.generate_private_key(ec.SECP256K1()).public_key()), "on secp256k1"),
        (lambda: pem_of(rsa.generate_private_key(65537, 1024).public_key()), "RSA key of 1024 bits"),
        (lambda: pem_of(x25519.X25519PrivateKey.generate().public_key()), "signs no images"),
    ],
)
async def test_what_is_no_key_that_counts_is_named(make: Callable[[], bytes], why: str) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        await signed_by(make(), KEYS["P-256"].sign(MESSAGE))
    assert "/k" in str(caught.value)
    assert "MC4" not in str(caught.value)  # nothing of the file is told
