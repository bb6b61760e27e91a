"""What refers to a manifest, at registries that know the question and at those that do not."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.host.registry.client import RegistryClient
from sampan.host.registry.endpoint import Patience
from sampan.model.errors import Denied, NotFound, RegistryUnavailable
from sampan.wire import reference, sigstore
from tests import images, signing
from tests.evil_registry import Behaviour, EvilRegistry, answer, running

IMAGE = images.image([images.layer([images.Entry("file")])])
SIGNED = signing.signed_in_bundle(signing.Key(), IMAGE.digest)
FOUND = (images.sha256(SIGNED.manifests[0][1]),)
PATH = f"/v2/app/referrers/{IMAGE.digest}"


@pytest.fixture
async def evil() -> AsyncIterator[EvilRegistry]:
    async with running() as registry:
        registry.serve(IMAGE)
        yield registry


async def ask(certs: Path) -> tuple[str, ...]:
    async def at_once(_: float) -> None:
        return

    client = RegistryClient([certs], lambda: Patience(5.0, at_once))
    async with client.open(reference.parse("evil.test/app"), None) as repository:
        return sigstore.bundles(await repository.referrers(IMAGE.digest, signing.BUNDLE), "it")


async def test_the_registry_is_asked_for_one_kind(evil: EvilRegistry, tmp_path: Path) -> None:
    evil.hosts_toml(tmp_path, "evil.test")
    evil.serve_signatures(SIGNED, IMAGE.digest)
    assert await ask(tmp_path) == FOUND
    (request,) = evil.asked("GET", PATH)
    kind = "artifactType=application%2Fvnd.dev.sigstore.bundle.v0.3%2Bjson"
    assert request.query == f"{kind}&ns=evil.test"


@pytest.mark.parametrize("refusal", [None, answer(status=400), answer(status=405), answer(status=501)])
async def test_a_registry_without_the_question_has_a_tag_for_it(
    evil: EvilRegistry, tmp_path: Path, refusal: Behaviour | None
) -> None:
    evil.hosts_toml(tmp_path, "evil.test")
    evil.serve_signatures(SIGNED, IMAGE.digest, api=False)
    if refusal:
        evil.on(PATH, refusal)
    assert await ask(tmp_path) == FOUND


async def test_nothing_refers_where_neither_is_there(evil: EvilRegistry, tmp_path: Path) -> None:
    evil.hosts_toml(tmp_path, "evil.test")
    with pytest.raises(NotFound):
        await ask(tmp_path)
    assert evil.asked("GET", f"/v2/app/manifests/{IMAGE.digest.replace(':', '-')}")


@pytest.mark.parametrize(("status", "kind"), [(500, RegistryUnavailable), (403, Denied), (401, Denied)])
async def test_a_failure_is_not_taken_for_nothing(
    evil: EvilRegistry, tmp_path: Path, status: int, kind: type[Exception]
) -> None:
    evil.hosts_toml(tmp_path, "evil.test")
    evil.on(PATH, answer(status=status))
    with pytest.raises(kind):
        await ask(tmp_path)


async def test_a_mirror_that_does_not_know_is_passed_over(evil: EvilRegistry, tmp_path: Path) -> None:
    evil.serve_signatures(SIGNED, IMAGE.digest)
    async with running() as mirror:
        evil.hosts_toml(tmp_path, "evil.test", f'[host."{mirror.url}"]\n')
        assert await ask(tmp_path) == FOUND
        assert mirror.asked("GET", PATH)
