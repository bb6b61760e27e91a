"""docker's config.json: which entry, and which helper, is for which repository."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.model.errors import Invalid
from sampan.wire import docker_config
from sampan.wire.credentials import Credentials
from sampan.wire.docker_config import DockerConfig


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config(**keys: Any) -> DockerConfig:
    return docker_config.parse(json.dumps(keys).encode(), "the file")


def stored(auths: dict[str, Any], domain: str, path: str = "app") -> Credentials | None:
    return config(auths=auths).stored(domain, path)


# --- entries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"auth": b64("u:p:q")}, Credentials("u", "p:q", server="a.test")),
        ({"auth": b64("u:p"), "email": "x"}, Credentials("u", "p", server="a.test")),
        ({"username": "u", "password": "p"}, Credentials("u", "p", server="a.test")),
        ({"username": "x", "password": "y", "auth": b64("u:p")}, Credentials("u", "p", server="a.test")),
        ({"identitytoken": "t"}, Credentials(identity_token="t", server="a.test")),
        ({"identitytoken": "t", "auth": b64("0000:")}, Credentials(identity_token="t", server="a.test")),
        ({"auth": b64("<token>:t")}, Credentials(identity_token="t", server="a.test")),
        ({"registrytoken": "t", "identitytoken": "i"}, Credentials(registry_token="t", server="a.test")),
        ({}, None),
        ({"email": "x"}, None),
        ({"auth": ""}, None),
        ({"password": "p"}, None),
        (None, None),
    ],
)
def test_all_forms_of_an_entry(entry: object, found: Credentials | None) -> None:
    assert stored({"a.test": entry}, "a.test") == found


KEYS = {
    "https://index.docker.io/v1/": {"auth": b64("hub:p")},
    "docker.io/me": {"auth": b64("me:p")},
    "a.test": {"auth": b64("host:p")},
    "a.test/team": {"auth": b64("team:p")},
    "a.test/team/app": {"auth": b64("app:p")},
    "https://B.test:5000/v2/": {"auth": b64("port:p")},
    "not a registry": {"auth": b64("nobody:p")},
    "c.test/deep": {"auth": b64("deep:p")},
}


@pytest.mark.parametrize(
    ("domain", "path", "user"),
    [
        ("docker.io", "library/app", "hub"),
        ("registry-1.docker.io", "library/app", "hub"),
        ("docker.io", "me/app", "me"),
        ("docker.io", "meals/app", "hub"),
        ("a.test", "app", "host"),
        ("a.test", "team/other", "team"),
        ("a.test", "team/app", "app"),
        ("a.test", "team/app/part", "app"),
        ("a.test", "team/apps", "team"),
        ("b.test:5000", "x", "port"),
        ("b.test", "x", None),
        ("a.test:5000", "x", None),
        ("c.test", "deep/x", "deep"),
        ("c.test", "deeper/x", None),
        ("c.test", "x", None),
        ("xa.test", "x", None),
        ("a.test.evil", "x", None),
    ],
)
def test_the_longest_key_that_covers_a_repository_counts(domain: str, path: str, user: str | None) -> None:
    found = stored(KEYS, domain, path)
    assert (found.username if found else None) == user


def test_an_entry_that_is_left_empty_hides_none_that_says_something() -> None:
    auths = {"docker.io": {}, "https://index.docker.io/v1/": {"auth": b64("hub:p")}}
    assert stored(auths, "docker.io") == Credentials("hub", "p", server="docker.io")


@pytest.mark.parametrize("auth", ["s3cret", b64("s3cret"), b64(":s3cret")])
def test_an_entry_that_is_wrong_is_named_where_it_is_needed_and_nowhere_else(auth: str) -> None:
    auths = {"a.test": {"auth": auth}, "b.test": {"auth": b64("u:p")}}
    assert stored(auths, "b.test") is not None
    with pytest.raises(Invalid, match=r"for a\.test in the file") as caught:
        stored(auths, "a.test")
    assert auth not in str(caught.value) and "s3cret" not in str(caught.value)


def test_a_line_break_cannot_get_into_a_header() -> None:
    with pytest.raises(Invalid, match="control characters"):
        stored({"a.test": {"registrytoken": "x\r\nX-Evil: 1"}}, "a.test")


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["{}", '{"auths": null, "credHelpers": null, "credsStore": null}', '{"HttpHeaders": {}}']
)
def test_a_file_without_credentials_is_fine(text: str) -> None:
    found = docker_config.parse(text.encode(), "it")
    assert (found.stored("a.test", "x"), found.helper("a.test", "x")) == (None, "")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", '{"auths": []}', '{"auths": {"a.test": "s3cret"}}', '{"credsStore": 1}'),
        *(
            '{"auths": {"a.test": {"auth": ["s3cret"]}}}',
            '{"auths": {}, "auths": {}}',
            '{"credHelpers": {"a": {}}}',
        ),
        *("[" * 100_000, '{"x": "' + "y" * docker_config.FILE_LIMIT + '"}', "\xff"),
    ],
)
def test_a_malformed_file_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(Invalid, match="the file") as caught:
        docker_config.parse(text.encode("latin-1"), "the file")
    assert "s3cret" not in str(caught.value)


@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: json.dumps({"auths": {text: {"auth": text}}}).encode())
)
def test_no_content_does_more_than_be_refused(data: bytes) -> None:
    try:
        docker_config.parse(data, "it").stored("a.test", "x")
    except Invalid as error:
        assert "it" in str(error)


def test_nothing_secret_is_in_its_text() -> None:
    found = config(auths={"a.test": {"auth": b64("u:s3cret"), "password": "s3cret"}}, credsStore="pass")
    assert "pass" in repr(found)
    assert "s3cret" not in repr(found) and b64("u:s3cret") not in repr(found)
    assert "s3cret" not in repr(found._entries) and b64("u:s3cret") not in repr(found._entries)


# --- helpers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "name"), [("a.test", "one"), ("docker.io", "hub"), ("b.test", "all"), ("a.test:5000", "all")]
)
def test_a_registrys_own_helper_goes_before_the_one_for_all(domain: str, name: str) -> None:
    helpers = {"https://a.test": "one", "https://index.docker.io/v1/": "hub", "b.test": ""}
    assert config(credHelpers=helpers, credsStore="all").helper(domain, "x") == name


@pytest.mark.parametrize("name", ["../x", "a/b", "/bin/sh", "-x", ".x", "a b", "a\n", "a;b", "ä", "x" * 65])
def test_what_is_no_name_of_a_helper_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="the file names a credential helper"):
        config(credsStore=name).helper("a.test", "x")
    with pytest.raises(Invalid, match="the file names a credential helper"):
        config(credHelpers={"a.test": name}).helper("a.test", "x")


def test_a_helper_is_asked_in_dockers_spelling() -> None:
    assert docker_config.question("docker.io") == b"https://index.docker.io/v1/"
    assert docker_config.question("A.test:5000") == b"a.test:5000"


@pytest.mark.parametrize(
    ("code", "stdout", "found"),
    [
        (0, '{"ServerURL": "x", "Username": "u", "Secret": "p"}\n', Credentials("u", "p", server="a.test")),
        (0, '{"Username": "<token>", "Secret": "t"}', Credentials(identity_token="t", server="a.test")),
        (0, '{"Username": "u", "Secret": ""}', None),
        (0, "{}", None),
        (1, "credentials not found in native keychain\n", None),
    ],
)
def test_what_a_helper_answers(code: int, stdout: str, found: Credentials | None) -> None:
    assert docker_config.answer(code, stdout.encode(), "a.test", "the helper") == found


@pytest.mark.parametrize(
    ("code", "stdout", "why"),
    [
        (1, "s3cret is locked", r"exit code 1\)$"),
        (-9, "s3cret", r"signal 9\)$"),
        (0, "s3cret", "not valid JSON"),
        (0, "", "not valid JSON"),
        (0, '["s3cret"]', "malformed"),
        (0, '{"Username": "s3cret", "Secret": 1}', "malformed"),
        (0, '{"Secret": "s3cret"}', "without a Username"),
        (0, '{"Username": "u", "Secret": "s3cret\\n"}', "control characters"),
        (0, '{"Username": "u", "Secret": "s3cret", "Secret": "x"}', "twice"),
        (0, '"' + "s3cret" * 20_000 + '"', "larger than"),
    ],
)
def test_a_helper_that_fails_is_not_quoted(code: int, stdout: str, why: str) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        docker_config.answer(code, stdout.encode(), "a.test", "the helper")
    assert "the helper" in str(caught.value) and "s3cret" not in str(caught.value)
