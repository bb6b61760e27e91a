"""Signed images over the whole way: a client's PullImage, a registry's HTTP, keys and policy in files."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import cri_pb2_grpc as rpc
from sampan.host.registry.client import RegistryClient
from sampan.host.trust.policy_files import PolicyFiles
from sampan.host.trust.verifier import KeyVerifier
from sampan.runtime.image_ports import Usage
from sampan.runtime.images import Images, Supply
from sampan.runtime.state import State
from sampan.runtime.trust import Trust
from sampan.server.image_service import Disk, ImageService
from sampan.server.interceptor import Interceptor
from sampan.tasks import Tasks
from tests import images, signing
from tests.evil_registry import EvilRegistry, running
from tests.fake_layers import FakeLayers
from tests.fakes import FakeJournal

APP = images.image([images.layer([images.Entry("app", data=b"x" * 3000)])], architecture="amd64")
INDEX = images.index({"amd64": APP})
INDEX_DIGEST = images.sha256(INDEX)
NAME = "evil.test/app"
KEY, OTHER = signing.Key(), signing.Key()


@dataclass
class Site:
    evil: EvilRegistry
    stub: Any
    policy: Path
    key: Path

    def require(self, more: str = "") -> None:
        rule = f'prefix = "{NAME}"\ndecision = "sigstore"\nkeys = ["{self.key}"]\n{more}\n'
        self.policy.write_text(f'default = "reject"\n[[rule]]\n{rule}')

    async def pull(self, name: str = NAME) -> str:
        answer = await self.stub.PullImage(cri.PullImageRequest(image=cri.ImageSpec(image=name)))
        return str(answer.image_ref)

    async def refused(self, name: str = NAME) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.pull(name)
        assert caught.value.code() is grpc.StatusCode.UNKNOWN  # the kubelet reads the message of no other
        return caught.value.details() or ""


@pytest.fixture
async def site(short_tmp: Path, tmp_path: Path) -> AsyncIterator[Site]:
    policy, key = tmp_path / "policy.toml", tmp_path / "team.pub"
    key.write_bytes(KEY.pem)
    tasks = Tasks()
    trust = Trust(PolicyFiles(str(policy)), KeyVerifier())
    supply = Supply(RegistryClient([tmp_path]), None, "x86_64", trust=trust)  # type: ignore[arg-type]
    cases = Images(State(FakeJournal()), FakeLayers(), supply, tasks)
    server = grpc.aio.server(interceptors=[Interceptor()])
    disk = Disk(Path("/layers"), Path("/containers"), lambda: Usage(7, 3))
    rpc.add_ImageServiceServicer_to_server(ImageService(cases, ["crun"], disk), server)
    server.add_insecure_port(f"unix://{short_tmp}/s")
    await server.start()
    async with running() as evil, grpc.aio.insecure_channel(f"unix://{short_tmp}/s") as channel:
        evil.serve(APP)
        evil.serve_manifest(INDEX, "app", "multi")
        evil.hosts_toml(tmp_path, "evil.test")
        one = Site(evil, rpc.ImageServiceStub(channel), policy, key)
        one.require()
        yield one
    await server.stop(None)
    await tasks.stop()


async def test_a_signed_image_is_pulled(site: Site) -> None:
    site.evil.serve_signatures(signing.signed_simply(KEY, APP.digest, NAME), APP.digest)
    assert await site.pull() == APP.id


async def test_an_image_for_several_machines_is_signed_as_a_whole(site: Site) -> None:
    site.evil.serve_signatures(signing.signed_simply(KEY, INDEX_DIGEST, NAME), INDEX_DIGEST)
    assert await site.pull(f"{NAME}:multi") == APP.id
    assert (await site.refused()).startswith("SignatureValidationFailed: ")  # what it has for one is not


@pytest.mark.parametrize("api", [True, False])
async def test_an_image_that_is_signed_in_a_bundle_is_pulled(site: Site, api: bool) -> None:
    site.evil.serve_signatures(signing.signed_in_bundle(KEY, APP.digest), APP.digest, api=api)
    assert 'identity = "any"' in await site.refused()
    site.require('identity = "any"')
    assert await site.pull() == APP.id


async def test_what_is_not_signed_is_refused_in_words_that_the_kubelet_knows(site: Site) -> None:
    said = await site.refused()
    assert said.startswith(
        f"SignatureValidationFailed: {NAME}:latest must be signed, by the rule for {NAME!r}"
    )
    assert site.evil.asked("GET", "/v2/app/blobs") == []
    site.evil.serve_signatures(signing.signed_simply(OTHER, APP.digest, NAME), APP.digest)
    assert f"none of the keys {site.key}" in await site.refused()


async def test_what_no_rule_is_about_is_refused_unseen(site: Site) -> None:
    assert (await site.refused("elsewhere.test/x")).startswith("SignatureValidationFailed: elsewhere.test/x")
    assert site.evil.requests == []


async def test_a_policy_that_is_damaged_or_anybodys_refuses_everything(site: Site) -> None:
    site.evil.serve_signatures(signing.signed_simply(KEY, APP.digest, NAME), APP.digest)
    site.policy.write_text('default = "accept"')
    site.policy.chmod(0o666)
    assert "others than root may write it" in await site.refused()
    site.policy.chmod(0o600)
    assert await site.pull() == APP.id
    site.policy.write_text("default = ")
    assert (await site.refused()).startswith("SignatureValidationFailed: ")
    site.policy.unlink()
    assert "cannot be read" in await site.refused()


async def test_a_key_that_anybody_may_write_counts_no_more(site: Site) -> None:
    site.evil.serve_signatures(signing.signed_simply(KEY, APP.digest, NAME), APP.digest)
    site.key.chmod(0o666)
    assert "others than root may write it" in await site.refused()


async def test_a_registry_cannot_pass_off_another_signed_image(site: Site) -> None:
    """It serves, under the tag, an old image that is signed; then one that is not, beside the signature of another."""
    old = signing.payload("sha256:" + "0" * 64, NAME)
    site.evil.serve_signatures(signing.simple(APP.digest, [(old, KEY.sign(old))]), APP.digest)
    assert "another image" in await site.refused()
    moved = signing.signed_simply(KEY, APP.digest, "evil.test/other")
    site.evil.serve_signatures(moved, APP.digest)
    assert "not for evil.test/app" in await site.refused()


async def test_a_payload_that_is_not_what_its_digest_says_is_not_looked_at(site: Site) -> None:
    signed = signing.signed_simply(KEY, APP.digest, NAME)
    site.evil.serve_signatures(signed, APP.digest)
    digest = images.sha256(signing.payload(APP.digest, NAME))
    signed.blobs[digest] = signed.blobs[digest].replace(b"null", b"{}  ")
    site.evil.serve_signatures(signed, APP.digest)
    assert "sent other content" in await site.refused()
