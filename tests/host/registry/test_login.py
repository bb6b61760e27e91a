"""Whose credentials a pull shows to whom: those of the request, of the node, or none; and that none gets lost."""

import base64
import contextlib
import http.client
import json
import logging
import os
import shutil
import stat
import subprocess
import time
import traceback
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import pytest

from sampan.api import cri_pb2 as cri
from sampan.host.registry.client import RegistryClient
from sampan.host.registry.endpoint import Patience
from sampan.model.errors import Denied, Invalid, RegistryUnavailable, SampanError
from sampan.runtime.image_ports import Archives, Repository
from sampan.runtime.images import Images, Supply
from sampan.runtime.state import State
from sampan.tasks import Tasks
from sampan.wire import credentials, manifest, reference
from sampan.wire.credentials import Credentials
from tests import images
from tests.conftest import running_registry
from tests.evil_registry import Behaviour, EvilRegistry, Request, answer, redirect, running
from tests.fake_layers import FakeLayers
from tests.fakes import FakeJournal

IMAGE = images.image(
    [images.layer([images.Entry("file", data=b"x" * 1000)])], compression="none", architecture="amd64"
)
LAYER = manifest.parse(IMAGE.manifest, "test").layers[0]  # type: ignore[union-attr]
BLOB = f"/v2/app/blobs/{LAYER.digest}"
TAG = "/v2/app/manifests/latest"
JOHN = Credentials(username="john", password="j0hns-password")
NODE = Credentials(username="node", password="n0des-password")


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
    """A client with a configuration directory and a file of the node's credentials."""

    def __init__(self, directory: Path) -> None:
        self.certs = directory / "certs.d"
        self.file = directory / "config.json"

    def knows(self, auths: dict[str, Credentials], **more: Any) -> None:
        """What the node has, by registry."""
        entries = {key: {"auth": b64(f"{each.username}:{each.password}")} for key, each in auths.items()}
        self.file.write_text(json.dumps({"auths": entries, **more}))
        self.file.chmod(0o600)

    @property
    def client(self) -> RegistryClient:
        return RegistryClient([self.certs], lambda: Patience(5.0, _no_pause), auth_files=[self.file])

    @contextlib.asynccontextmanager
    async def open(
        self, given: Credentials | None = None, text: str = "evil.test/app"
    ) -> AsyncIterator[Repository]:
        async with self.client.open(reference.parse(text), given) as repository:
            yield repository

    async def pull(self, given: Credentials | None = None, text: str = "evil.test/app") -> None:
        async with self.open(given, text) as repository:
            assert await repository.manifest("latest") == IMAGE.manifest
            assert b"".join([piece async for piece in repository.stream(LAYER)]) == IMAGE.blobs[LAYER.digest]


async def _no_pause(_: float) -> None:
    """Patience without waiting."""


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def shop(tmp_path: Path, evil: EvilRegistry) -> Shop:
    shop = Shop(tmp_path)
    evil.hosts_toml(shop.certs, "evil.test")
    return shop


class Basic:
    """Lets in whoever shows one of `good`."""

    def __init__(self, registry: EvilRegistry, *good: str, refusal: int = 401) -> None:
        self._good = good
        self._refusal = refusal
        registry.gate = self._gate

    def _gate(self, request: Request) -> Behaviour | None:
        if request.authorization in self._good:
            return None
        status = self._refusal if request.authorization else 401
        return answer(status=status, WWW_Authenticate='Basic realm="here"')


class Tokens:
    """A token server at `server`/token. Who proves to be one of `good` gets a token that `registry` accepts, one of
    `known` a token that it refuses with `refusal`; a proof is an Authorization header, or a refresh token."""

    def __init__(
        self,
        registry: EvilRegistry,
        server: EvilRegistry | None = None,
        *,
        good: Collection[str],
        known: Collection[str] = (),
        refusal: int = 401,
        post: int = 200,
    ) -> None:
        self.good, self.known, self.refusal, self.post = good, known, refusal, post
        self.asked: list[Request] = []
        self.valid: set[str] = set()
        self.realm = f"{(server or registry).url}/token"
        registry.gate = self._gate
        if server:
            server.gate = lambda request: self._token(request) if request.path == "/token" else None

    @property
    def proofs(self) -> list[str]:
        return [proof(each) for each in self.asked]

    def _gate(self, request: Request) -> Behaviour | None:
        if request.path == "/token":
            return self._token(request)
        if request.authorization.removeprefix("Bearer ") in self.valid:
            return None
        if request.authorization and self.refusal == 403:
            return answer(b'{"errors":[{"code":"DENIED"}]}', 403)
        return answer(status=401, WWW_Authenticate=f'Bearer realm="{self.realm}",service="s"')

    def _token(self, request: Request) -> Behaviour:
        self.asked.append(request)
        if request.method == "POST" and self.post != 200:
            return answer(status=self.post)
        if proof(request) in self.good:
            self.valid.add(f"g00d-{len(self.asked)}")
            return answer(json.dumps({"access_token": f"g00d-{len(self.asked)}"}).encode())
        return answer(b'{"token":"b4d-token"}') if proof(request) in self.known else answer(status=401)


def proof(request: Request) -> str:
    if request.method == "POST":
        return parse_qs(request.body.decode())["refresh_token"][0]
    return request.authorization


def shown(registry: EvilRegistry) -> list[str]:
    return [request.authorization for request in registry.requests]


# --- whose --------------------------------------------------------------------------------------------------


async def test_without_credentials_in_the_request_those_of_the_node_are_shown(
    shop: Shop, evil: EvilRegistry
) -> None:
    shop.knows({"evil.test": NODE})
    Basic(evil, NODE.basic())
    await shop.pull()
    assert shown(evil) == ["", NODE.basic(), NODE.basic()]


async def test_credentials_of_the_request_go_before_those_of_the_node(
    shop: Shop, evil: EvilRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    shop.file.write_text("broken")  # and is not even looked at
    Basic(evil, JOHN.basic())
    await shop.pull(JOHN)
    assert set(shown(evil)) == {"", JOHN.basic()}
    assert caplog.text == ""


@pytest.mark.parametrize("refusal", [401, 403])
async def test_credentials_of_the_request_that_are_refused_are_denied_whatever_the_node_has(
    shop: Shop, evil: EvilRegistry, refusal: int
) -> None:
    shop.knows({"evil.test": NODE})
    Basic(evil, NODE.basic(), refusal=refusal)
    with pytest.raises(Denied, match="the credentials given are not accepted"):
        await shop.pull(JOHN)
    assert NODE.basic() not in shown(evil)


async def test_a_token_server_that_refuses_the_requests_credentials_is_not_asked_for_an_anonymous_token(
    shop: Shop, evil: EvilRegistry
) -> None:
    tokens = Tokens(evil, good=("",))
    with pytest.raises(Denied, match="token server"):
        await shop.pull(JOHN)
    assert tokens.proofs == [JOHN.basic()]


async def test_what_everybody_may_have_is_had_without_looking_for_credentials(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.file.write_text("broken")
    await shop.pull()
    assert caplog.text == ""


async def test_the_nodes_credentials_are_read_at_each_pull_and_not_kept(
    shop: Shop, evil: EvilRegistry
) -> None:
    Basic(evil, NODE.basic())
    client = shop.client
    for has, outcome in ((True, None), (False, Denied), (True, None)):
        shop.knows({"evil.test": NODE} if has else {})
        async with client.open(reference.parse("evil.test/app"), None) as repository:
            with pytest.raises(outcome) if outcome else contextlib.nullcontext():
                await repository.manifest("latest")


async def test_a_file_that_cannot_be_used_is_named_where_credentials_are_missing(
    shop: Shop, evil: EvilRegistry
) -> None:
    shop.file.write_text("broken")
    Basic(evil, NODE.basic())
    with pytest.raises(Denied, match=rf"imagePullSecret.*{shop.file} is not valid JSON"):
        await shop.pull()
    Tokens(evil, good=("",))
    await shop.pull()  # what is public is had all the same


async def test_a_helpers_identity_token_is_traded(
    shop: Shop, evil: EvilRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, monkeypatch, 'echo \'{"Username":"<token>","Secret":"1dentity"}\'')
    shop.knows({}, credHelpers={"evil.test": "test"})
    tokens = Tokens(evil, good=("1dentity",))
    await shop.pull()
    assert tokens.proofs == ["1dentity"]


async def test_a_registry_token_of_the_node_is_shown(shop: Shop, evil: EvilRegistry) -> None:
    shop.file.write_text('{"auths": {"evil.test": {"registrytoken": "g00d-token"}}}')
    shop.file.chmod(0o600)
    Tokens(evil, good=()).valid.add("g00d-token")
    await shop.pull()
    assert shown(evil) == ["", "Bearer g00d-token", "Bearer g00d-token"]


# --- without any --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("known", "refusal"), [((), 401), ((NODE.basic(),), 401), ((NODE.basic(),), 403)])
async def test_what_the_nodes_credentials_may_not_have_is_asked_for_without_any(
    shop: Shop, evil: EvilRegistry, known: Sequence[str], refusal: int
) -> None:
    """Refused by the token server, or by the registry when it sees their token."""
    shop.knows({"evil.test": NODE})
    tokens = Tokens(evil, good=("",), known=known, refusal=refusal)
    await shop.pull()
    assert tokens.proofs == [NODE.basic(), ""]
    assert shown(evil)[-2:] == ["Bearer g00d-2"] * 2


async def test_what_nobody_may_have_is_denied_naming_where_the_credentials_are_from(
    shop: Shop, evil: EvilRegistry
) -> None:
    shop.knows({"evil.test": NODE})
    tokens = Tokens(evil, good=(), known=("", NODE.basic()), refusal=403)
    with pytest.raises(Denied, match=rf"DENIED.*neither the node's credentials, from {shop.file}, nor none"):
        await shop.pull()
    assert tokens.proofs == [NODE.basic(), ""]
    tokens.known = ()
    with pytest.raises(Denied, match="neither the node's"):
        await shop.pull()


@pytest.mark.parametrize("refusal", [401, 403])
async def test_a_refused_password_of_the_node_is_not_shown_again(
    shop: Shop, evil: EvilRegistry, refusal: int
) -> None:
    shop.knows({"evil.test": NODE})
    Basic(evil, refusal=refusal)
    async with shop.open() as repository:
        for _ in range(2):
            with pytest.raises(Denied, match="neither the node's"):
                await repository.manifest("latest")
    assert shown(evil) == ["", NODE.basic(), "", ""]


async def test_a_token_of_the_nodes_that_expires_is_renewed(shop: Shop, evil: EvilRegistry) -> None:
    shop.knows({"evil.test": NODE})
    tokens = Tokens(evil, good=(NODE.basic(),))
    async with shop.open() as repository:
        await repository.manifest("latest")
        tokens.valid.clear()
        await repository.manifest("latest")
        tokens.valid.clear()
        tokens.good = ("",)
        await repository.manifest("latest")
    assert tokens.proofs == [NODE.basic(), NODE.basic(), NODE.basic(), ""]


# --- identity tokens ----------------------------------------------------------------------------------------


async def test_an_identity_token_is_traded_by_post(shop: Shop, evil: EvilRegistry) -> None:
    tokens = Tokens(evil, good=("1dentity",))
    await shop.pull(Credentials(identity_token="1dentity"))
    (asked,) = tokens.asked
    assert asked.method == "POST" and asked.query == "" and asked.authorization == ""
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["1dentity"],
        "client_id": ["sampan"],
        "service": ["s"],
        "scope": ["repository:app:pull"],
    }


@pytest.mark.parametrize("status", [404, 405])
async def test_a_token_server_without_post_gets_it_as_a_password(
    shop: Shop, evil: EvilRegistry, status: int
) -> None:
    given = Credentials(identity_token="1dentity")
    tokens = Tokens(evil, good=(given.identity_as_basic(),), post=status)
    await shop.pull(given)
    assert [each.method for each in tokens.asked] == ["POST", "GET"]


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_an_identity_token_that_is_refused_is_denied(
    shop: Shop, evil: EvilRegistry, status: int
) -> None:
    tokens = Tokens(evil, good=("",), post=status)
    with pytest.raises(Denied, match=f"answered {status}"):
        await shop.pull(Credentials(identity_token="1dentity"))
    assert len(tokens.asked) == 1


# --- to whom ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "accepted"),
    [
        *(("evil.test", True), ("https://evil.test/v1/", True), ("evil.test/app", True)),
        *(("evil.test/other", False), ("other.test", False), ("evil.test:443", False)),
    ],
)
async def test_the_server_address_of_a_request_is_honoured(
    shop: Shop, evil: EvilRegistry, address: str, accepted: bool
) -> None:
    Basic(evil, JOHN.basic())
    given = credentials.from_cri(
        cri.AuthConfig(username=JOHN.username, password=JOHN.password, server_address=address)
    )
    with contextlib.nullcontext() if accepted else pytest.raises(Denied, match="not shown to this host"):
        await shop.pull(given)
    assert (JOHN.basic() in shown(evil)) is accepted


async def test_a_mirror_gets_the_nodes_credentials_for_itself_and_no_others(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    evil.hosts_toml(shop.certs, "evil.test", f'[host."{other.url}"]\n')
    Basic(other, NODE.basic())
    shop.knows({"evil.test": JOHN})
    await shop.pull()
    assert set(shown(other)) == {""}
    other.requests.clear()
    evil.requests.clear()
    shop.knows({"evil.test": JOHN, other.address: NODE})
    await shop.pull()
    assert set(shown(other)) == {"", NODE.basic()}
    assert evil.requests == []


async def test_a_mirror_in_a_folder_is_looked_up_with_the_folder(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    table = f'[host."{other.url}/v2/proxy"]\noverride_path = true\n'
    evil.hosts_toml(shop.certs, "evil.test", table)
    other.serve(IMAGE, "proxy/app")
    Basic(other, NODE.basic())
    shop.knows({f"{other.address}/proxy": NODE, other.address: JOHN})
    await shop.pull()
    assert evil.requests == []
    assert JOHN.basic() not in shown(other)


async def test_whoever_we_are_redirected_to_never_makes_us_look_for_credentials(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    shop.knows({"evil.test": NODE, other.address: NODE})
    evil.on(BLOB, redirect(f"{other.url}{BLOB}"))
    for status in (401, 403):
        other.gate = lambda _, status=status: answer(  # type: ignore[misc]
            status=status, WWW_Authenticate='Basic realm="x"'
        )
        with pytest.raises(Denied):
            await shop.pull()
    assert set(shown(evil)) | set(shown(other)) == {""}


async def test_a_token_server_at_another_port_of_the_host_is_fine(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry
) -> None:
    """As for docker.io, whose token server is auth.docker.io; its token goes to the registry alone."""
    tokens = Tokens(evil, other, good=(JOHN.basic(),))
    await shop.pull(JOHN)
    assert tokens.proofs == [JOHN.basic()]
    assert {request.path for request in other.requests} == {"/token"}
    assert set(shown(evil)) == {"", "Bearer g00d-1"}


@pytest.mark.parametrize(
    ("realm", "why"),
    [
        ("http://auth.evil.test/token", "elsewhere without TLS"),
        ("http://169.254.169.254/latest/meta-data", "elsewhere without TLS"),
        ("http://127.0.0.2/token", "elsewhere without TLS"),
        ("https://169.254.169.254/token", "link-local"),
        ("https://[fe80::1]/token", "link-local"),
        ("https://[::ffff:169.254.169.254]/token", "link-local"),
    ],
)
@pytest.mark.parametrize("given", [JOHN, Credentials(identity_token="1dentity"), None])
async def test_a_realm_elsewhere_gets_nothing_over_http_nor_on_the_nodes_own_link(
    shop: Shop, evil: EvilRegistry, realm: str, why: str, given: Credentials | None
) -> None:
    shop.knows({"evil.test": NODE})
    Tokens(evil, good=()).realm = realm
    with pytest.raises(Invalid, match=why):
        await shop.pull(given)
    assert set(shown(evil)) == {""}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_token_server_that_redirects_is_not_followed(
    shop: Shop, evil: EvilRegistry, other: EvilRegistry, status: int
) -> None:
    challenge = f'Bearer realm="{evil.url}/token"'
    evil.gate = lambda request: (
        redirect(f"{other.url}/token", status)
        if request.path == "/token"
        else answer(status=401, WWW_Authenticate=challenge)
    )
    for given in (JOHN, Credentials(identity_token="1dentity")):
        with pytest.raises(Invalid, match="redirects, which is not followed"):
            await shop.pull(given)
    assert other.requests == []


async def test_a_registry_on_loopback_that_nobody_configured_gets_nothing_of_the_nodes(
    shop: Shop, evil: EvilRegistry
) -> None:
    shop.knows({evil.address: NODE})
    Basic(evil, NODE.basic())
    with pytest.raises(Denied, match=r"only if a hosts\.toml"):
        await shop.pull(text=f"{evil.address}/app")
    assert set(shown(evil)) == {""}
    evil.hosts_toml(shop.certs, evil.address)
    await shop.pull(text=f"{evil.address}/app")
    assert NODE.basic() in shown(evil)


# --- a real registry ----------------------------------------------------------------------------------------

HTPASSWD = "real:$2b$04$G4Bd/EYcbQ9BUor7spyobezZ/BdU92qwyWqdGcaxBtibqFTd2jX8K\n"  # of the password below
REAL = Credentials("real", "r3al-password")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of Debian's docker-registry that wants a password and has the image `app`."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed; `make test` installs it")
    directory = tmp_path_factory.mktemp("guarded")
    with running_registry(directory) as registry:
        registry.push("app", IMAGE, "latest")
        address = registry.address
    (directory / "htpasswd").write_text(HTPASSWD)
    with (directory / "registry.yml").open("a") as file:
        file.write(f"\nauth: {{htpasswd: {{realm: here, path: {directory}/htpasswd}}}}\n")
    with (directory / "guarded.log").open("wb") as log:
        argv = ["docker-registry", "serve", str(directory / "registry.yml")]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={})
    try:
        wait_for_401(address, process)
        yield address
    finally:
        process.kill()
        process.wait()


def wait_for_401(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request("GET", "/v2/")
            assert connection.getresponse().status == 401
        except OSError:
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
    raise RuntimeError("docker-registry did not come up")


@pytest.mark.parametrize(
    ("given", "node", "accepted"),
    [
        ({"username": REAL.username, "password": REAL.password}, None, True),
        ({"auth": b64(f"{REAL.username}:{REAL.password}")}, None, True),
        ({"username": REAL.username, "password": "wrong"}, REAL, False),
        ({}, REAL, True),
        ({}, JOHN, False),
        ({}, None, False),
    ],
)
async def test_a_real_registry_with_a_password(
    tmp_path: Path, guarded: str, given: dict[str, str], node: Credentials | None, accepted: bool
) -> None:
    shop = Shop(tmp_path)
    (shop.certs / guarded).mkdir(parents=True)
    (shop.certs / guarded / "hosts.toml").write_text(f'server = "http://{guarded}"')
    shop.knows({guarded: node} if node else {})
    with contextlib.nullcontext() if accepted else pytest.raises(Denied, match="UNAUTHORIZED"):
        await shop.pull(from_request(**given), f"{guarded}/app")


# --- images that are already here ---------------------------------------------------------------------------


async def test_a_private_image_that_is_here_is_not_had_without_credentials(
    shop: Shop, evil: EvilRegistry
) -> None:
    """The registry is asked each time: by tag, by digest, and with credentials that it no longer accepts."""
    tasks = Tasks()
    supply = Supply(shop.client, cast(Archives, None), "x86_64")
    pulls = Images(State(FakeJournal()), FakeLayers(), supply, tasks)
    gate = Basic(evil, JOHN.basic())
    mine = await pulls.pull("evil.test/app", JOHN)
    by_digest = f"evil.test/app@{IMAGE.digest}"
    for text in ("evil.test/app", by_digest):
        for given in (None, Credentials("jane", "wrong")):
            with pytest.raises(Denied):
                await pulls.pull(text, given)
        assert (await pulls.pull(text, JOHN)).id == mine.id
    shop.knows({"evil.test": JOHN})
    assert (await pulls.pull(by_digest)).id == mine.id
    gate._good = ()
    with pytest.raises(Denied):
        await pulls.pull("evil.test/app")
    assert len(evil.asked("GET", BLOB)) == 1
    await tasks.stop()


# --- leaks --------------------------------------------------------------------------------------------------


def program(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """docker-credential-test."""
    (directory / "bin").mkdir()
    file = directory / "bin" / "docker-credential-test"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{directory}/bin:{os.environ['PATH']}")


SECRETS = {
    "password": "S3CRET-1-of-the-request",
    "identity": "S3CRET-2-identity-token",
    "registry": "S3CRET-3-registry-token",
    "auth": "S3CRET-4-in-base64",
    "file": "S3CRET-5-in-a-file",
    "helper": "S3CRET-6-of-a-helper",
    "bearer": "S3CRET-7-of-a-token-server",
    "header": "S3CRET-8-of-a-hosts-toml",
    "address": "S3CRET-9-in-a-server-address",
    "signature": "S3CRET-10-in-a-signed-url",
}


def forms(secret: str) -> list[str]:
    """How a secret may show: as it is, and in base64 at each of its three phases (but for the ends)."""
    return [secret, *(b64("x" * phase + secret)[4:-4] for phase in range(3))]


def from_request(**keys: str) -> Credentials | None:
    return credentials.from_cri(cri.AuthConfig(**keys))


async def test_no_secret_is_in_a_log_an_error_a_text_or_a_command_line(
    shop: Shop,
    evil: EvilRegistry,
    other: EvilRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ten are planted; registry and helper repeat them in whatever they answer, and every pull fails."""
    caplog.set_level(logging.DEBUG)
    echoes = json.dumps(
        {"errors": [{"code": secret, "message": secret} for secret in SECRETS.values()]}
    ).encode()
    commands = tmp_path / "commands"
    program(
        tmp_path,
        monkeypatch,
        f"cat /proc/[0-9]*/cmdline >> {commands} 2>/dev/null; cat /proc/$$/environ >> {commands}; "
        f'echo \'{{"Username":"u","Secret":"{SECRETS["helper"]}"}}\'; echo "{SECRETS["helper"]}" >&2; '
        f"test ! -e {tmp_path}/fail",
    )
    evil.hosts_toml(shop.certs, "evil.test", f'[header]\nx-key = "{SECRETS["header"]}"\n')
    seen: set[str] = set()

    def gate(request: Request) -> Behaviour | None:
        seen.update((request.authorization, request.body.decode(), *request.headers.values()))
        if request.path == "/token":
            return answer(json.dumps({"token": SECRETS["bearer"]}).encode())
        if not request.authorization:
            challenge = f'Bearer realm="{evil.url}/token?sig={SECRETS["signature"]}"'
            return answer(echoes, 401, WWW_Authenticate=challenge)
        return refusals[0]

    evil.gate = gate
    other.on("/x", answer(echoes, 500))
    user = {"username": "john", "password": SECRETS["password"]}
    given = [
        from_request(**user),
        from_request(**user, server_address=f"https://u:{SECRETS['address']}@evil.test"),
        from_request(**user, server_address=f"https://u:{SECRETS['address']}@elsewhere.test"),
        from_request(identity_token=SECRETS["identity"]),
        from_request(registry_token=SECRETS["registry"]),
        from_request(auth=b64(f"john:{SECRETS['auth']}")),
        None,
    ]
    signed = f"http://u:{SECRETS['address']}@{other.address}/x?sig={SECRETS['signature']}"
    texts = [repr(given), str(given)]
    for behaviour in (answer(echoes, 403), answer(echoes, 500), answer(echoes, 401), redirect(signed)):
        refusals = [behaviour]
        for form in given:
            texts.append(await failing(shop, form))
        for more in ({}, {"credsStore": "test"}):
            shop.knows({"evil.test": Credentials("f", SECRETS["file"])}, **more)
            texts.append(await failing(shop, None))
    (tmp_path / "fail").touch()
    texts.append(await failing(shop, None))
    shop.file.write_text(f'{{"auths": {{"evil.test": {{"auth": {SECRETS["file"]}}}}}}}')
    texts.append(await failing(shop, None))
    texts.append(caplog.text)
    texts.append(commands.read_bytes().decode(errors="replace"))
    leaks = {name for name in SECRETS for text in texts if holds(text, name)}
    assert not leaks
    assert "docker-credential-test\0get" in commands.read_text(errors="replace")
    proved = "\n".join(seen)  # what was never shown to the registry could not have leaked
    shown_ones = {name for name in SECRETS if holds(proved, name)}
    assert shown_ones == {*SECRETS} - {"address", "signature"}


def holds(text: str, name: str) -> bool:
    return any(form in text for form in forms(SECRETS[name]))


async def failing(shop: Shop, given: Credentials | None) -> str:
    """Everything that a failing pull says."""
    try:
        await shop.pull(given)
    except SampanError as error:
        assert isinstance(error, Denied | RegistryUnavailable)
        chain = "".join(traceback.format_exception(error))
        return f"{error}\n{error!r}\n{chain}\n{error.__cause__!r}\n{error.__context__!r}"
    pytest.fail("the pull went well")
