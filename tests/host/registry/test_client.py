"""The registry client against a registry that can misbehave, and against a real one."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sampan.host.registry.client import RegistryClient
from sampan.host.registry.endpoint import Patience
from sampan.model.errors import Denied, Invalid, NotFound, RegistryUnavailable
from sampan.runtime.image_ports import Repository
from sampan.wire import manifest, reference
from sampan.wire.credentials import Credentials
from sampan.wire.manifest import Descriptor
from tests import evil_registry, images
from tests.conftest import PushImage
from tests.evil_registry import (
    Behaviour,
    EvilRegistry,
    Request,
    answer,
    blob,
    endless,
    hang,
    head,
    raw,
    redirect,
    running,
)

IMAGE = images.image([images.layer([images.Entry("file", data=b"x" * 300_000)])], compression="none")
LAYER = manifest.parse(IMAGE.manifest, "test").layers[0]  # type: ignore[union-attr]
DATA = IMAGE.blobs[LAYER.digest]
BLOB = f"/v2/app/blobs/{LAYER.digest}"
TAG = "/v2/app/manifests/latest"
OK = b"HTTP/1.1 200 OK\r\n"
JOHN = Credentials(username="john", password="s3cret-password")


@pytest.fixture
async def evil() -> AsyncIterator[EvilRegistry]:
    async with running() as registry:
        registry.serve(IMAGE)
        yield registry


@pytest.fixture
async def other() -> AsyncIterator[EvilRegistry]:
    async with running() as registry:
        registry.serve(IMAGE)
        yield registry


class Shop:
    """A client whose configuration is in `certs`; its pauses take no time and are remembered."""

    def __init__(self, certs: Path) -> None:
        self.certs = certs
        self.pauses: list[float] = []
        self.progress = 5.0
        self.now = 0.0

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def open(
        self, text: str = "evil.test/app", credentials: Credentials | None = None
    ) -> AsyncIterator[Repository]:
        client = RegistryClient([self.certs], lambda: Patience(self.progress, self._pause, lambda: self.now))
        async with client.open(reference.parse(text), credentials) as repository:
            yield repository


@pytest.fixture
def shop(tmp_path: Path, evil: EvilRegistry) -> Shop:
    evil.hosts_toml(tmp_path, "evil.test")
    return Shop(tmp_path)


async def download(repository: Repository, layer: Descriptor = LAYER) -> bytes:
    return b"".join([piece async for piece in repository.stream(layer)])


# --- the honest way -----------------------------------------------------------------------------------------


async def test_a_manifest_and_its_blobs_are_fetched(shop: Shop) -> None:
    async with shop.open() as repository:
        assert await repository.resolve("latest") == IMAGE.digest
        assert await repository.manifest("latest") == IMAGE.manifest
        assert await repository.manifest(IMAGE.digest) == IMAGE.manifest
        config = Descriptor(digest=IMAGE.id, size=len(IMAGE.blobs[IMAGE.id]))
        assert await repository.read(config, 1 << 20) == IMAGE.blobs[IMAGE.id]
        assert await download(repository) == DATA


async def test_nothing_compressed_is_asked_for(shop: Shop, evil: EvilRegistry) -> None:
    async with shop.open() as repository:
        await repository.manifest("latest")
    assert evil.requests[0].headers["accept-encoding"] == "identity"
    assert manifest.OCI_INDEX in evil.requests[0].headers["accept"]


async def test_a_real_registry_is_read(
    push_image: PushImage, registry: images.Registry, tmp_path: Path
) -> None:
    one = images.image([images.layer([images.Entry("hello", data=b"world")])])
    text = push_image("client/real", one)
    registry.hosts_directory(tmp_path, registry.address)
    async with Shop(tmp_path).open(text) as repository:
        assert await repository.resolve("latest") == one.digest
        assert await repository.manifest("latest") == one.manifest
        found = manifest.parse(one.manifest, "test")
        assert isinstance(found, manifest.Manifest)
        assert await download(repository, found.layers[0]) == one.blobs[found.layers[0].digest]
        with pytest.raises(NotFound, match="MANIFEST_UNKNOWN"):
            await repository.manifest("nope")


async def test_plain_http_is_not_tried_where_a_file_says_https(evil: EvilRegistry, tmp_path: Path) -> None:
    (tmp_path / "evil.test").mkdir()
    (tmp_path / "evil.test/hosts.toml").write_text(f'server = "https://{evil.address}"')
    with pytest.raises(RegistryUnavailable, match=r'server = "http://'):
        async with Shop(tmp_path).open() as repository:
            await repository.manifest("latest")
    assert evil.requests == []


async def test_a_registry_on_loopback_needs_no_configuration_and_gets_no_credentials(
    evil: EvilRegistry, tmp_path: Path
) -> None:
    shop = Shop(tmp_path)
    async with shop.open(f"{evil.address}/app", JOHN) as repository:
        assert await download(repository) == DATA
    evil.gate = basic_gate
    with pytest.raises(Denied, match=r"only if a hosts\.toml"):
        async with shop.open(f"{evil.address}/app", JOHN) as repository:
            await repository.manifest("latest")
    assert not any(request.authorization for request in evil.requests)
    evil.hosts_toml(tmp_path, evil.address)
    async with shop.open(f"{evil.address}/app", JOHN) as repository:
        assert await repository.manifest("latest") == IMAGE.manifest


async def test_a_registry_on_loopback_may_have_any_certificate(secure: EvilRegistry, tmp_path: Path) -> None:
    async with Shop(tmp_path).open(f"{secure.address}/app") as repository:
        assert await download(repository) == DATA


async def test_a_registry_that_knows_no_head_is_asked_by_get(shop: Shop, evil: EvilRegistry) -> None:
    known = answer(IMAGE.manifest, Docker_Content_Digest=IMAGE.digest)
    evil.on(TAG, answer(status=405), known)
    async with shop.open() as repository:
        assert await repository.resolve("latest") == IMAGE.digest
    assert [request.method for request in evil.requests] == ["HEAD", "GET"]


# --- hosts --------------------------------------------------------------------------------------------------


async def test_a_mirror_is_asked_first_and_told_whose_images_are_meant(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    evil.hosts_toml(shop.certs, "evil.test", f'[host."{other.url}"]\n')
    async with shop.open() as repository:
        await repository.manifest("latest")
        assert await download(repository) == DATA
    assert evil.requests == []
    assert {request.query for request in other.requests} == {"ns=evil.test"}


async def test_a_mirror_that_is_the_server_is_told_too(shop: Shop, evil: EvilRegistry) -> None:
    evil.hosts_toml(shop.certs, "_default")
    async with shop.open("elsewhere.test:5000/app") as repository:
        await repository.manifest("latest")
    assert evil.requests[0].query == "ns=elsewhere.test%3A5000"


async def test_a_mirror_that_may_only_resolve_is_asked_nothing(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    evil.hosts_toml(shop.certs, "evil.test", f'[host."{other.url}"]\ncapabilities = ["resolve"]\n')
    async with shop.open() as repository:
        await repository.manifest("latest")
        await repository.manifest(IMAGE.digest)
    assert other.requests == []


@pytest.mark.parametrize("behaviour", [answer(status=503), hang()])
async def test_a_mirror_is_given_less_patience_than_the_registry(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry, behaviour: Behaviour
) -> None:
    shop.progress = 0.4
    other.on(TAG, behaviour)
    evil.hosts_toml(shop.certs, "evil.test", f'[host."{other.url}"]\n')
    async with shop.open() as repository:
        assert await repository.manifest("latest") == IMAGE.manifest
    assert (len(other.requests), len(evil.requests), len(shop.pauses)) == (2, 1, 1)


@pytest.mark.parametrize(("seconds", "asked"), [(4, 2), (30, 1)])
async def test_a_mirror_that_asks_to_wait_is_left_for_the_next_host(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry, seconds: int, asked: int
) -> None:
    other.on(TAG, answer(status=429, Retry_After=str(seconds)))
    evil.hosts_toml(shop.certs, "evil.test", f'[host."{other.url}"]\n')
    async with shop.open() as repository:
        assert await repository.manifest("latest") == IMAGE.manifest
    assert len(other.requests) == asked


async def test_where_no_host_may_be_asked_the_configuration_is_wrong(shop: Shop, evil: EvilRegistry) -> None:
    evil.hosts_toml(shop.certs, "evil.test", 'capabilities = ["pull"]\n')
    with pytest.raises(Invalid, match=r"no host of evil\.test may be asked for this: see its hosts\.toml"):
        async with shop.open() as repository:
            await repository.manifest("latest")
    assert evil.requests == []


def test_how_long_an_attempt_may_bring_nothing() -> None:
    assert (Patience().attempt, Patience().attempts) == (75, 4)
    assert (Patience(mirror=True).attempt, Patience(mirror=True).attempts) == (30, 2)
    assert Patience(8, mirror=True).attempt == 2
    assert Patience(0).attempt is Patience(0, mirror=True).attempt is None


@pytest.mark.parametrize("behaviour", [answer(status=404), answer(status=500), answer(status=403), raw(b"")])
async def test_a_failing_mirror_is_passed_over(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry, behaviour: Behaviour
) -> None:
    other.on(TAG, behaviour)
    other.on(BLOB, behaviour)
    evil.hosts_toml(shop.certs, "evil.test", f'[host."{other.url}"]\n')
    async with shop.open() as repository:
        assert await repository.manifest("latest") == IMAGE.manifest
        assert await download(repository) == DATA


async def test_a_mirror_that_only_pulls_is_not_asked_what_a_tag_means(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    evil.hosts_toml(shop.certs, "evil.test", f'[host."{other.url}"]\ncapabilities = ["pull"]\n')
    async with shop.open() as repository:
        await repository.manifest("latest")
        await repository.manifest(IMAGE.digest)
    assert [request.path for request in evil.requests] == [TAG]
    assert [request.path for request in other.requests] == [f"/v2/app/manifests/{IMAGE.digest}"]


async def test_a_mirror_that_serves_other_content_is_passed_over(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    other.on(f"/v2/app/manifests/{IMAGE.digest}", answer(b"{}"))
    evil.hosts_toml(shop.certs, "evil.test", f'[host."{other.url}"]\n')
    async with shop.open() as repository:
        assert await repository.manifest(IMAGE.digest) == IMAGE.manifest


async def test_the_error_names_every_host_and_is_of_the_registrys_own_kind(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    evil.hosts_toml(shop.certs, "evil.test", f'[host."{other.url}"]\n')
    other.on("/v2/app/manifests/gone", answer(status=500))
    with pytest.raises(NotFound) as caught:
        async with shop.open() as repository:
            await repository.manifest("gone")
    assert other.address in str(caught.value)
    assert evil.address in str(caught.value)
    assert "evil.test/app:latest" in str(caught.value)


async def test_a_configured_header_goes_to_its_host_alone(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    evil.hosts_toml(shop.certs, "evil.test", '[header]\nx-key = "K3Y"\n')
    evil.on(BLOB, redirect(f"{other.url}{BLOB}"))
    async with shop.open() as repository:
        assert await download(repository) == DATA
    assert evil.requests[0].headers["x-key"] == "K3Y"
    assert "x-key" not in other.requests[0].headers


async def test_credentials_take_the_place_of_a_configured_header(shop: Shop, evil: EvilRegistry) -> None:
    evil.hosts_toml(
        shop.certs, "evil.test", '[header]\nauthorization = "Basic c3RhdGlj"\nx-two = ["a", "b"]\n'
    )
    evil.gate = basic_gate
    async with shop.open(credentials=JOHN) as repository:
        await repository.manifest("latest")
    assert [request.authorization for request in evil.requests] == ["Basic c3RhdGlj", JOHN.basic()]
    assert "x-two" in evil.requests[1].headers


async def test_a_token_server_at_the_host_itself_gets_its_configured_header(
    shop: Shop, evil: EvilRegistry
) -> None:
    evil.hosts_toml(shop.certs, "evil.test", '[header]\nx-gate = "0pen"\n')
    tokens = TokenServer(evil, f"{evil.url}/token")
    async with shop.open() as repository:
        await repository.manifest("latest")
    assert tokens.asked[0].headers["x-gate"] == "0pen"


async def test_a_token_server_elsewhere_does_not(shop: Shop, evil: EvilRegistry, other: EvilRegistry) -> None:
    evil.hosts_toml(shop.certs, "evil.test", '[header]\nx-gate = "0pen"\n')
    tokens = TokenServer(evil, f"{other.url}/token")
    other.gate = evil.gate
    async with shop.open() as repository:
        await repository.manifest("latest")
    assert tokens.asked and "x-gate" not in tokens.asked[0].headers


async def test_a_hosts_file_is_read_anew_at_each_pull(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    async with shop.open() as repository:
        await repository.manifest("latest")
    other.hosts_toml(shop.certs, "evil.test")
    async with shop.open() as repository:
        await repository.manifest("latest")
    assert len(evil.requests) == len(other.requests) == 1


# --- credentials --------------------------------------------------------------------------------------------


def basic_gate(request: Request) -> Behaviour | None:
    if request.authorization == JOHN.basic():
        return None
    return answer(b'{"errors":[{"code":"UNAUTHORIZED"}]}', 401, WWW_Authenticate='Basic realm="here"')


async def test_a_password_is_shown_when_asked_for(shop: Shop, evil: EvilRegistry) -> None:
    evil.gate = basic_gate
    async with shop.open(credentials=JOHN) as repository:
        assert await repository.manifest("latest") == IMAGE.manifest
        assert await download(repository) == DATA
    assert [bool(request.authorization) for request in evil.requests] == [False, True, True]


async def test_a_refused_password_is_denied_with_a_hint_and_not_shown(shop: Shop, evil: EvilRegistry) -> None:
    evil.gate = basic_gate
    wrong = Credentials(username="john", password="wr0ng-password")
    with pytest.raises(Denied, match="not accepted") as caught:
        async with shop.open(credentials=wrong) as repository:
            await repository.manifest("latest")
    assert "wr0ng" not in str(caught.value)


async def test_without_credentials_the_hint_says_what_is_missing(shop: Shop, evil: EvilRegistry) -> None:
    evil.gate = basic_gate
    with pytest.raises(Denied, match="imagePullSecret"):
        async with shop.open() as repository:
            await repository.manifest("latest")


async def test_credentials_for_another_registry_are_kept_back(shop: Shop, evil: EvilRegistry) -> None:
    evil.gate = basic_gate
    elsewhere = Credentials(username="john", password="s3cret-password", server="elsewhere.test")
    with pytest.raises(Denied, match=r"for 'elsewhere\.test'"):
        async with shop.open(credentials=elsewhere) as repository:
            await repository.manifest("latest")
    assert not any(request.authorization for request in evil.requests)


async def test_a_mirror_does_not_see_the_registrys_credentials(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    evil.hosts_toml(shop.certs, "evil.test", f'[host."{other.url}"]\n')
    evil.gate = other.gate = basic_gate
    async with shop.open(credentials=JOHN) as repository:
        assert await repository.manifest("latest") == IMAGE.manifest
    assert not any(request.authorization for request in other.requests)


class TokenServer:
    """Hands out tokens by the rules of `check`, and lets in who shows one."""

    def __init__(self, registry: EvilRegistry, realm: str, check: str = "") -> None:
        self.check = check
        self.asked: list[Request] = []
        self._registry = registry
        self._challenge = f'Bearer realm="{realm}",service="the service",scope="repository:app:pull"'
        registry.gate = self._gate

    def _gate(self, request: Request) -> Behaviour | None:
        if request.path == "/token":
            self.asked.append(request)
            good = self.check in (request.authorization + request.body.decode())
            token = json.dumps({"token": f"T{len(self.asked)}", "expires_in": 60}).encode()
            return answer(token) if good else answer(status=401)
        if request.authorization == f"Bearer T{len(self.asked)}":
            return None
        return answer(status=401, WWW_Authenticate=self._challenge)


async def test_an_anonymous_token_is_fetched_once(shop: Shop, evil: EvilRegistry) -> None:
    tokens = TokenServer(evil, f"{evil.url}/token")
    async with shop.open() as repository:
        assert await repository.manifest("latest") == IMAGE.manifest
        assert await download(repository) == DATA
    assert len(tokens.asked) == 1
    assert tokens.asked[0].query == "scope=repository:app:pull&service=the+service"
    assert tokens.asked[0].authorization == ""


async def test_a_token_is_had_for_a_password(shop: Shop, evil: EvilRegistry) -> None:
    tokens = TokenServer(evil, f"{evil.url}/token", check=JOHN.basic())
    async with shop.open(credentials=JOHN) as repository:
        assert await repository.manifest("latest") == IMAGE.manifest
    shown = [request.authorization for request in evil.requests if request.path != "/token"]
    assert shown == ["", "Bearer T1"]
    assert tokens.asked[0].authorization == JOHN.basic()


async def test_a_token_that_has_expired_is_renewed(shop: Shop, evil: EvilRegistry) -> None:
    tokens = TokenServer(evil, f"{evil.url}/token")
    async with shop.open() as repository:
        await repository.manifest("latest")
        tokens.asked.append(tokens.asked[0])  # T1 is not the current one any more
        assert await download(repository) == DATA


async def test_an_identity_token_is_traded_by_oauth(shop: Shop, evil: EvilRegistry) -> None:
    tokens = TokenServer(evil, f"{evil.url}/token", check="refresh_token=1dentity")
    async with shop.open(credentials=Credentials(identity_token="1dentity")) as repository:
        assert await repository.manifest("latest") == IMAGE.manifest
    assert tokens.asked[0].method == "POST"
    assert b"grant_type=refresh_token" in tokens.asked[0].body


async def test_a_registry_token_is_shown_as_it_is(shop: Shop, evil: EvilRegistry) -> None:
    async with shop.open(credentials=Credentials(registry_token="r3gistry")) as repository:
        await repository.manifest("latest")
    assert evil.requests[0].authorization == "Bearer r3gistry"


async def test_a_token_server_that_says_no_is_denied(shop: Shop, evil: EvilRegistry) -> None:
    TokenServer(evil, f"{evil.url}/token", check="nobody")
    with pytest.raises(Denied, match="token server"):
        async with shop.open(credentials=JOHN) as repository:
            await repository.manifest("latest")


@pytest.mark.parametrize(
    ("realm", "why"),
    [
        ("file:///etc/passwd", "no web address"),
        ("http://169.254.169.254/latest/meta-data", "link-local"),
        ("http://[fe80::1]/token", "link-local"),
        ("http://[::ffff:169.254.169.254]/token", "link-local"),
        ("https://u:p4ss@127.0.0.1/token", "no web address"),
        ("not a url", "no web address"),
        ("http://", "no web address"),
        ("http://[::1/token", "no web address"),
    ],
)
async def test_a_realm_that_is_none_of_the_registrys_business_is_refused(
    shop: Shop, evil: EvilRegistry, realm: str, why: str
) -> None:
    TokenServer(evil, realm)
    with pytest.raises((Invalid, Denied), match=why) as caught:
        async with shop.open() as repository:
            await repository.manifest("latest")
    assert "p4ss" not in str(caught.value)


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (redirect("http://127.0.0.1:1/token"), "redirects"),
        (answer(b'{"token": "a b"}'), "no usable token"),
        (answer(b'{"token": 7}'), "malformed"),
        (answer(b"<html>"), "not valid JSON"),
        (answer(b"{}"), "no usable token"),
        (answer(b"x" * (1 << 20) + b"y"), "more than"),
    ],
)
async def test_a_token_answer_that_is_not_as_it_should_be_is_refused(
    shop: Shop, evil: EvilRegistry, behaviour: Behaviour, why: str
) -> None:
    challenge = f'Bearer realm="{evil.url}/token"'
    evil.gate = lambda request: (
        behaviour if request.path == "/token" else answer(status=401, WWW_Authenticate=challenge)
    )
    with pytest.raises(Invalid, match=why):
        async with shop.open() as repository:
            await repository.manifest("latest")


# --- redirects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_elsewhere_is_followed_without_credentials(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry, status: int
) -> None:
    evil.gate = basic_gate
    evil.on(BLOB, redirect(f"http://user:pw@{other.address}{BLOB}?sig=S1GNATURE", status))
    async with shop.open(credentials=JOHN) as repository:
        assert await download(repository) == DATA
    assert [(request.authorization, request.query) for request in other.requests] == [("", "sig=S1GNATURE")]


async def test_whoever_we_are_redirected_to_may_not_ask_who_we_are(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    evil.on(BLOB, redirect(f"{other.url}{BLOB}"))
    tokens = TokenServer(other, f"{other.url}/token")
    with pytest.raises(Denied):
        async with shop.open(credentials=JOHN) as repository:
            await download(repository)
    assert tokens.asked == []


async def test_a_redirect_within_the_registry_keeps_credentials(shop: Shop, evil: EvilRegistry) -> None:
    evil.gate = basic_gate
    evil.on(BLOB, redirect("/elsewhere?x=1"))
    evil.on("/elsewhere", blob(DATA))
    async with shop.open(credentials=JOHN) as repository:
        assert await download(repository) == DATA
    assert evil.requests[-1].authorization == JOHN.basic()


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("{self}/v2/app/manifests/latest", "more than 5 times"),
        ("http://169.254.169.254/x?sig=S1GNATURE", "link-local"),
        ("file:///etc/passwd", "malformed"),
        ("ftp://127.0.0.1/x", "'ftp' address"),
        ("http://[::1", "malformed"),
        ("", "malformed"),
        ("/a b", "malformed"),
        ("http://127.0.0.1:99999/", "malformed"),
    ],
)
async def test_a_redirect_that_leads_astray_is_refused(
    shop: Shop, evil: EvilRegistry, location: str, why: str
) -> None:
    evil.on(TAG, redirect(location.format(self=evil.url)))
    with pytest.raises(Invalid, match=why) as caught:
        async with shop.open() as repository:
            await repository.manifest("latest")
    assert "S1GNATURE" not in str(caught.value)


async def test_a_failure_behind_a_signed_redirect_keeps_the_signature_secret(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    evil.on(BLOB, redirect(f"http://u:pw0rd@{other.address}/gone?sig=S1GNATURE#fragment"))
    other.on("/gone", answer(b"S1GNATURE", status=500))
    with pytest.raises(RegistryUnavailable) as caught:
        async with shop.open() as repository:
            await download(repository)
    assert f"http://{other.address}/gone answered 500" in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("S1GNATURE", "pw0rd", "fragment"))


# --- patience -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 522, 599])
async def test_what_may_pass_is_tried_again(shop: Shop, evil: EvilRegistry, status: int) -> None:
    evil.on(TAG, answer(status=status), answer(status=status), answer(IMAGE.manifest))
    async with shop.open() as repository:
        assert await repository.manifest("latest") == IMAGE.manifest
    assert 0.4 <= shop.pauses[0] <= 0.6
    assert 0.8 <= shop.pauses[1] <= 1.2


async def test_it_is_not_tried_for_ever(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(TAG, answer(b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}', status=429))
    with pytest.raises(RegistryUnavailable, match=r"^RegistryUnavailable: .*429 \(TOOMANYREQUESTS\)"):
        async with shop.open() as repository:
            await repository.manifest("latest")
    assert len(evil.requests) == 4


async def test_a_registry_that_asks_to_wait_is_waited_for(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(TAG, answer(status=429, Retry_After="7"), answer(IMAGE.manifest))
    async with shop.open() as repository:
        await repository.manifest("latest")
    assert 5.6 <= shop.pauses[0] <= 8.4


async def test_a_registry_may_say_until_when_to_wait(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(TAG, answer(status=503, Retry_After="Thu, 01 Jan 1970 00:02:00 GMT"), answer(IMAGE.manifest))
    shop.now = 100.0
    async with shop.open() as repository:
        await repository.manifest("latest")
    assert 16 <= shop.pauses[0] <= 24


@pytest.mark.parametrize("after", ["soon", "-5", "1e3", "9" * 400, "Thu, 99 Jan 1970 00:02:00 GMT", ""])
async def test_a_wait_that_makes_no_sense_is_as_none_said(shop: Shop, evil: EvilRegistry, after: str) -> None:
    evil.on(TAG, answer(status=429, Retry_After=after), answer(IMAGE.manifest))
    async with shop.open() as repository:
        await repository.manifest("latest")
    assert 0.4 <= shop.pauses[0] <= 0.6


async def test_pauses_grow_and_differ(shop: Shop, evil: EvilRegistry) -> None:
    """By chance alone two nodes do the same once in a very long while."""
    evil.on(TAG, answer(status=500))
    for _ in range(8):
        with pytest.raises(RegistryUnavailable, match=r"\(attempt 4\)$"):
            async with shop.open() as repository:
                await repository.manifest("latest")
    rounds = [shop.pauses[start : start + 3] for start in range(0, 24, 3)]
    assert all(first < second < third for first, second, third in rounds)
    assert len({first for first, _, _ in rounds}) == 8


@pytest.mark.parametrize("status", [501, 505])
async def test_what_a_registry_cannot_do_is_not_asked_for_again(
    shop: Shop, evil: EvilRegistry, status: int
) -> None:
    evil.on(TAG, answer(status=status))
    with pytest.raises(RegistryUnavailable, match=str(status)):
        async with shop.open() as repository:
            await repository.manifest("latest")
    assert len(evil.requests) == 1


async def test_a_registry_that_asks_for_too_much_patience_is_given_up(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(TAG, answer(status=429, Retry_After="86400"))
    with pytest.raises(RegistryUnavailable, match="wait 86400 s"):
        async with shop.open() as repository:
            await repository.manifest("latest")
    assert shop.pauses == []


@pytest.mark.parametrize(
    "behaviour",
    [
        hang(),
        hang(OK),
        hang(head(200, {"Content-Length": "100"}) + b"{"),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, pause=0.01),
        endless(head(200, {"Content-Length": "1000"}), b" ", pause=0.01),
    ],
)
async def test_a_registry_that_does_not_get_on_is_given_up(
    shop: Shop, evil: EvilRegistry, behaviour: Behaviour
) -> None:
    shop.progress = 0.2
    evil.on(TAG, behaviour)
    with pytest.raises(RegistryUnavailable) as caught:
        async with shop.open() as repository:
            await repository.manifest("latest")
    assert len(evil.requests) == 4
    said = str(caught.value)
    for part in (
        "evil.test/app:latest",
        f"{evil.url}{TAG} let 0.05 s pass without getting on (attempt 4)",
        "images.pull_progress_timeout",
    ):
        assert part in said


async def test_a_layer_that_does_not_get_on_is_named_with_what_to_set(shop: Shop, evil: EvilRegistry) -> None:
    shop.progress = 0.2
    evil.on(BLOB, hang(head(200, {"Content-Length": str(len(DATA))}) + DATA[:100]))
    with pytest.raises(RegistryUnavailable) as caught:
        async with shop.open() as repository:
            await download(repository)
    said = str(caught.value)
    for part in ("evil.test/app:latest", f"{evil.url}{BLOB}", "images.pull_progress_timeout"):
        assert part in said


async def test_a_registry_that_is_not_there_is_said_so_at_once(shop: Shop, evil: EvilRegistry) -> None:
    (shop.certs / "evil.test/hosts.toml").write_text('server = "http://127.0.0.1:1"')
    with pytest.raises(RegistryUnavailable, match="cannot be reached: Connect"):
        async with shop.open() as repository:
            await repository.manifest("latest")
    assert shop.pauses == []


# --- downloads that break -----------------------------------------------------------------------------------


async def test_a_broken_download_is_taken_up_where_it_broke(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, blob(DATA, cut=100_000), blob(DATA, cut=100_000), blob(DATA))
    async with shop.open() as repository:
        assert await download(repository) == DATA
    ranges = [request.headers.get("range") for request in evil.requests]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]


async def test_a_host_that_ignores_ranges_is_read_past_what_is_known(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(BLOB, blob(DATA, cut=100_000), blob(DATA, ranges=False))
    async with shop.open() as repository:
        assert await download(repository) == DATA


async def test_another_host_carries_on_where_one_gave_up(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    other.on(BLOB, blob(DATA, cut=50_000), answer(status=500))
    evil.hosts_toml(shop.certs, "evil.test", f'[host."{other.url}"]\n')
    async with shop.open() as repository:
        assert await download(repository) == DATA
    assert evil.requests[0].headers["range"] == "bytes=50000-"


async def test_a_download_that_trickles_is_given_up(shop: Shop, evil: EvilRegistry) -> None:
    shop.progress = 0.4
    evil.on(BLOB, endless(head(200, {"Content-Length": str(len(DATA))}), b"x", pause=0.02))
    with pytest.raises(RegistryUnavailable, match="brought only"):
        async with shop.open() as repository:
            await download(repository)


async def test_a_slow_reader_is_not_a_slow_registry(shop: Shop) -> None:
    shop.progress = 0.2
    async with shop.open() as repository:
        received = b""
        async for piece in repository.stream(LAYER):
            received += piece
            await asyncio.sleep(0.06)
    assert received == DATA


@pytest.mark.parametrize(
    ("behaviour", "error", "why"),
    [
        (answer(DATA + b"x"), Invalid, "longer than"),
        (answer(DATA[:-1]), RegistryUnavailable, "1 bytes early"),
        (blob(DATA, cut=0), RegistryUnavailable, "broke the connection|early"),
        (answer(b"", status=204), Invalid, "answered 204"),
        (answer(DATA, status=206, Content_Range="bytes 5-9/10"), Invalid, "another range"),
        (answer(DATA, status=206), Invalid, "another range"),
        (endless(head(200, {}), b"x" * 65536), Invalid, "longer than"),
        (
            endless(head(200, {"Transfer-Encoding": "chunked"}), b"4\r\nxxxx\r\n" * 5000),
            Invalid,
            "longer than",
        ),
        (raw(head(200, {"Transfer-Encoding": "chunked"}) + b"zz\r\n"), RegistryUnavailable, "HTTP|broke"),
    ],
)
async def test_a_blob_that_is_not_what_was_promised_is_refused(
    shop: Shop, evil: EvilRegistry, behaviour: Behaviour, error: type[Exception], why: str
) -> None:
    evil.on(BLOB, behaviour)
    with pytest.raises(error, match=why):
        async with shop.open() as repository:
            await download(repository)


@pytest.mark.parametrize(
    ("behaviour", "error", "why"),
    [
        (answer(b"x" * (4 << 20) + b"y"), Invalid, "more than the 4194304 bytes"),
        (endless(head(200, {}), b" " * 65536), Invalid, "more than the 4194304 bytes"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), RegistryUnavailable, "speak HTTP"),
        (raw(OK + b"Content-Length: 9223372036854775808\r\n\r\n"), RegistryUnavailable, "HTTP|broke"),
        (raw(OK + b"Content-Length: -1\r\n\r\n"), RegistryUnavailable, "HTTP|broke"),
        (raw(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"), RegistryUnavailable, "HTTP|broke"),
        (endless(OK, b"X-Filler: " + b"y" * 8000 + b"\r\n"), RegistryUnavailable, "HTTP|broke"),
        (endless(OK + b"X: ", b"y" * 65536), RegistryUnavailable, "HTTP|broke"),
        (raw(b""), RegistryUnavailable, "broke"),
        (answer(status=400), Invalid, "answered 400"),
        (answer(status=418), Invalid, "answered 418"),
        (answer(status=304), Invalid, "answered 304"),
        (answer(status=404), NotFound, "does not exist"),
        (answer(status=410), NotFound, "does not exist"),
        (answer(status=451), Denied, "451"),
        (answer(b'{"errors":[{"code":"bad\\n","message":"s3cret-password"}]}', status=403), Denied, "403:"),
    ],
)  # fmt: skip
async def test_an_answer_that_makes_no_sense_is_an_error_with_a_name(
    shop: Shop, evil: EvilRegistry, behaviour: Behaviour, error: type[Exception], why: str
) -> None:
    evil.on(TAG, behaviour)
    with pytest.raises(error, match=why) as caught:
        async with shop.open(credentials=JOHN) as repository:
            await repository.manifest("latest")
    assert "s3cret-password" not in str(caught.value)


async def test_a_manifest_under_a_digest_must_have_it(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(
        f"/v2/app/manifests/{IMAGE.digest}", answer(IMAGE.manifest + b" ", Docker_Content_Digest=IMAGE.digest)
    )
    with pytest.raises(Invalid, match="other content"):
        async with shop.open() as repository:
            await repository.manifest(IMAGE.digest)


@pytest.mark.parametrize("claim", ["", "sha256:../../x", "sha256:" + "A" * 64, "md5:" + "0" * 32])
async def test_a_claimed_digest_that_is_none_is_not_believed(
    shop: Shop, evil: EvilRegistry, claim: str
) -> None:
    evil.on(TAG, answer(IMAGE.manifest, Docker_Content_Digest=claim))
    async with shop.open() as repository:
        assert await repository.resolve("latest") is None


async def test_cookies_are_not_kept(shop: Shop, evil: EvilRegistry) -> None:
    evil.on(TAG, answer(IMAGE.manifest, Set_Cookie="track=me; Path=/"))
    async with shop.open() as repository:
        await repository.manifest("latest")
        await repository.manifest("latest")
    assert not any("cookie" in request.headers for request in evil.requests)


# --- TLS ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in the same file."""
    directory = tmp_path_factory.mktemp("tls")
    evil_registry.certificate(directory)
    return directory


@pytest.fixture
async def secure(certificate: Path) -> AsyncIterator[EvilRegistry]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "both.pem")
    context.load_verify_locations(certificate / "cert.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    async with running(context) as registry:
        registry.serve(IMAGE)
        yield registry


async def test_a_certificate_that_nobody_vouches_for_is_refused(secure: EvilRegistry, tmp_path: Path) -> None:
    secure.hosts_toml(tmp_path, "evil.test")
    with pytest.raises(RegistryUnavailable, match=r"not trusted.*ca in its hosts\.toml"):
        async with Shop(tmp_path).open() as repository:
            await repository.manifest("latest")
    assert secure.requests == []


@pytest.mark.parametrize(
    "how", ['ca = "cert.pem"', "skip_verify = true", 'ca = ["cert.pem"]\nclient = "both.pem"']
)
async def test_a_hosts_file_says_what_to_trust(
    secure: EvilRegistry, certificate: Path, tmp_path: Path, how: str
) -> None:
    secure.hosts_toml(tmp_path, secure.address, how)
    for name in ("cert.pem", "both.pem"):
        (tmp_path / secure.address / name).write_bytes((certificate / name).read_bytes())
    async with Shop(tmp_path).open(f"{secure.address}/app") as repository:
        assert await download(repository) == DATA


async def test_a_connection_with_certificates_of_its_own_is_used_again(
    secure: EvilRegistry, certificate: Path, tmp_path: Path
) -> None:
    secure.hosts_toml(tmp_path, secure.address, 'ca = "cert.pem"')
    (tmp_path / secure.address / "cert.pem").write_bytes((certificate / "cert.pem").read_bytes())
    async with Shop(tmp_path).open(f"{secure.address}/app") as repository:
        for _ in range(3):
            await repository.manifest("latest")
        assert await download(repository) == DATA
    assert secure.connections == 1


async def test_a_host_written_in_capitals_is_the_same_host(
    evil: EvilRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, real = evil.address.rpartition(":")[2], asyncio.BaseEventLoop.getaddrinfo

    async def getaddrinfo(self: Any, host: str, port: int, **more: Any) -> list[Any]:
        return await real(self, "127.0.0.1" if host.lower() == "lab.test" else host, port, **more)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    (tmp_path / f"LAB.test:{port}").mkdir()
    (tmp_path / f"LAB.test:{port}" / "hosts.toml").write_text(f'server = "http://LAB.test:{port}"\n')
    evil.gate = lambda request: (
        None if request.authorization else answer(status=401, WWW_Authenticate="Basic")
    )
    async with Shop(tmp_path).open(f"LAB.test:{port}/app", JOHN) as repository:
        assert await repository.manifest("latest") == IMAGE.manifest


async def test_a_host_that_is_no_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no address"):
        async with Shop(tmp_path).open("[::::]/app") as repository:
            await repository.manifest("latest")


async def test_a_proxy_that_wants_credentials_says_so(
    evil: EvilRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", evil.address)
    evil.gate = lambda _: answer(status=407)
    with pytest.raises(Denied, match="proxy that wants credentials"):
        async with Shop(tmp_path).open("registry.test/app") as repository:
            await repository.manifest("latest")


async def test_certificates_alone_make_a_hosts_directory(
    secure: EvilRegistry, certificate: Path, tmp_path: Path
) -> None:
    directory = tmp_path / secure.address.replace(":", "_").__add__("_")
    directory.mkdir()
    (directory / "ours.crt").write_bytes((certificate / "cert.pem").read_bytes())
    async with Shop(tmp_path).open(f"{secure.address}/app") as repository:
        assert await repository.manifest("latest") == IMAGE.manifest


async def test_a_certificate_file_that_is_missing_is_named(secure: EvilRegistry, tmp_path: Path) -> None:
    secure.hosts_toml(tmp_path, secure.address, 'ca = "missing.pem"')
    with pytest.raises(Invalid, match=r"missing\.pem cannot be used \(no such file\)"):
        async with Shop(tmp_path).open(f"{secure.address}/app") as repository:
            await repository.manifest("latest")


async def test_tls_is_never_left_by_a_redirect(
    secure: EvilRegistry, other: EvilRegistry, tmp_path: Path
) -> None:
    secure.hosts_toml(tmp_path, secure.address, "skip_verify = true")
    secure.on(BLOB, redirect(f"{other.url}{BLOB}"))
    with pytest.raises(Invalid, match="to plain http"):
        async with Shop(tmp_path).open(f"{secure.address}/app") as repository:
            await download(repository)
    assert other.requests == []


async def test_a_token_server_without_tls_gets_nothing_from_a_registry_with_it(
    secure: EvilRegistry, other: EvilRegistry, tmp_path: Path
) -> None:
    secure.hosts_toml(tmp_path, secure.address, "skip_verify = true")
    TokenServer(secure, f"{other.url}/token")
    with pytest.raises(Invalid, match="without TLS"):
        async with Shop(tmp_path).open(f"{secure.address}/app", JOHN) as repository:
            await repository.manifest("latest")
    assert other.requests == []
