"""The policy at a pull and at a container, on a registry, files and keys in memory."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid, NotFound, RegistryUnavailable, SignatureValidationFailed
from sampan.model.image import Image, ImageConfig
from sampan.runtime.images import Images, Supply
from sampan.runtime.state import State
from sampan.runtime.trust import KEPT, Trust
from sampan.tasks import Tasks
from sampan.wire import sigstore
from tests import images, signing
from tests.fake_layers import FakeLayers
from tests.fake_registry import FakeRegistry
from tests.fake_trust import FakeKey, FakePolicies, FakeVerifier
from tests.fakes import FakeJournal
from tests.images import Entry
from tests.runtime.system import wire
from tests.signing import Signatures

APP = images.image([images.layer([Entry("app", data=b"x" * 3000)])], {"Cmd": ["app"]}, architecture="amd64")
NAME = "registry.example/team/app"
KEY, OTHER = FakeKey("team"), FakeKey("other")
SIGSTORE = f"""
default = "accept"
[[rule]]
prefix = "registry.example"
decision = "reject"
[[rule]]
prefix = "{NAME}"
decision = "sigstore"
keys = ["/team.pub"]
"""
ANY = SIGSTORE + 'identity = "any"\n'
Make = Callable[[], Signatures]


class Node:
    """A node that pulls by a policy; `policies.text` is its file."""

    def __init__(self, text: str | None = SIGSTORE) -> None:
        self.journal = FakeJournal()
        self.registry = FakeRegistry()
        self.registry.push(APP, f"{NAME}:v1", f"{NAME}:v2")
        self.policies = FakePolicies(text)
        self.policies.keys["/team.pub"] = KEY.pem
        self.trust = Trust(self.policies, FakeVerifier())
        self.state = State(self.journal)
        supply = Supply(self.registry, None, "x86_64", trust=self.trust)  # type: ignore[arg-type]
        self.images = Images(self.state, FakeLayers(), supply, Tasks())

    def sign(self, key: FakeKey = KEY, name: str = NAME) -> None:
        content = signing.payload(APP.digest, name)
        self.registry.attach(NAME, signing.simple(APP.digest, [(content, key.sign(content))]))

    async def pull(self, name: str = f"{NAME}:v1") -> Image:
        return await self.images.pull(name)

    async def refused(self, name: str = f"{NAME}:v1") -> str:
        with pytest.raises(SignatureValidationFailed) as caught:
            await self.pull(name)
        return str(caught.value)

    async def run(self, image: str = f"{NAME}:v1", user: str = "", mounted: Sequence[str] = ()) -> None:
        mounts = [cri.Mount(image=cri.ImageSpec(image=name), container_path="/m") for name in mounted]
        spec = cri.ImageSpec(image=image, user_specified_image=user)
        config = cri.ContainerConfig(image=spec, mounts=mounts)
        found = [self.images.find(name) for name in (image, *mounted)]
        await self.trust.may_run(config, found[0], found[1:])

    async def not_run(self, *args: Any, **more: Any) -> str:
        with pytest.raises(SignatureValidationFailed) as caught:
            await self.run(*args, **more)
        return str(caught.value)


# --- at a pull --------------------------------------------------------------------------------------------


async def test_a_signed_image_is_pulled_and_the_proof_is_on_record() -> None:
    node = Node()
    node.sign()
    pulled = await node.pull()
    assert pulled.id == APP.id
    assert [(one.digest, one.form) for one in pulled.signatures] == [(APP.digest, "simple")]
    assert node.journal.rows["image", APP.id] == pulled


async def test_a_bundle_proves_it_where_no_name_is_asked_for() -> None:
    node = Node(ANY)
    content = signing.statement(APP.digest)
    node.registry.attach(NAME, signing.bundled(APP.digest, signing.bundle(KEY, content)))
    assert [one.form for one in (await node.pull()).signatures] == ["dsse"]
    node.policies.text = SIGSTORE
    assert "names no repository" in await node.refused()


async def test_an_unsigned_image_is_refused_before_anything_of_it_is_fetched() -> None:
    node = Node()
    assert "must be signed, by the rule for 'registry.example/team/app'" in await node.refused()
    assert node.registry.count("read") == node.registry.count("stream") == 0
    assert node.images.list() == []


@pytest.mark.parametrize(
    ("name", "asked"),
    [("registry.example/x", []), ("registry.example/team/app2", []), ("registry.example/team", [])],
)
async def test_a_rejected_name_is_refused_before_anybody_is_asked(name: str, asked: list[str]) -> None:
    node = Node()
    node.registry.push(APP, f"{name}:latest")
    assert "is refused by the rule for 'registry.example'" in await node.refused(name)
    assert node.registry.asked == asked


async def test_what_is_accepted_costs_no_request_more() -> None:
    node, plain = Node('default = "accept"'), Node()
    plain.trust = plain.images.trust = Trust()
    assert (await node.pull()).signatures == () == (await plain.pull()).signatures
    assert node.registry.asked == plain.registry.asked


def payload(**changes: Any) -> Make:
    def make() -> Signatures:
        content = signing.payload(APP.digest, NAME)
        for path, value in changes.items():
            content = signing.changed(content, path.replace("__", ".").replace("_", "-"), value)
        return signing.simple(APP.digest, [(content, KEY.sign(content))])

    return make


def by(key: FakeKey, signed: bytes | None = None) -> Make:
    content = signing.payload(APP.digest, NAME)
    return lambda: signing.simple(APP.digest, [(content, key.sign(signed or content))])


def without_blob() -> Signatures:
    made = by(KEY)()
    made.blobs.clear()
    return made


def manifest(data: bytes) -> Make:
    tag = APP.digest.replace(":", "-") + ".sig"
    return lambda: Signatures([(tag, data)], {})


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (by(OTHER), "none of the keys /team.pub"),
        (by(KEY, b"another payload"), "none of the keys"),
        (payload(critical__image__docker_manifest_digest="sha256:" + "c" * 64), "another image"),
        (payload(critical__identity__docker_reference="registry.example/team/other"), "not for"),
        (payload(critical__identity__docker_reference=""), "names no repository"),
        (payload(critical__type="atomic container signature"), "no image's signature"),
        (payload(critical=...), "malformed"),
        (without_blob, "no blob"),
        (manifest(b"nonsense"), "not valid JSON"),
        (manifest(b'{"layers": []}'), "no signature that counts$"),
        (manifest(b"[" * 40), "nested deeper"),
        (lambda: signing.simple(APP.digest, [(b"\xff" * 100, KEY.sign(b"\xff" * 100))]), "not valid JSON"),
    ],
)
async def test_what_does_not_count_is_named_and_refused(make: Make, why: str) -> None:
    node = Node()
    node.registry.attach(NAME, make())
    with pytest.raises(SignatureValidationFailed, match=why):
        await node.pull()
    assert node.registry.count("stream") == 0


async def test_a_signature_of_another_image_that_is_moved_here_does_not_count() -> None:
    node = Node()
    content = signing.payload("sha256:" + "d" * 64, NAME)
    node.registry.attach(NAME, signing.simple(APP.digest, [(content, KEY.sign(content))]))
    assert "another image" in await node.refused()


async def test_a_bundle_for_another_image_or_statement_does_not_count() -> None:
    node = Node(ANY)
    replayed = signing.bundle(KEY, signing.statement("sha256:" + "d" * 64))
    scanned = signing.bundle(KEY, signing.statement(APP.digest, "https://slsa.dev/provenance/v1"))
    stray = signing.changed(
        signing.bundle(KEY, signing.statement(APP.digest)),
        "dsseEnvelope.payloadType",
        "text/plain",
    )
    node.registry.attach(NAME, signing.bundled(APP.digest, replayed, scanned, stray, b"nonsense"))
    said = await node.refused()
    assert "another image" in said
    assert "not that the image is signed" in said


async def test_junk_beside_a_good_signature_does_not_hide_it() -> None:
    node = Node()
    content, wrong = signing.payload(APP.digest, NAME), b"nonsense"
    signed = [(wrong, b"x"), (content, OTHER.sign(content)), (wrong, KEY.sign(wrong))]
    node.registry.attach(NAME, signing.simple(APP.digest, [*signed, (content, KEY.sign(content))]))
    assert len((await node.pull()).signatures) == 4


async def test_what_strangers_sign_takes_little_of_the_record() -> None:
    node = Node(ANY)
    large = signing.changed(signing.payload(APP.digest, NAME), "optional", {"x": "y" * 10_000})
    good = signing.payload(APP.digest, NAME)
    signed = [(large, OTHER.sign(large))] * 20 + [(good, KEY.sign(good)), (large, KEY.sign(large))]
    node.registry.attach(NAME, signing.simple(APP.digest, signed))
    kept = (await node.pull()).signatures
    assert [one.payload for one in kept] == [good, large]


async def test_a_registry_that_fails_is_not_taken_for_one_without_signatures() -> None:
    node = Node()
    for place in (sigstore.tag(APP.digest), APP.digest):
        node.registry.failing = {place: RegistryUnavailable("down")}
        with pytest.raises(RegistryUnavailable):
            await node.pull()


@pytest.mark.parametrize("text", [None, "", "nonsense", 'default = "accept"\n[[rule]]\nprefix = "x"'])
@pytest.mark.parametrize("name", [f"{NAME}:v1", "docker.io/library/free:1"])
async def test_a_broken_policy_refuses_everything(text: str | None, name: str) -> None:
    node = Node(text)
    node.sign()
    node.registry.push(APP, "docker.io/library/free:1")
    assert "every image is while the policy cannot be used: /policy" in await node.refused(name)
    assert node.registry.asked == []


async def test_a_key_that_is_gone_or_broken_refuses_what_it_decides_and_nothing_else() -> None:
    node = Node()
    node.sign()
    node.registry.push(APP, "docker.io/library/free:1")
    node.policies.keys["/team.pub"] = b"nonsense"
    assert "/team.pub holds no key" in await node.refused()
    del node.policies.keys["/team.pub"]
    assert "/team.pub cannot be read" in await node.refused()
    assert (await node.pull("docker.io/library/free:1")).id == APP.id


async def test_a_broken_key_is_named_also_where_nothing_is_signed() -> None:
    node = Node()
    node.policies.keys["/team.pub"] = b"nonsense"
    assert "/team.pub holds no key" in await node.refused()


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (SIGSTORE, KEY.pem, []),
        ('default = "reject"', None, []),
        (None, KEY.pem, ["every image is refused while the policy cannot be used: /policy cannot be read"]),
        (
            "nonsense",
            KEY.pem,
            ["every image is refused while the policy cannot be used: /policy is not TOML"],
        ),
        (
            SIGSTORE,
            None,
            [f"/policy: what the rule for '{NAME}' decides is refused: /team.pub cannot be read"],
        ),
        (SIGSTORE, b"x", [f"/policy: what the rule for '{NAME}' decides is refused: /team.pub holds no key"]),
    ],
)
async def test_what_is_wrong_with_the_policy_is_logged_at_a_start(
    text: str | None, key: bytes | None, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(text)
    node.policies.keys = {"/team.pub": key} if key else {}
    await node.trust.complain()
    await Trust().complain()
    assert [record.levelname for record in caplog.records] == ["ERROR"] * len(said)
    for logged, begin in zip(caplog.messages, said, strict=True):
        assert logged.startswith(begin)


async def test_a_known_image_is_judged_again_when_it_is_pulled_again() -> None:
    node = Node('default = "accept"')
    await node.pull()
    node.policies.text = SIGSTORE
    await node.refused()
    await node.refused(f"{NAME}:v2")  # another tag of what is known
    await node.refused(f"{NAME}@{APP.digest}")
    assert node.images.find(f"{NAME}:v2") is None
    node.sign()
    asked = node.registry.count("stream")
    assert (await node.pull()).signatures
    assert node.registry.count("stream") == asked  # the layers are here
    node.policies.text = 'default = "reject"'
    assert "is refused by its default" in await node.refused()


async def test_a_known_image_with_its_proof_on_record_is_pulled_with_one_request() -> None:
    node = Node()
    node.sign()
    await node.pull()
    node.registry.asked.clear()
    assert (await node.pull()).signatures
    assert node.registry.asked == ["resolve v1"]


async def test_names_are_the_references_whatever_host_answers() -> None:
    node = Node(SIGSTORE.replace(NAME, "docker.io/library/app"))
    node.registry.push(APP, "docker.io/library/app:latest")
    content = signing.payload(APP.digest, "index.docker.io/library/app")
    node.registry.attach("docker.io/library/app", signing.simple(APP.digest, [(content, KEY.sign(content))]))
    assert (await node.pull("app")).signatures


# --- at a container ---------------------------------------------------------------------------------------


async def signed_node() -> Node:
    node = Node()
    node.sign()
    await node.pull()
    return node


async def test_a_proven_image_runs_by_every_name_it_has() -> None:
    node = await signed_node()
    for name in (f"{NAME}:v1", f"{NAME}@{APP.digest}", APP.id, APP.id[7:], APP.id[7:20]):
        await node.run(name)
        await node.run(APP.id, user=name)
    assert node.registry.count("manifest sha256-") == 1  # the network is not asked


async def test_the_policy_as_it_is_now_decides() -> None:
    node = await signed_node()
    node.policies.text = SIGSTORE.replace("/team.pub", "/other.pub")
    node.policies.keys["/other.pub"] = OTHER.pem
    for name in (f"{NAME}:v1", APP.id):
        assert "must be signed" in await node.not_run(name)
        assert "pull it again" in await node.not_run(name)
    node.policies.text = 'default = "reject"'
    assert "is refused by its default" in await node.not_run()
    node.policies.text = None
    assert "while the policy cannot be used" in await node.not_run()
    node.policies.text = 'default = "accept"'
    await node.run()


async def test_a_signature_by_tomorrows_key_is_kept_for_tomorrow() -> None:
    node = Node()
    content = signing.payload(APP.digest, NAME)
    node.registry.attach(
        NAME, signing.simple(APP.digest, [(content, key.sign(content)) for key in (OTHER, KEY)])
    )
    await node.pull()
    node.policies.keys["/team.pub"] = OTHER.pem
    await node.run()


async def test_an_image_without_proof_runs_only_where_everything_is_accepted() -> None:
    node = Node('default = "accept"')
    node.registry.push(APP, "docker.io/library/free:1")
    await node.pull("docker.io/library/free:1")
    await node.pull()
    node.policies.text = SIGSTORE
    for name in (f"{NAME}:v1", f"{NAME}@{APP.digest}", APP.id):
        await node.not_run(name)
    with pytest.raises(SignatureValidationFailed, match=r"mounts\[0\].image: registry.example/team/app:v1"):
        await node.run("docker.io/library/free:1", mounted=[f"{NAME}:v1"])


async def test_a_signature_for_another_digest_of_the_record_does_not_count() -> None:
    node = await signed_node()
    image = node.state.images[APP.id]
    moved = tuple(msgspec.structs.replace(one, digest="sha256:" + "e" * 64) for one in image.signatures)
    await node.state.commit(msgspec.structs.replace(image, signatures=moved))
    await node.not_run()
    changed = tuple(msgspec.structs.replace(one, signature=b"x") for one in image.signatures)
    await node.state.commit(msgspec.structs.replace(image, signatures=changed))
    assert "none of the keys" in await node.not_run()


async def test_the_name_that_the_pod_gave_decides() -> None:
    """The kubelet asks by id, and tells the name."""
    node = await signed_node()
    node.registry.push(APP, "docker.io/library/free:1")
    await node.pull("docker.io/library/free:1")
    node.policies.text = 'default = "reject"\n[[rule]]\nprefix = "docker.io"\ndecision = "accept"\n'
    await node.run(APP.id, user="free:1")
    await node.run("docker.io/library/free:1")
    await node.not_run(APP.id, user=f"{NAME}:v1")
    assert NAME in await node.not_run(APP.id)  # nobody says which name is meant: each must be allowed
    assert NAME in await node.not_run(APP.id, user="docker.io/library/never-pulled:1")
    await node.not_run("free:1", user=f"{NAME}:v1")


async def test_the_name_that_the_pod_gave_for_a_volume_decides() -> None:
    node = await signed_node()
    node.policies.text = f'default = "reject"\n[[rule]]\nprefix = "{NAME}"\ndecision = "accept"\n'
    image = node.images.find(APP.id)
    for user, allowed in ((f"{NAME}:v1", True), ("docker.io/library/free:1", False), ("", True)):
        spec = cri.ImageSpec(image=APP.id, user_specified_image=user)
        mount = cri.Mount(image=spec, container_path="/m")
        config = cri.ContainerConfig(image=cri.ImageSpec(image=f"{NAME}:v1"), mounts=[mount])
        if allowed:
            await node.trust.may_run(config, image, [image])
        else:
            with pytest.raises(
                SignatureValidationFailed, match=r"mounts\[0\]\.image: docker\.io/library/free"
            ):
                await node.trust.may_run(config, image, [image])


async def test_an_image_that_was_removed_meanwhile_is_not_judged_to_be_good() -> None:
    node = await signed_node()
    image = node.images.find(APP.id)
    config = cri.ContainerConfig(image=cri.ImageSpec(image=f"{NAME}:v1"))
    with pytest.raises(NotFound, match="removed just now"):
        await node.trust.may_run(config, None, [])
    config.mounts.add(container_path="/m", image=cri.ImageSpec(image=f"{NAME}:v1"))
    with pytest.raises(NotFound, match=r"mounts\[0\]\.image: "):
        await node.trust.may_run(config, image, [None])


async def test_an_image_without_a_name_is_decided_by_the_default() -> None:
    node = Node(SIGSTORE)
    await node.state.commit(Image(id=APP.id, config=ImageConfig(), layers=()))
    await node.run(APP.id)
    node.policies.text = 'default = "reject"'
    assert "which has no name" in await node.not_run(APP.id)
    node.policies.text = 'default = "reject"\n[[rule]]\nprefix = "docker.io"\ndecision = "accept"\n'
    assert "which has no name" in await node.not_run(APP.id, user="free:1")


async def test_without_a_policy_nothing_is_read_and_everything_runs() -> None:
    trust = Trust()
    await trust.may_run(cri.ContainerConfig(), Image(id=APP.id, config=ImageConfig(), layers=()), [])
    with pytest.raises(SignatureValidationFailed, match="nothing here checks signatures"):
        node = Node()
        node.images.trust = Trust(node.policies, None)
        await node.pull()


async def test_a_record_holds_no_more_signatures_than_the_limit() -> None:
    node = Node()
    content = signing.payload(APP.digest, NAME)
    for number in range(3):
        signed = [(content, b"%d %d" % (number, each)) for each in range(20)]
        node.registry.attach(NAME, signing.simple(APP.digest, [*signed, (content, KEY.sign(content))]))
        node.policies.keys["/team.pub"] = KEY.pem
        await node.pull()
        await node.state.commit(
            msgspec.structs.replace(
                node.state.images[APP.id],
                signatures=tuple(
                    one for one in node.state.images[APP.id].signatures if one.signature != KEY.sign(content)
                ),
            )
        )
    assert 21 < len(node.state.images[APP.id].signatures) <= KEPT


# --- wired ------------------------------------------------------------------------------------------------


async def test_a_refused_container_is_not_made_and_leaves_nothing() -> None:
    system = wire()
    policies = FakePolicies('default = "reject"')
    system.images.trust = Trust(policies, FakeVerifier())
    pod = await system.pod()
    mount = cri.Mount(image=cri.ImageSpec(image="box"), container_path="/m", readonly=True)
    for mounts in ([], [mount]):
        with pytest.raises(SignatureValidationFailed, match=r"docker\.io/library/box:latest"):
            await system.container(pod, mounts=mounts)
    assert system.state.containers == {}
    assert all(row.id == pod for row in system.journal.rows.values())
    policies.text = 'default = "accept"'
    assert await system.container(pod)


async def test_a_refused_image_volume_stops_the_container() -> None:
    system = wire()
    data = Image(
        id="sha256:" + "5" * 64,
        config=ImageConfig(),
        layers=("sha256:" + "6" * 64,),
        tags=("registry.example/data:1",),
    )
    system.state.adopt([data])
    system.images._records.index.rebuild(system.state.images.values())
    system.images.trust = Trust(
        FakePolicies('default = "accept"\n[[rule]]\nprefix = "registry.example"\ndecision = "reject"\n')
    )
    pod = await system.pod()
    mount = cri.Mount(
        image=cri.ImageSpec(image="registry.example/data:1"), container_path="/m", readonly=True
    )
    with pytest.raises(SignatureValidationFailed, match=r"mounts\[0\].image: registry.example/data:1"):
        await system.container(pod, mounts=[mount])
    assert system.state.containers == {}
    assert await system.container(pod)


async def test_a_pull_of_what_is_no_reference_is_invalid_whatever_the_policy() -> None:
    with pytest.raises(Invalid):
        await Node('default = "reject"').pull("NO REFERENCE")
