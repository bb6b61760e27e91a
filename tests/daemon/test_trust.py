"""A whole daemon with a policy: a real registry, real keys, real containers."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from scripts import private_daemon
from tests import cgroup_drivers, images, signing
from tests.conftest import PushImage
from tests.daemon.conftest import SECONDS, Live, clean_up, import_image

pytestmark = pytest.mark.root

KEY = signing.Key()
IMAGE = images.busybox()


class Trusting(Live):
    """A daemon with a policy in `policy`, and the key of everybody in `key`."""

    def __init__(self) -> None:
        super().__init__(os.getpid() % 200 + 20, cgroup_drivers.DRIVERS[-1])
        self.policy, self.key = self.own.directory / "policy.toml", self.own.directory / "key.pub"
        self.key.write_bytes(KEY.pem)
        self.policy.write_text('default = "accept"')
        with self.own.config.open("a") as config:
            config.write(f'[trust]\npolicy = "{self.policy}"\n')

    def require(self, repository: str) -> None:
        """Signatures for this one, nothing else but what was imported."""
        rules = [
            f'prefix = "{repository}"\ndecision = "sigstore"\nkeys = ["{self.key}"]',
            'prefix = "localhost"\ndecision = "accept"',
        ]
        self.policy.write_text("\n[[rule]]\n".join(['default = "reject"', *rules]))

    def pull(self, name: str) -> str:
        request = cri.PullImageRequest(image=cri.ImageSpec(image=name))
        return self.images.PullImage(request, timeout=SECONDS).image_ref


@pytest.fixture
def live(archive: Path, registry: images.Registry) -> Iterator[Trusting]:
    trusting = Trusting()
    registry.hosts_directory(trusting.own.directory / "certs.d", registry.address)
    try:
        trusting.start()
        import_image(trusting, archive)
        yield trusting
    finally:
        with private_daemon.uninterrupted():
            clean_up(trusting)


def sign(registry: images.Registry, repository: str) -> None:
    """As `cosign sign --new-bundle-format=false` does."""
    made = signing.signed_simply(KEY, IMAGE.digest, f"{registry.address}/{repository}")
    for data in made.blobs.values():
        registry.push_blob(repository, data)
    for tag, data in made.manifests:
        registry.push_manifest(repository, tag, data, images.MANIFEST)


def refusal(call: Any) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.UNKNOWN
    return str(error.details())


def test_only_signed_images_are_pulled_run_and_mounted(
    live: Trusting, registry: images.Registry, push_image: PushImage
) -> None:
    name = push_image("trust/app", IMAGE)
    repository = f"{registry.address}/trust/app"
    id = live.pull(name)  # before there was a policy to speak of
    live.require(repository)
    pod = live.pod()
    spec = cri.ImageSpec(image=id, user_specified_image=name)
    volume = cri.Mount(container_path="/data", image=cri.ImageSpec(image=name), readonly=True)
    before = live.census()
    for more in ({"image": spec}, {"image": cri.ImageSpec(image=name)}, {"mounts": [volume]}):
        said = refusal(lambda more=more: live.container(pod, **more))
        assert said.startswith("SignatureValidationFailed: ")
        assert f"{name} must be signed" in said
    assert live.runtime.ListContainers(cri.ListContainersRequest()).containers == []
    assert live.census()["mounts"] == before["mounts"]
    assert refusal(lambda: live.pull(name)).startswith(f"SignatureValidationFailed: {name} must be signed")

    sign(registry, "trust/app")
    assert live.pull(name) == id  # nothing but the signature is fetched
    container = live.started(pod, "sleep", "1000", image=spec, mounts=[volume])
    assert live.exec(container, "ls", "/data/bin").exit_code == 0

    live.kill()
    live.start()
    assert live.container(pod, name="again", image=spec)  # the proof is on record
    live.policy.write_text('default = "reject"')
    assert "refused by its default" in refusal(lambda: live.container(pod, name="late", image=spec))
    live.policy.write_text("default =")
    assert "the policy cannot be used" in refusal(lambda: live.container(pod, name="later"))
    assert live.exec(container, "true").exit_code == 0  # what runs goes on
    live.kill()
    live.start()  # it starts all the same, and says at once what is wrong
    assert (
        f"every image is refused while the policy cannot be used: {live.policy} is not TOML"
        in live.own.log.read_text()
    )
    assert live.exec(container, "true").exit_code == 0
