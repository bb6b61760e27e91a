"""What every `Policies` and `Verifier` does, the real ones and the fakes."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from sampan.host.trust.policy_files import PolicyFiles
from sampan.host.trust.verifier import KeyVerifier
from sampan.model.errors import Invalid
from sampan.runtime.trust_ports import Policies, Verifier
from sampan.wire.trust_policy import Decision
from tests import signing
from tests.fake_trust import FakeKey, FakePolicies, FakeVerifier

POLICY = 'default = "reject"\n[[rule]]\nprefix = "a.example"\ndecision = "accept"\n'
Write = Callable[[str | None], None]


class Signer(Protocol):
    @property
    def pem(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...


# --- keys -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["real", "fake"])
def crypto(request: pytest.FixtureRequest) -> tuple[Verifier, Signer, Signer]:
    if request.param == "real":
        return KeyVerifier(), signing.Key(), signing.Key()
    return FakeVerifier(), FakeKey("one"), FakeKey("two")


async def test_the_key_that_has_signed_is_named(crypto: tuple[Verifier, Signer, Signer]) -> None:
    verifier, one, two = crypto
    both = {"/one": one.pem, "/two": two.pem}
    assert await verifier.signer(both, b"message", one.sign(b"message")) == "/one"
    assert await verifier.signer(both, b"message", two.sign(b"message")) == "/two"
    assert await verifier.signer({"/two": two.pem}, b"message", one.sign(b"message")) is None


async def test_another_message_or_no_signature_is_signed_by_nobody(
    crypto: tuple[Verifier, Signer, Signer],
) -> None:
    verifier, one, _ = crypto
    keys = {"/one": one.pem}
    assert await verifier.signer(keys, b"other", one.sign(b"message")) is None
    for signature in (b"", b"\0", b"x" * 2000, one.sign(b"message")[:-1]):
        assert await verifier.signer(keys, b"message", signature) is None
    assert await verifier.signer({}, b"message", one.sign(b"message")) is None


async def test_a_bad_key_is_an_error_even_beside_a_good_one(crypto: tuple[Verifier, Signer, Signer]) -> None:
    verifier, one, _ = crypto
    with pytest.raises(Invalid, match="/bad"):
        await verifier.signer({"/one": one.pem, "/bad": b"nonsense"}, b"message", one.sign(b"message"))
    with pytest.raises(Invalid, match="/bad"):
        await verifier.check({"/one": one.pem, "/bad": b"nonsense"})
    await verifier.check({"/one": one.pem})


# --- files ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["real", "fake"])
def policies(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Policies, Write, str]:
    """The port, what writes (None: removes) the policy, and a key that is there."""
    key, file = tmp_path / "key.pub", tmp_path / "policy.toml"
    key.write_bytes(b"the key")
    if request.param == "real":

        def write(text: str | None) -> None:
            file.unlink(missing_ok=True)
            if text is not None:
                file.write_text(text)

        return PolicyFiles(str(file)), write, str(key)
    fake = FakePolicies()
    fake.keys[str(key)] = b"the key"
    return fake, lambda text: setattr(fake, "text", text), str(key)


async def test_the_policy_is_read_anew_at_each_use(policies: tuple[Policies, Write, str]) -> None:
    port, write, _ = policies
    write('default = "accept"')
    assert (await port.read()).default.decision is Decision.ACCEPT
    write(POLICY)
    found = await port.read()
    assert found.default.decision is Decision.REJECT
    assert list(found.rules) == ["a.example"]


@pytest.mark.parametrize("text", [None, "", "nonsense", 'default = "perhaps"'])
async def test_a_policy_that_cannot_be_used_is_an_error(
    policies: tuple[Policies, Write, str], text: str | None
) -> None:
    port, write, _ = policies
    write(text)
    with pytest.raises(Invalid):
        await port.read()


async def test_a_key_is_had_by_its_path(policies: tuple[Policies, Write, str]) -> None:
    port, _, key = policies
    assert await port.key(key) == b"the key"
    with pytest.raises(Invalid, match="/nowhere cannot be read"):
        await port.key("/nowhere")
