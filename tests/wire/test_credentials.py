"""Credentials: the forms they come in, and that they do not leak."""

import base64

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.wire import credentials
from sampan.wire.credentials import Credentials


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("auth", "found"),
    [
        (cri.AuthConfig(), None),
        (cri.AuthConfig(server_address="a.test"), None),
        (cri.AuthConfig(username="u", password="p"), Credentials("u", "p")),
        (cri.AuthConfig(auth=b64("u:p:q")), Credentials("u", "p:q")),
        (cri.AuthConfig(auth=b64("u:p\0\0")), Credentials("u", "p")),
        (cri.AuthConfig(auth=b64("u:")), Credentials("u", "")),
        (cri.AuthConfig(identity_token="t"), Credentials(identity_token="t")),
        (cri.AuthConfig(registry_token="t"), Credentials(registry_token="t")),
        (
            cri.AuthConfig(username="u", password="p", auth=b64("x:y"), identity_token="t"),
            Credentials("u", "p"),
        ),
        (cri.AuthConfig(auth=b64("x:y"), identity_token="t"), Credentials(identity_token="t")),
        (cri.AuthConfig(auth=b64("x:y"), registry_token="t"), Credentials("x", "y")),
        (cri.AuthConfig(username="<token>", password="t"), Credentials(identity_token="t")),
        (cri.AuthConfig(auth=b64("<token>:t")), Credentials(identity_token="t")),
    ],
)
def test_all_forms_are_understood(auth: cri.AuthConfig, found: Credentials | None) -> None:
    assert credentials.from_cri(auth) == found


@pytest.mark.parametrize(
    "auth", ["%%%", b64("nocolon"), b64(":p"), "dTpw\n", base64.b64encode(b"\xff:p").decode()]
)
def test_a_malformed_auth_is_refused_without_being_shown(auth: str) -> None:
    with pytest.raises(Invalid) as caught:
        credentials.from_cri(cri.AuthConfig(auth=auth))
    assert auth not in str(caught.value)


@pytest.mark.parametrize(
    "auth",
    [
        cri.AuthConfig(registry_token="a\r\nX-Evil: 1"),
        cri.AuthConfig(username="a\n", password="p"),
        cri.AuthConfig(username="a", password="p\x7f"),
        cri.AuthConfig(identity_token="a\0"),
        cri.AuthConfig(auth=b64("a:p\r\n")),
    ],
)
def test_a_line_break_cannot_get_into_a_header(auth: cri.AuthConfig) -> None:
    with pytest.raises(Invalid, match="control characters"):
        credentials.from_cri(auth)


@pytest.mark.parametrize(
    "address",
    ["https://", "a b", "ftp://a.test", "a.test/x?s3cret", "a.test:port", "a.test\n", "u:s3/cret@a.test"],
)
def test_an_address_that_is_none_is_refused_without_being_shown(address: str) -> None:
    with pytest.raises(Invalid, match="server_address") as caught:
        credentials.from_cri(cri.AuthConfig(username="u", password="p", server_address=address))
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "domain", "meant"),
    [
        ("", "a.test", True),
        ("a.test", "a.test", True),
        ("A.test", "a.test", True),
        ("https://a.test/v2/", "a.test", True),
        ("https://a.test:5000", "a.test:5000", True),
        ("https://index.docker.io/v1/", "docker.io", True),
        ("docker.io", "docker.io", True),
        ("registry-1.docker.io", "docker.io", True),
        ("a.test", "b.test", False),
        ("a.test", "a.test:5000", False),
        ("a.test", "a.test.evil", False),
        ("a.test", "xa.test", False),
        ("docker.io", "a.test", False),
        ("http://a.test", "a.test", True),
        ("a.test/v1", "a.test", True),
        ("https://u:p@a.test/v2/", "a.test", True),
        ("[::1]:5000", "[::1]:5000", True),
    ],
)
def test_whom_they_are_meant_for(address: str, domain: str, meant: bool) -> None:
    found = credentials.from_cri(cri.AuthConfig(username="u", server_address=address))
    assert found is not None
    assert found.meant_for(domain) is meant


@pytest.mark.parametrize(
    ("address", "path", "meant"),
    [
        ("a.test/team", "team/app", True),
        ("a.test/team", "team", True),
        ("a.test/team/", "team/app", True),
        ("https://a.test/v2/team", "team/app", True),
        ("a.test/team/app", "team/app", True),
        ("a.test/team", "teams/app", False),
        ("a.test/team", "other/team", False),
        ("a.test/team/app", "team", False),
        ("a.test/v2", "v2/app", True),
        ("a.test", "team/app", True),
    ],
)
def test_an_address_with_a_path_is_for_what_is_below_it(address: str, path: str, meant: bool) -> None:
    found = credentials.from_cri(cri.AuthConfig(username="u", server_address=address))
    assert found is not None
    assert found.meant_for("a.test", path) is meant


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("INDEX.docker.io", "docker.io"),
        ("docker.io/me", "docker.io/me"),
        ("https://A.test:5000/v2/Team/", "a.test:5000/Team"),
        ("https://john:s3cret@a.test", "a.test"),
        ("", ""),
        ("/", ""),
        ("a.test/*", ""),
    ],
)
def test_how_a_registry_is_written(address: str, written: str) -> None:
    assert credentials.registry(address) == written


def test_nothing_secret_is_in_their_text() -> None:
    text = repr(Credentials("user", "passw0rd", "1dentity", "r3gistry", "a.test"))
    assert "user" in text
    assert not any(secret in text for secret in ("passw0rd", "1dentity", "r3gistry"))


def test_the_basic_header() -> None:
    assert Credentials("u", "p").basic() == "Basic dTpw"
    assert Credentials(registry_token="t").basic() == ""
    assert Credentials(identity_token="p").identity_as_basic() == "Basic OnA="
