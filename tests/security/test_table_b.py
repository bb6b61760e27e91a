# ruff: noqa: E501 - one row of a table, one line
"""What a hostile registry can make a node do, a test for each known way, tried by a node that pulls.

B1 credentials by redirect · B2 token servers that are none · B3 digests that are paths · B4 one document, two readings ·
B5 answers without end · B6 malformed JSON · B7 layers cut short · B8 tags that others move · B9 names that are others ·
B10 secrets in errors · B11 credentials for somebody else.
"""

import asyncio
import json
import logging
import random
import re
import resource
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.api import cri_pb2_grpc as rpc
from sampan.model.errors import Denied, Invalid, NotFound, RegistryUnavailable, SampanError
from sampan.runtime.image_ports import Usage
from sampan.runtime.images import Images, Supply
from sampan.runtime.state import State
from sampan.server.image_service import Disk, ImageService
from sampan.server.interceptor import Interceptor
from sampan.tasks import Tasks
from sampan.wire import manifest, reference
from sampan.wire.credentials import Credentials
from tests import evil_registry, images
from tests.evil_registry import Behaviour, answer, blob, endless, hang, head, raw, redirect
from tests.fake_layers import FakeLayers
from tests.fake_registry import FakeRegistry
from tests.fakes import FakeJournal
from tests.host import stores
from tests.registry_lab import (
    BASIC,
    BLOB,
    BY_DIGEST,
    CONFIG,
    DATA,
    IMAGE,
    JOHN,
    TAG,
    TRAP,
    Lab,
    gate,
    opened,
)

SECONDS = 15  # that any of these may take; the lab's own patience is shorter
OK = b"HTTP/1.1 200 OK\r\n"
MIB = 1 << 20
Rows = dict[str, tuple[Any, ...]]


def rows(table: Rows) -> Any:
    return [pytest.param(*row, id=name) for name, row in table.items()]


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    async with opened(tmp_path, monkeypatch) as lab:
        yield lab


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return evil_registry.certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def tls_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: ssl.SSLContext
) -> AsyncIterator[Lab]:
    """The registry's certificate is accepted, that of the other machine is not."""
    async with opened(tmp_path, monkeypatch, certificate) as lab:
        lab.evil.hosts_toml(lab.certs, "evil.test", "skip_verify = true")
        yield lab


async def refused(lab: Lab, error: type[SampanError], why: str = "", text: str = "evil.test/app") -> str:
    """A pull that fails in this way, soon, leaving nothing and telling nobody anything; what it says."""
    async with asyncio.timeout(SECONDS):
        with pytest.raises(SampanError, match=why or None) as caught:
            await lab.pull(text)
    assert type(caught.value) is error, caught.value
    lab.nothing_came_in()
    lab.nothing_leaked()
    assert JOHN.password not in str(caught.value)
    return str(caught.value)


def filled(text: str, lab: Lab) -> str:
    """A template with the lab's addresses in it."""
    port = lab.trap.address.rpartition(":")[2]
    there = {"other": lab.other.address, "evil": lab.evil.address, "trap": lab.trap.address, "port": port}
    return text.format(**there, other_port=lab.other.address.rpartition(":")[2])


# --- B1: credentials that a redirect carries away (CVE-2020-15157, GHSA-vh4v-2xq2-g5cg) -------------------------

FOLLOWED: Rows = {
    **{f"a layer, {status}": (BLOB, "http://{other}" + BLOB, status) for status in (301, 302, 303, 307, 308)},
    **{f"the manifest, {status}": (TAG, "http://{other}" + TAG, status) for status in (302, 307, 308)},
    "the config": (CONFIG, "http://{other}" + CONFIG, 307),
    "an address without a scheme": (BLOB, "//{other}" + BLOB, 307),
    "a user in the address": (BLOB, "http://u:p@{other}" + BLOB, 307),
    "a user as long as the registry's name": (BLOB, "http://{evil}@{other}" + BLOB, 307),
    "another name of the same machine": (BLOB, "http://localhost:{other_port}" + BLOB, 307),
    "a fragment and a query": (BLOB, "http://{other}" + BLOB + "?x=1#{evil}", 307),
    "capital letters": (BLOB, "HTTP://{other}" + BLOB, 307),
    "there and back": (BLOB, "http://{other}/back", 302),
}  # fmt: skip
ASTRAY: Rows = {
    "this machine": ("http://{trap}/x", Invalid, "loopback"),
    "this machine in decimal": ("http://2130706441:{port}/x", Invalid, "has only addresses|can be asked"),
    "this machine in octal": ("http://0177.0.0.011:{port}/x", Invalid, "has only addresses|can be asked"),
    "this machine in short": ("http://127.9:{port}/x", Invalid, "has only addresses|can be asked"),
    "this machine wrapped in IPv6": ("http://[::ffff:127.0.0.9]:{port}/x", Invalid, "loopback"),
    "a name for this machine": ("http://trap.test:{port}/x", Invalid, "has only addresses"),
    "the metadata service": ("http://169.254.169.254/latest/meta-data", Invalid, "link-local"),
    "the private network": ("http://10.0.0.1:{port}/x", Invalid, "private"),
    "nowhere in particular": ("http://0.0.0.0:{port}/x", Invalid, "loopback"),
    "a file": ("file:///etc/shadow", Invalid, "malformed|address"),
    "another protocol": ("gopher://{trap}/x", Invalid, "'gopher' address"),
    "a script": ("javascript:alert(1)", Invalid, "address"),
    "itself": (TAG, Invalid, "more than 5 times"),
    "a port that is none": ("http://{other}99999/", Invalid, "malformed"),
    "half an address": ("http://[::1", Invalid, "malformed"),
    "nothing": ("", Invalid, "malformed"),
    "a second header": ("/x\tX-Other:1", Invalid, "malformed"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "location", "status"), rows(FOLLOWED))
async def test_b1_a_redirect_elsewhere_carries_no_credentials(
    lab: Lab, path: str, location: str, status: int
) -> None:
    gate(lab.evil)
    lab.evil.on(path, redirect(filled(location, lab), status))
    lab.evil.on("/again", blob(DATA))
    lab.other.on("/back", redirect(f"{lab.evil.url}/again"))
    assert await lab.pull() == IMAGE.id
    lab.nothing_leaked()
    assert lab.other.requests, "the redirect was not followed, so this shows nothing"
    assert not any(request.authorization for request in lab.other.requests)
    assert any(request.authorization == BASIC for request in lab.evil.requests)


@pytest.mark.parametrize("path", [TAG, BLOB])
@pytest.mark.parametrize(("location", "error", "why"), rows(ASTRAY))
async def test_b1_a_redirect_astray_is_not_followed(
    lab: Lab, location: str, error: type[SampanError], why: str, path: str
) -> None:
    lab.names["trap.test"] = [[TRAP]]
    lab.evil.on(path, redirect(filled(location, lab).replace(TAG, path)))
    await refused(lab, error, why)


@pytest.mark.parametrize(
    "challenge", ['Basic realm="x"', 'Bearer realm="http://{other}/token",service="x"', "Negotiate"]
)
async def test_b1_whoever_we_are_sent_to_may_not_ask_who_we_are(lab: Lab, challenge: str) -> None:
    gate(lab.evil)
    lab.evil.on(BLOB, redirect(f"{lab.other.url}{BLOB}"))
    lab.other.on(BLOB, answer(status=401, WWW_Authenticate=filled(challenge, lab)))
    await refused(lab, Denied, "401")
    assert {request.path for request in lab.other.requests} == {BLOB}


async def test_b1_a_long_chain_of_redirects_ends(lab: Lab) -> None:
    for number in range(20):
        lab.other.on(f"/{number}", redirect(f"/{number + 1}"))
    lab.evil.on(TAG, redirect(f"{lab.other.url}/0"))
    await refused(lab, Invalid, "more than 5 times")
    assert len(lab.other.requests) <= 5


@pytest.mark.parametrize(
    "document", [{"urls": ["http://{other}/x"]}, {"urls": ["http://{trap}/x"], "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]
)  # fmt: skip
async def test_b1_a_layer_that_is_said_to_be_elsewhere_is_not_fetched(lab: Lab, document: Any) -> None:
    body = json.loads(IMAGE.manifest)
    body["layers"][0] |= {**document, "urls": [filled(document["urls"][0], lab)]}
    lab.evil.serve_manifest(images.dump(body))
    await refused(lab, Invalid, "foreign")
    assert lab.other.requests == []


@pytest.mark.parametrize("path", [TAG, CONFIG, BLOB])
async def test_b1_tls_is_never_left(tls_lab: Lab, path: str) -> None:
    gate(tls_lab.evil)
    tls_lab.evil.on(path, redirect(f"http://{tls_lab.other.address}{path}"))
    await refused(tls_lab, Invalid, "to plain http")


async def test_b1_what_is_trusted_of_one_machine_is_not_of_another(tls_lab: Lab) -> None:
    gate(tls_lab.evil)
    tls_lab.evil.on(BLOB, redirect(f"{tls_lab.other.url}{BLOB}"))
    await refused(tls_lab, RegistryUnavailable, "certificate is not trusted")
    assert tls_lab.other.requests == []


@pytest.mark.parametrize("answers", [[["127.0.0.1"], [TRAP]], [[TRAP, "127.0.0.3", "127.0.0.1"]], [[TRAP]]])
async def test_b1_a_name_that_changes_its_meaning_gains_nothing(lab: Lab, answers: list[list[str]]) -> None:
    """What is connected to is the address that was judged; one of several that may not be asked is left out."""
    lab.names["rebind.test"] = answers
    port = lab.other.address.rpartition(":")[2]
    lab.evil.on(TAG, redirect(f"http://rebind.test:{port}{TAG}"))
    try:
        await lab.pull()
    except SampanError as error:
        assert isinstance(error, Invalid)
    lab.nothing_leaked()


# --- B2: token servers that are none (CVE-2026-48978) -----------------------------------------------------------

REALMS: Rows = {
    "this machine": ("http://{trap}/token", Invalid, ""),
    "this machine, by TLS": ("https://{trap}/token", Invalid, "loopback"),
    "this machine in decimal": ("https://2130706441:{port}/token", Invalid, ""),
    "this machine wrapped in IPv6": ("https://[::ffff:127.0.0.9]:{port}/token", Invalid, "loopback"),
    "a name for this machine": ("https://trap.test:{port}/token", Invalid, "has only addresses"),
    "the metadata service": ("https://169.254.169.254/latest/meta-data", Invalid, "link-local"),
    "the metadata service in IPv6": ("https://[fe80::a9fe:a9fe]/token", Invalid, "link-local"),
    "the private network": ("https://192.168.1.1/token", Invalid, "private"),
    "elsewhere without TLS": ("http://localhost:{other_port}/token", Invalid, "without TLS"),
    "a file": ("file:///var/run/secrets/token", Invalid, "no web address"),
    "another protocol": ("ldap://{trap}/x", Invalid, "no web address"),
    "a user in the address": ("http://u:p@{evil}/token", Invalid, "no web address"),
    "no address": ("not a url", Invalid, "no web address"),
    "half an address": ("http://[::1/token", Invalid, "no web address"),
    "no host": ("https:///token", Invalid, "no web address"),
}  # fmt: skip
TOKENS: Rows = {
    "a redirect to this machine": (redirect(f"http://{TRAP}/latest"), Invalid, "redirects"),
    "a redirect to itself": (redirect("/token"), Invalid, "redirects"),
    "a page": (answer(b"<html>welcome</html>"), Invalid, "not valid JSON"),
    "no token": (answer(b"{}"), Invalid, "no usable token"),
    "an empty token": (answer(b'{"token":""}'), Invalid, "no usable token"),
    "a token with another header": (answer(b'{"token":"a\\r\\nX-Other: 1"}'), Invalid, "no usable token"),
    "a number for a token": (answer(b'{"token":7}'), Invalid, "malformed"),
    "a token twice": (answer(b'{"token":"a","token":"b"}'), Invalid, "not valid JSON"),
    "a token without end": (endless(head(200, {}) + b'{"token":"', b"A" * 65536), Invalid, "more than"),
    "nesting without end": (answer(b"[" * 200_000), Invalid, "nested|more than"),
    "a refusal that echoes": (answer(b'{"details":"s3cret-password"}', 401), Denied, "token server"),
    "out of order": (answer(b"s3cret-password", 500), RegistryUnavailable, "500"),
    "too many": (answer(b"", 429, Retry_After="86400"), RegistryUnavailable, "86400"),
    "not found": (answer(b"", 404), NotFound, "does not exist"),
    "silence": (hang(), RegistryUnavailable, "without getting on"),
    "the end": (raw(b""), RegistryUnavailable, "broke"),
}  # fmt: skip


@pytest.mark.parametrize(("realm", "error", "why"), rows(REALMS))
async def test_b2_a_token_server_that_is_none_of_the_registrys_business(
    lab: Lab, realm: str, error: type[SampanError], why: str
) -> None:
    lab.names["trap.test"] = [[TRAP]]
    gate(lab.evil, f'Bearer realm="{filled(realm, lab)}",service="s"')
    await refused(lab, error, why)
    assert lab.other.requests == []


@pytest.mark.parametrize(("behaviour", "error", "why"), rows(TOKENS))
async def test_b2_a_token_server_that_misbehaves(
    lab: Lab, behaviour: Behaviour, error: type[SampanError], why: str
) -> None:
    lab.progress = 0.4
    challenge = answer(status=401, WWW_Authenticate=f'Bearer realm="{lab.evil.url}/token"')
    lab.evil.gate = lambda request: behaviour if request.path == "/token" else challenge
    await refused(lab, error, why)
    assert not any("x-other" in request.headers for request in lab.evil.requests)


async def test_b2_a_token_that_is_never_good_enough_is_not_fetched_for_ever(lab: Lab) -> None:
    challenge = answer(status=401, WWW_Authenticate=f'Bearer realm="{lab.evil.url}/token"')
    token = answer(b'{"token":"T"}')
    lab.evil.gate = lambda request: token if request.path == "/token" else challenge
    await refused(lab, Denied)
    assert len(lab.evil.requests) <= 6


@pytest.mark.parametrize("text", ["a&service=evil#frag", "a b+c%26", "a=b;c=d", "\u00e4/../x", "a%0d%0aX: 1"])
async def test_b2_what_a_registry_calls_itself_stays_one_parameter(lab: Lab, text: str) -> None:
    sent = text.encode().decode("latin-1")
    gate(lab.evil, f'Bearer realm="{lab.evil.url}/token?keep=1",service="{sent}",scope="{sent}"')
    with pytest.raises(SampanError):
        await lab.pull()
    (asked, *_) = [request for request in lab.evil.requests if request.path == "/token"]
    names = [part.partition("=")[0] for part in asked.query.split("&")]
    assert sorted(names) == ["keep", "scope", "service"]
    assert "#" not in asked.query and " " not in asked.query


@pytest.mark.parametrize(
    "challenge", ["Negotiate", "", "Bearer", 'Bearer realm=""', "x" * 8000, 'Basic realm="' + "\\" * 4000, "=,=,=" * 1000]
)  # fmt: skip
async def test_b2_a_challenge_that_nobody_can_meet_is_a_refusal(lab: Lab, challenge: str) -> None:
    lab.evil.gate = lambda _: answer(status=401, WWW_Authenticate=challenge)
    await refused(lab, Denied, "401")


async def test_b2_a_token_server_without_tls_gets_nothing_from_a_registry_with_it(tls_lab: Lab) -> None:
    gate(tls_lab.evil, f'Bearer realm="http://{tls_lab.other.address}/token"')
    await refused(tls_lab, Invalid, "without TLS")


# --- B3: digests that are paths (CVE-2024-3727) -----------------------------------------------------------------

HEX = "0123456789abcdef" * 4
NO_DIGESTS = (
    *("sha256:../../../etc/passwd", "sha256:", HEX, f"sha256:{HEX[:63]}", f"sha256:{HEX}0", f"sha256:{HEX.upper()}"),
    *(f"sha512:{HEX}", f"SHA256:{HEX}", f"sha256:{HEX}\n", f"sha256:{HEX}?x=1", f"sha256:{HEX[:-1]}\u0661", "md5:" + "0" * 32),
)  # fmt: skip


@pytest.mark.parametrize("place", ["layer", "config", "entry of an index"])
@pytest.mark.parametrize("digest", NO_DIGESTS)
async def test_b3_what_is_no_digest_is_never_asked_for(lab: Lab, digest: str, place: str) -> None:
    body = json.loads(IMAGE.manifest)
    if place == "layer":
        body["layers"][0]["digest"] = digest
    elif place == "config":
        body["config"]["digest"] = digest
    else:
        body = json.loads(images.index({"amd64": IMAGE}))
        body["manifests"][0]["digest"] = digest
    lab.evil.serve_manifest(images.dump(body))
    await refused(lab, Invalid, "malformed digest")
    assert {request.path for request in lab.evil.requests} == {TAG}


@pytest.mark.parametrize("digest", [*NO_DIGESTS[:8], f"sha256:{HEX}", "sha256:" + "0" * 64])
async def test_b3_what_a_header_says_of_a_digest_is_not_believed(lab: Lab, digest: str) -> None:
    """Not when there is nothing to compare it with, and not to find out that nothing has changed."""
    lab.evil.on(TAG, answer(IMAGE.manifest, Docker_Content_Digest=digest))
    assert await lab.pull() == IMAGE.id
    image = lab.images.find(IMAGE.id)
    assert image is not None and image.digests == (f"evil.test/app@{IMAGE.digest}",)
    assert await lab.pull() == IMAGE.id
    assert not any(HEX in request.path or ".." in request.path for request in lab.evil.requests)


# --- B4: one document, two readings (CVE-2021-41190, GHSA-5j5w-g665-5m35) ---------------------------------------

MANIFEST: dict[str, Any] = json.loads(IMAGE.manifest)
INDEX: dict[str, Any] = json.loads(images.index({"amd64": IMAGE}))


def twice(key: str, first: Any) -> bytes:
    """The manifest with a key that occurs twice."""
    return f'{{"{key}":{json.dumps(first)},'.encode() + images.dump(MANIFEST)[1:]


def deep(depth: int) -> bytes:
    return images.dump({**MANIFEST, "annotations": {"x": "y"}, "more": json.loads("[" * depth + "]" * depth)})


AMBIGUOUS: dict[str, bytes] = {
    "manifests and layers": images.dump({**MANIFEST, "manifests": INDEX["manifests"]}),
    "layers and manifests": images.dump({**INDEX, "layers": MANIFEST["layers"]}),
    "config and manifests": images.dump({**INDEX, "config": MANIFEST["config"]}),
    "empty manifests and layers": images.dump({**MANIFEST, "manifests": []}),
    "null manifests and layers": images.dump({**MANIFEST, "manifests": None}),
    "an index that is called a manifest": images.dump({**INDEX, "mediaType": manifest.OCI_MANIFEST}),
    "an index that is called Docker's manifest": images.dump({**INDEX, "mediaType": manifest.DOCKER_MANIFEST}),
    "a manifest that is called an index": images.dump({**MANIFEST, "mediaType": manifest.OCI_INDEX}),
    "a manifest that is called Docker's list": images.dump({**MANIFEST, "mediaType": manifest.DOCKER_LIST}),
    "a manifest that is called a page": images.dump({**MANIFEST, "mediaType": "text/html"}),
    "a media type that is a number": images.dump({**MANIFEST, "mediaType": 1}),
    **{f"{key} twice": twice(key, MANIFEST.get(key)) for key in ("schemaVersion", "mediaType", "config", "layers")},
    "layers twice, once with an escape": twice("l\\u0061yers", []),
    "Layers and layers": images.dump({**MANIFEST, "Layers": []}),
    "CONFIG and config": images.dump({**MANIFEST, "CONFIG": MANIFEST["config"]}),
    "a digest twice": images.dump(MANIFEST).replace(b'"digest"', b'"digest":"sha256:0","digest"', 1),
    "schema 1": images.dump({"schemaVersion": 1, "name": "app", "fsLayers": [], "history": []}),
    "schema 1 that says it is 2": images.dump({**MANIFEST, "fsLayers": []}),
    "schema 3": images.dump({**MANIFEST, "schemaVersion": 3}),
    "a version that is true": images.dump({**MANIFEST, "schemaVersion": True}),
    "a version that is a fraction": images.dump({**MANIFEST, "schemaVersion": 2.5}),
    "no layers": images.dump({key: MANIFEST[key] for key in ("schemaVersion", "config")}),
    "no config": images.dump({key: MANIFEST[key] for key in ("schemaVersion", "layers")}),
    "layers that are an object": images.dump({**MANIFEST, "layers": {"0": MANIFEST["layers"][0]}}),
    "a list of manifests": images.dump([MANIFEST]),
    "a text": b'"manifest"',
    "nothing": b"",
    "two documents": images.dump(MANIFEST) * 2,
    "a document and a NUL": images.dump(MANIFEST) + b"\0",
    "a mark of byte order": b"\xef\xbb\xbf" + images.dump(MANIFEST),
    "UTF-16": images.dump(MANIFEST).decode().encode("utf-16"),
    "a comment": images.dump(MANIFEST) + b"// end",
    "a value that is no number": images.dump(MANIFEST)[:-1] + b',"x":NaN}',
    "a value without end": images.dump(MANIFEST)[:-1] + b',"x":Infinity}',
    "half a letter": images.dump(MANIFEST)[:-1] + b',"x":"\\ud800"}',
    "nested 100 deep": deep(100),
    "nested 200,000 deep": b"[" * 200_000,
    "a hundred thousand platforms": images.dump({**INDEX, "manifests": INDEX["manifests"] * 100_000})[: 4 * MIB],
    "a thousand and one platforms": images.dump({**INDEX, "manifests": INDEX["manifests"] * 1001}),
    "five hundred and one layers": images.dump({**MANIFEST, "layers": MANIFEST["layers"] * 501}),
}  # fmt: skip


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in AMBIGUOUS.items()])
async def test_b4_a_document_with_two_readings_is_refused(lab: Lab, body: bytes) -> None:
    lab.evil.on(TAG, answer(body, Content_Type=manifest.OCI_MANIFEST))
    await refused(lab, Invalid)
    assert {request.path for request in lab.evil.requests} == {TAG}


@pytest.mark.parametrize("kind", [manifest.OCI_INDEX, manifest.DOCKER_LIST, "text/html", "text/plain", ""])
async def test_b4_what_a_header_says_of_a_document_changes_nothing(lab: Lab, kind: str) -> None:
    lab.evil.on(TAG, answer(IMAGE.manifest, Content_Type=kind))
    assert await lab.pull() == IMAGE.id


async def test_b4_indexes_within_indexes_end(lab: Lab) -> None:
    inner = IMAGE.manifest
    for _ in range(100):
        entry = {"mediaType": manifest.OCI_INDEX, "digest": images.sha256(inner), "size": len(inner)}
        platform = {"platform": {"os": "linux", "architecture": "amd64"}}
        inner = images.dump({"schemaVersion": 2, "manifests": [{**entry, **platform}]})
        lab.evil.serve_manifest(inner)
    await refused(lab, Invalid, "deeper than 3")
    assert len(lab.evil.requests) <= 4


@pytest.mark.parametrize("more", [b" ", b"\n{}"])
async def test_b4_a_document_under_a_digest_must_have_it(lab: Lab, more: bytes) -> None:
    lab.evil.on(BY_DIGEST, answer(IMAGE.manifest + more, Docker_Content_Digest=IMAGE.digest))
    await refused(lab, Invalid, "other content", f"evil.test/app@{IMAGE.digest}")


# --- B5: answers without end (CVE-2020-1702, CVE-2025-13836) ----------------------------------------------------

FILLER = b"4\r\nxxxx\r\n" * 5000
CHUNKED = head(200, {"Transfer-Encoding": "chunked"})
ENDLESS: Rows = {
    "a manifest without end": (TAG, endless(head(200, {}), b" " * 65536), Invalid, "more than"),
    "a manifest in chunks without end": (TAG, endless(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"), Invalid, "more than"),
    "a manifest a byte too long": (TAG, answer(b" " * (4 * MIB + 1)), Invalid, "more than"),
    "a manifest that is said to be huge": (TAG, raw(head(200, {"Content-Length": str(1 << 62)})), RegistryUnavailable, ""),
    "a length of 2^63": (TAG, raw(OK + b"Content-Length: 9223372036854775808\r\n\r\n"), RegistryUnavailable, ""),
    "a length below nothing": (TAG, raw(OK + b"Content-Length: -1\r\n\r\n"), RegistryUnavailable, ""),
    "two lengths": (TAG, raw(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"), RegistryUnavailable, ""),
    "a chunk that is none": (TAG, raw(CHUNKED + b"zz\r\n"), RegistryUnavailable, ""),
    "a chunk of 2^64 bytes": (TAG, raw(CHUNKED + b"10000000000000000\r\nx"), RegistryUnavailable, ""),
    "headers without end": (TAG, endless(OK, b"X-Filler: " + b"y" * 8000 + b"\r\n"), RegistryUnavailable, ""),
    "a header without end": (TAG, endless(OK + b"X: ", b"y" * 65536), RegistryUnavailable, ""),
    "interim answers without end": (TAG, endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), RegistryUnavailable, ""),
    "a manifest byte by byte": (TAG, endless(head(200, {"Content-Length": "1000"}), b" ", 0.01), RegistryUnavailable, "getting on"),
    "a layer byte by byte": (BLOB, endless(head(200, {"Content-Length": str(len(DATA))}), b"x", 0.02), RegistryUnavailable, "brought only"),
    "silence": (TAG, hang(), RegistryUnavailable, "images.pull_progress_timeout"),
    "silence after a beginning": (BLOB, hang(head(200, {"Content-Length": str(len(DATA))}) + DATA[:9]), RegistryUnavailable, "images.pull_progress_timeout"),
    "an error without end": (TAG, endless(head(500, {}), b"x" * 65536), RegistryUnavailable, "500"),
    "a refusal without end": (TAG, endless(head(403, {}), b"x" * 65536), Denied, "403"),
    "a config without end": (CONFIG, endless(head(200, {}), b" " * 65536), Invalid, "more than"),
    "a config that is another": (CONFIG, answer(b" " * len(IMAGE.blobs[IMAGE.id])), Invalid, "other content"),
    "a layer without end": (BLOB, endless(head(200, {}), b"x" * 65536), Invalid, "longer than"),
    "a layer in chunks without end": (BLOB, endless(CHUNKED, FILLER), Invalid, "longer than"),
    "a layer a byte too long": (BLOB, answer(DATA + b"x"), Invalid, "longer than"),
    "a layer a byte too short": (BLOB, answer(DATA[:-1]), RegistryUnavailable, "early"),
    "a layer that is another": (BLOB, answer(b"\0" * len(DATA)), Invalid, "digest"),
    "another part of a layer": (BLOB, answer(DATA, 206, Content_Range="bytes 5-9/10"), Invalid, "another range"),
    "another protocol": (TAG, raw(b"SSH-2.0-OpenSSH_9.2\r\n"), RegistryUnavailable, "speak HTTP"),
    "the end": (TAG, raw(b""), RegistryUnavailable, "broke"),
    "a bomb of gzip": (TAG, answer(images.compress(b" " * (64 * MIB), "gzip")[0], Content_Encoding="gzip"), Invalid, "not valid JSON"),
    "a bomb of nothing known": (TAG, answer(IMAGE.manifest[1:], Content_Encoding="br, deflate"), Invalid, "not valid JSON"),
}  # fmt: skip


def peak() -> int:
    """The most bytes that this process has had in memory since `forget_peak`."""
    found = re.search(r"VmHWM:\s+([0-9]+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


@pytest.fixture(params=["http", "tls"])
async def any_lab(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    certificate: ssl.SSLContext,
) -> AsyncIterator[Lab]:
    context = certificate if request.param == "tls" else None
    async with opened(tmp_path, monkeypatch, context) as lab:
        lab.evil.hosts_toml(lab.certs, "evil.test", "skip_verify = true")
        yield lab


@pytest.mark.root  # to measure anew
@pytest.mark.parametrize(("path", "behaviour", "error", "why"), rows(ENDLESS))
async def test_b5_an_answer_that_does_not_end_costs_little(
    any_lab: Lab, path: str, behaviour: Behaviour, error: type[SampanError], why: str
) -> None:
    any_lab.progress = 0.4 if error is RegistryUnavailable else 20.0
    any_lab.evil.on(path, behaviour)
    before = forget_peak()
    await refused(any_lab, error, why)
    assert peak() - before < 64 * MIB


# --- B6: malformed JSON (CVE-2021-21285) ------------------------------------------------------------------------

PIECES: tuple[bytes, ...] = (
    *(b"[", b"{", b"]", b"}", b'"', b":", b",", b"\\", b"\0", b"\xff", b"\xed\xa0\x80", b"NaN", b"-Infinity", b"null"),
    *(b"true", b"-1", b"1e999", b"1.5", b"9" * 5000, b"[" * 3000, b'{"a":' * 500, b'"\\ud800"', b"\xc2\x85", b"_1"),
    *(b'"size":-1', b'"size":1180591620717411303424', b'"digest":"x"', b'"layers":[]', b'"manifests":[]', b"0x10"),
)  # fmt: skip


def mutated(random: random.Random, data: bytes) -> bytes:
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice((0, 0, 1, 3, 20, 200)))
        data = (
            data[:at]
            + random.choice((b"", bytes([random.randrange(256)]), random.choice(PIECES)))
            + data[end:]
        )
    return data


def test_b6_ten_thousand_mutated_manifests_are_read_or_refused() -> None:
    chance = random.Random(6)
    whole = (IMAGE.manifest, images.index({"amd64": IMAGE, "arm64": IMAGE}))
    refusals = 0
    begin = time.process_time()
    for _ in range(10_000):
        data = mutated(chance, chance.choice(whole))
        try:
            found = manifest.parse(data, "it")
        except Invalid as error:
            refusals += 1
            assert len(str(error)) < 1000 and str(error).isprintable()
        else:
            assert isinstance(found, manifest.Manifest | manifest.Index)
    assert 8_000 < refusals < 10_000
    assert time.process_time() - begin < 60


# --- B7: layers cut short (CVE-2021-20291) ----------------------------------------------------------------------


@pytest.mark.root
async def test_b7_layers_cut_short_anywhere_hold_up_no_other_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred offsets, each in a child process of its own, and a good pull beside every fiftieth."""
    chance = random.Random(7)
    content = [images.Entry(f"f{number}", data=chance.randbytes(5_000)) for number in range(20)]
    async with opened(tmp_path / "certs", monkeypatch) as lab, stores.opened(tmp_path) as store:
        supply = Supply(lab.images._supply.registry, None, "x86_64")  # type: ignore[arg-type]
        state, tasks = State(FakeJournal()), Tasks()
        cases = Images(state, store.layers, supply, tasks)
        for number in range(200):
            compression = ("gzip", "zstd", "none")[number % 3]
            good = images.compress(images.layer(content), compression)[0]
            cut = good[: chance.randrange(len(good))] + chance.choice((b"", b"", b"garbage" * 20))
            lab.evil.serve(broken(good, cut, compression), f"cut{number}")
            pulls = [asyncio.create_task(cases.pull(f"evil.test/cut{number}"))]
            if number % 50 == 0:
                fine = images.image([images.layer([images.Entry(f"fine{number}")])], architecture="amd64")
                lab.evil.serve(fine, f"fine{number}")
                pulls.append(asyncio.create_task(cases.pull(f"evil.test/fine{number}")))
            async with asyncio.timeout(SECONDS):
                ended = await asyncio.gather(*pulls, return_exceptions=True)
            assert isinstance(ended[0], Invalid), (number, ended[0])
            assert not any(isinstance(each, BaseException) for each in ended[1:]), ended
        assert len(state.images) == 4
        assert not store.leftovers()
        assert (await store.layers.fs_usage()).inodes <= 8
        await tasks.stop()


def broken(good: bytes, cut: bytes, compression: str) -> images.Image:
    """An image whose only layer is cut: its manifest says the truth of the bytes, its config of the content."""
    plain = images.image([], architecture="amd64")
    config = {**plain.config, "rootfs": {"type": "layers", "diff_ids": [images.sha256(good)]}}
    raw_config = images.dump(config)
    suffix = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[compression]
    layer = {"mediaType": images.LAYER + suffix, "digest": images.sha256(cut), "size": len(cut)}
    about = {"mediaType": images.CONFIG, "digest": images.sha256(raw_config), "size": len(raw_config)}
    document = {"schemaVersion": 2, "mediaType": images.MANIFEST, "config": about, "layers": [layer]}
    return images.Image(
        {images.sha256(cut): cut, images.sha256(raw_config): raw_config}, images.dump(document)
    )


# --- B8: tags that others move (CVE-2026-50195) -----------------------------------------------------------------

EVIL = images.image([images.layer([images.Entry("evil")])], {"Cmd": ["evil"]}, architecture="amd64")
VICTIM = "victim.test/app:latest"


@pytest.fixture
async def victim(lab: Lab) -> Lab:
    """A lab with an image that has a tag of a registry which is honest."""
    lab.other.hosts_toml(lab.certs, "victim.test")
    assert await lab.pull(VICTIM, None) == IMAGE.id
    lab.evil.serve(EVIL)
    return lab


def named_otherwise() -> images.Image:
    """An image that says in every place there is that it is the victim's."""
    body = json.loads(EVIL.manifest)
    names = {f"org.opencontainers.image.{key}": VICTIM for key in ("ref.name", "base.name", "title")}
    names["io.containerd.image.name"] = VICTIM
    body["annotations"] = names
    body["layers"][0]["annotations"] = names
    config = images.dump({**EVIL.config, "RepoTags": [VICTIM], "container_config": {"Image": VICTIM}})
    body["config"] |= {"digest": images.sha256(config), "size": len(config), "annotations": names}
    return images.Image({**EVIL.blobs, images.sha256(config): config}, images.dump(body))


@pytest.mark.parametrize(
    "text",
    [
        "evil.test/app",
        "evil.test/app:latest",
        f"evil.test/app@{EVIL.digest}",
        f"evil.test/app:latest@{EVIL.digest}",
        f"victim.test/app@{EVIL.digest}",
        f"{VICTIM}@{EVIL.digest}",
        "evil.test/victim.test/app:latest",
    ],
)
async def test_b8_a_tag_changes_only_by_a_pull_of_that_tag(victim: Lab, text: str) -> None:
    victim.other.serve_manifest(EVIL.manifest, "app", "other")
    for digest, data in EVIL.blobs.items():
        victim.other.on(f"/v2/app/blobs/{digest}", blob(data))
    victim.evil.serve(EVIL, "victim.test/app")
    assert await victim.pull(text, None) == EVIL.id
    found = victim.images.find(VICTIM)
    assert found is not None and found.id == IMAGE.id and found.tags == (VICTIM,)


async def test_b8_what_an_image_says_it_is_called_is_nothing(victim: Lab) -> None:
    one = named_otherwise()
    victim.evil.serve(one)
    assert await victim.pull(credentials=None) == one.id
    assert victim.images.find(VICTIM).id == IMAGE.id  # type: ignore[union-attr]
    assert victim.images.find(one.id).tags == ("evil.test/app:latest",)  # type: ignore[union-attr]


async def test_b8_a_registry_that_says_now_this_now_that_moves_its_own_tag_alone(victim: Lab) -> None:
    victim.evil.serve(IMAGE)
    for digest, data in EVIL.blobs.items():
        victim.evil.on(f"/v2/app/blobs/{digest}", blob(data))
    victim.evil.on(TAG, *(answer(one.manifest, Docker_Content_Digest=claim.digest) for one, claim in ((EVIL, IMAGE), (IMAGE, EVIL), (EVIL, EVIL), (IMAGE, IMAGE))))  # fmt: skip
    for _ in range(4):
        await victim.pull(credentials=None)
        assert victim.images.find(VICTIM).id == IMAGE.id  # type: ignore[union-attr]
        owners = [one for one in victim.state.images.values() if "evil.test/app:latest" in one.tags]
        assert len(owners) == 1
    for one in victim.state.images.values():
        assert one.id in (IMAGE.id, EVIL.id)


async def test_b8_a_mirror_that_may_not_say_what_a_tag_means_cannot_move_it(victim: Lab) -> None:
    victim.other.hosts_toml(
        victim.certs, "victim.test", f'[host."{victim.evil.url}"]\ncapabilities = ["pull"]\n'
    )
    assert await victim.pull(VICTIM, None) == IMAGE.id
    assert victim.evil.requests == []


# --- B9: names that are others ----------------------------------------------------------------------------------


def references() -> list[tuple[str, str]]:
    """Two hundred texts made of the distribution grammar's parts, with what they stand for; "" where they are none."""
    chance = random.Random(9)
    alnum, hexadecimal = "abcdefghijklmnopqrstuvwxyz0123456789", "0123456789abcdef"

    def word(letters: str, most: int) -> str:
        return "".join(chance.choice(letters) for _ in range(chance.randint(1, most)))

    def component() -> str:
        separators = (".", "_", "__", "-", "---")
        return word(alnum, 6) + "".join(
            chance.choice(separators) + word(alnum, 4) for _ in range(chance.randint(0, 2))
        )

    def domain() -> str:
        labels = ".".join(word(alnum + alnum.upper(), 5) for _ in range(chance.randint(2, 3)))
        name = chance.choice((labels, "localhost", f"10.0.0.{chance.randrange(256)}", "[::1]", "HOST"))
        return name + chance.choice(("", f":{chance.randint(1, 65535)}"))

    found: list[tuple[str, str]] = []
    while len(found) < 200:
        host = chance.choice((*("", "docker.io", "index.docker.io"), *(domain() for _ in range(3))))
        path = "/".join(component() for _ in range(chance.randint(1, 3)))
        if not host and "/" in path and any(mark in path.partition("/")[0] for mark in ".:"):
            continue  # its first part would be the host
        tag = chance.choice(("", "", word(alnum + "._-", 20).strip(".-") or "x", "T" * 128))
        digest = chance.choice(("", "", f"sha256:{''.join(chance.choice(hexadecimal) for _ in range(64))}"))
        text = (
            "/".join(part for part in (host, path) if part)
            + (f":{tag}" if tag else "")
            + (f"@{digest}" if digest else "")
        )
        canonical = host if host not in ("", "index.docker.io") else "docker.io"
        official = "library/" if canonical == "docker.io" and "/" not in path else ""
        tag = tag or ("" if digest else "latest")
        full = f"{canonical}/{official}{path}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
        found.append((text, full) if len(found) % 2 else (spoilt(chance, text, path), ""))
    return found


def spoilt(chance: random.Random, text: str, path: str) -> str:
    """The same with one thing in it that the grammar has nowhere at that place."""
    end = path[-1]
    ways = (
        *(f"{text}\n", f" {text}", f"{text} ", f"{text}\0", f"{text}@", f"{text}@sha256:{'0' * 63}", f"http://{text}"),
        *(text.replace(path, f"{path}/../x", 1), text.replace(path, f"{path}//x", 1), text.replace(path, f"{path}/", 1)),
        *(text.replace(path, f"{path}{chance.choice('_.-')}/x", 1), text.replace(path, f"x/{path.upper()}X", 1)),
        *(text.replace(path, f"x/{path[:-1]}\u0430{end}", 1), text.replace(path, f"x/a___b/{path}", 1)),
        *(f"host:99999/{path}", f"host:0/{path}", f"user@host/{path}", f"-host.test/{path}", f"{text}@md5:{'0' * 32}"),
    )  # fmt: skip
    return chance.choice(ways)


@pytest.mark.parametrize(("text", "full"), references())
def test_b9_two_hundred_references_mean_what_the_grammar_says(text: str, full: str) -> None:
    if not full:
        with pytest.raises(Invalid):
            reference.parse(text)
    else:
        assert str(reference.parse(text)) == full
        assert str(reference.parse(full)) == full


async def test_b9_a_repository_called_like_an_id_is_not_taken_for_it(lab: Lab) -> None:
    """64 hex digits are an id, never a repository; fewer may be either, and a name that is known is the name."""
    hexadecimal = IMAGE.id.removeprefix("sha256:")
    with pytest.raises(Invalid, match="is an image id"):
        await lab.pull(hexadecimal, None)
    await lab.pull(credentials=None)
    short = hexadecimal[:12]
    lab.evil.hosts_toml(lab.certs, "docker.io")
    lab.evil.serve(EVIL, f"library/{short}")
    assert lab.images.find(short).id == IMAGE.id  # type: ignore[union-attr]
    await lab.pull(short, None)
    assert lab.images.find(hexadecimal).id == IMAGE.id  # type: ignore[union-attr]
    assert lab.images.find(f"docker.io/library/{short}:latest").id == EVIL.id  # type: ignore[union-attr]


async def test_b9_a_digest_wins_over_a_tag_which_is_not_recorded(lab: Lab) -> None:
    lab.evil.serve(EVIL)
    lab.evil.serve_manifest(IMAGE.manifest, "app", "good")
    for digest, data in IMAGE.blobs.items():
        lab.evil.on(f"/v2/app/blobs/{digest}", blob(data))
    assert await lab.pull(f"evil.test/app:latest@{IMAGE.digest}", None) == IMAGE.id
    assert lab.images.find("evil.test/app:latest") is None


# --- B10: secrets in errors -------------------------------------------------------------------------------------

PLANTED = (
    "S1GNATURE",
    "u5er-in-url",
    "pa55-in-url",
    "fr4gment",
    "ech0ed-body",
    "Tok3nOfServer",
    JOHN.password,
    BASIC[6:],
)


@pytest.fixture
async def kubelet(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """The image service of the lab's node as the kubelet has it."""
    server = grpc.aio.server(interceptors=[Interceptor()])
    disk = Disk(Path("/layers"), Path("/containers"), lambda: Usage(0, 0))
    rpc.add_ImageServiceServicer_to_server(ImageService(lab.images, ["crun"], disk), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield rpc.ImageServiceStub(channel)
    await server.stop(None)


async def failure(kubelet: Any, text: str = "evil.test/app", **options: Any) -> grpc.aio.AioRpcError:
    auth = cri.AuthConfig(username=JOHN.username, password=JOHN.password)
    asked = cri.PullImageRequest(image=cri.ImageSpec(image=text), auth=auth)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kubelet.PullImage(asked, **options)
    return caught.value


SECRET_LOCATION = (
    "http://u5er-in-url:pa55-in-url@{other}/gone?sig=S1GNATURE&X-Amz-Credential=S1GNATURE#fr4gment"
)


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 410, 429, 500, 503])
@pytest.mark.parametrize("path", [TAG, CONFIG, BLOB])
async def test_b10_no_error_log_or_record_tells_a_secret(
    lab: Lab, kubelet: Any, caplog: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    gate(lab.evil)
    echo = json.dumps({"errors": [{"code": "DENIED", "message": f"{' '.join(PLANTED)}"}]}).encode()
    lab.evil.on(path, redirect(filled(SECRET_LOCATION, lab)))
    location = f"http://{TRAP}/?sig=S1GNATURE" if status == 302 else ""
    lab.other.on("/gone", answer(echo, status, Location=location, X_Token="Tok3nOfServer"))
    error = await failure(kubelet)
    said = f"{error.details()} {error.trailing_metadata()} {caplog.text} {lab.journal.rows}"
    said += "".join(str(vars(record)) for record in caplog.records)
    assert error.details()
    for secret in PLANTED:
        assert secret not in said


@pytest.mark.parametrize("status", [200, 400, 401, 500])
async def test_b10_a_token_server_that_echoes_is_not_quoted(
    lab: Lab, kubelet: Any, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    realm = f"{lab.evil.url}/token?sig=S1GNATURE"
    challenge = answer(status=401, WWW_Authenticate=f'Bearer realm="{realm}",service="Tok3nOfServer"')
    echo = answer(" ".join(PLANTED).encode(), status)
    lab.evil.gate = lambda request: echo if request.path == "/token" else challenge
    error = await failure(kubelet)
    said = f"{error.details()} {caplog.text} " + "".join(str(vars(record)) for record in caplog.records)
    for secret in PLANTED:
        assert secret not in said


Code = grpc.StatusCode
CODES: Rows = {
    "no such tag": (TAG, answer(status=404), Code.NOT_FOUND, "cannot pull evil.test/app:latest: "),
    "no such layer": (BLOB, answer(status=404), Code.NOT_FOUND, "cannot pull evil.test/app:latest: "),
    "nobody is let in": (TAG, answer(status=403), Code.PERMISSION_DENIED, "cannot pull evil.test/app:latest: "),
    "who are you": (TAG, answer(status=401), Code.PERMISSION_DENIED, "cannot pull evil.test/app:latest: "),
    "a malformed manifest": (TAG, answer(b"{}"), Code.INVALID_ARGUMENT, "evil.test/app:latest"),
    "a request it does not like": (TAG, answer(status=400), Code.INVALID_ARGUMENT, "cannot pull "),
    **{
        f"{status}": (TAG, answer(status=status), Code.UNKNOWN, "RegistryUnavailable: cannot pull evil.test/app:latest: ")
        for status in (408, 429, 500, 501, 502, 503, 504)
    },
    "no answer": (TAG, raw(b""), Code.UNKNOWN, "RegistryUnavailable: "),
    "no HTTP": (TAG, raw(b"SSH-2.0-x\r\n"), Code.UNKNOWN, "RegistryUnavailable: "),
    "a layer that breaks off": (BLOB, blob(DATA, cut=10), Code.UNKNOWN, "RegistryUnavailable: "),
}  # fmt: skip


@pytest.mark.parametrize(("path", "behaviour", "code", "begins"), rows(CODES))
async def test_the_kubelet_gets_the_code_and_the_first_word_it_looks_for(
    lab: Lab, kubelet: Any, path: str, behaviour: Behaviour, code: grpc.StatusCode, begins: str
) -> None:
    lab.evil.on(path, behaviour)
    error = await failure(kubelet)
    assert (error.code(), str(error.details())[: len(begins)]) == (code, begins)


async def test_the_kubelet_is_told_what_cannot_be_reached(lab: Lab, kubelet: Any) -> None:
    for server in ("http://127.0.0.1:1", "https://no-such-name.invalid", f"https://{lab.evil.address}"):
        (lab.certs / "evil.test/hosts.toml").write_text(f'server = "{server}"')
        error = await failure(kubelet)
        assert error.code() is Code.UNKNOWN
        assert str(error.details()).startswith("RegistryUnavailable: cannot pull evil.test/app:latest: ")
    for text in ("UPPER", "a/../b", "evil.test/app:\u0661", IMAGE.id):
        assert (await failure(kubelet, text)).code() is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("seconds", [0.001, 0.05])
async def test_a_deadline_is_a_deadline_and_the_pull_goes_on_for_the_retry(
    lab: Lab, kubelet: Any, seconds: float
) -> None:
    slow = asyncio.Event()

    async def behave(request: Any, writer: asyncio.StreamWriter) -> bool:
        await slow.wait()
        return await blob(DATA)(request, writer)

    lab.evil.on(BLOB, behave)
    assert (await failure(kubelet, timeout=seconds)).code() is Code.DEADLINE_EXCEEDED
    slow.set()
    auth = cri.AuthConfig(username=JOHN.username, password=JOHN.password)
    asked = cri.PullImageRequest(image=cri.ImageSpec(image="evil.test/app"), auth=auth)
    assert (await kubelet.PullImage(asked)).image_ref == IMAGE.id
    assert len(lab.evil.asked("GET", BLOB)) == 1


# --- B11: credentials for somebody else -------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["other.test", "https://other.test/v1/", "evil.test:444", "docker.io"])
async def test_b11_credentials_for_another_registry_are_kept_back(
    lab: Lab, kubelet: Any, server: str
) -> None:
    gate(lab.evil)
    gate(lab.other)
    auth = cri.AuthConfig(username=JOHN.username, password=JOHN.password, server_address=server)
    asked = cri.PullImageRequest(image=cri.ImageSpec(image="evil.test/app"), auth=auth)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kubelet.PullImage(asked)
    assert caught.value.code() is Code.PERMISSION_DENIED
    assert not any(request.authorization for request in (*lab.evil.requests, *lab.other.requests))
    lab.nothing_came_in()


@pytest.mark.parametrize("other", [None, Credentials(username="mallory", password="wr0ng")])
async def test_b11_a_private_image_that_is_here_is_not_for_who_may_not_pull_it(
    lab: Lab, other: Credentials | None
) -> None:
    """Every pull asks the registry again, whatever is cached; what the kubelet does without asking is its policy."""
    gate(lab.evil)
    assert await lab.pull() == IMAGE.id
    for text in ("evil.test/app", f"evil.test/app@{IMAGE.digest}", f"evil.test/app:latest@{IMAGE.digest}"):
        with pytest.raises(Denied):
            await lab.pull(text, other)
    assert await lab.pull() == IMAGE.id


async def test_b11_a_mirror_does_not_see_the_registrys_credentials(lab: Lab) -> None:
    lab.evil.hosts_toml(lab.certs, "evil.test", f'[host."{lab.other.url}"]\n')
    gate(lab.evil)
    gate(lab.other)
    assert await lab.pull() == IMAGE.id
    assert lab.other.requests
    lab.nothing_leaked()


async def test_b11_credentials_of_one_pull_are_gone_with_it() -> None:
    registry = FakeRegistry()
    registry.push(IMAGE, "evil.test/app:latest")
    tasks = Tasks()
    cases = Images(State(FakeJournal()), FakeLayers(), Supply(registry, None, "x86_64"), tasks)  # type: ignore[arg-type]
    for credentials in (JOHN, None, JOHN):
        await cases.pull("evil.test/app", credentials)
    assert registry.credentials == [JOHN, None, JOHN]
    await tasks.stop()
