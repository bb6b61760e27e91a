"""docker's config.json and the auth.json of Podman and CRI-O: which credentials a node has for which registry.

    {"auths": {"https://index.docker.io/v1/": {"auth": "<base64 of user:password>"},
               "a.test:5000/team": {"identitytoken": "..."}},
     "credHelpers": {"b.test": "NAME"}, "credsStore": "NAME"}

Sources: docker's documentation of `docker login`, containers-auth.json(5), and the docker-credential-helpers project,
whose programs docker-credential-NAME are asked by `host.registry.node_credentials`, which also reads the files.
Everything else that these files hold is passed over.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from sampan.model.errors import Invalid
from sampan.wire import credentials, strict_json
from sampan.wire.credentials import Credentials
from sampan.wire.reference import DEFAULT_DOMAIN

FILE_LIMIT = 1 << 20  # bytes
ANSWER_LIMIT = 64 << 10  # bytes of what a helper says; identity tokens have a few thousand

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DOCKER_HUB_SERVER = "https://index.docker.io/v1/"  # what docker asks helpers for, and stores, for docker.io
_NOT_FOUND = b"credentials not found"


class _Entry(msgspec.Struct):
    """What `auths` says of one registry."""

    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None

    def __repr__(self) -> str:
        return "_Entry(...)"


class _File(msgspec.Struct, rename={"helpers": "credHelpers", "store": "credsStore"}):
    auths: dict[str, _Entry | None] | None = None
    helpers: dict[str, str] | None = None
    store: str | None = None


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """A file as it was read. Keys are registries as `credentials.registry` writes them."""

    what: str
    _entries: Mapping[str, _Entry] = field(repr=False)
    _helpers: Mapping[str, str]
    _store: str

    def helper(self, domain: str, path: str) -> str:
        """The NAME of the helper that is to be asked for a repository, or "": the registry's own goes before the one
        for all. Raises Invalid for a NAME that could be more than a name."""
        key = _longest(self._helpers, domain, path)
        name = self._helpers[key] if key else self._store
        if name and not _HELPER.fullmatch(name):
            raise Invalid(f"{self.what} names a credential helper by what is no name: {name[:64]!r}")
        return name

    def stored(self, domain: str, path: str) -> Credentials | None:
        """The credentials in the file for a repository: those of the longest key that covers it. Raises Invalid.

        Where an entry has several forms, tokens go before passwords and `auth` before `username`, as with docker.
        """
        key = _longest(self._entries, domain, path)
        if not key:
            return None
        entry, whose = self._entries[key], f"the credentials for {key} in {self.what}"
        if entry.registrytoken:
            return credentials.checked(Credentials(registry_token=entry.registrytoken, server=key), whose)
        if entry.identitytoken:
            return credentials.checked(Credentials(identity_token=entry.identitytoken, server=key), whose)
        if entry.auth:
            return credentials.of_user(*credentials.decode(entry.auth, whose), key, whose)
        return credentials.of_user(entry.username or "", entry.password or "", key, whose)


def parse(data: bytes, what: str) -> DockerConfig:
    """The configuration in a file that `what` names. Raises Invalid.

    What cannot be used is passed over if it is about one registry only; entries without a secret are what docker
    leaves behind for a helper.
    """
    file = strict_json.decode(data, _File, what, FILE_LIMIT)
    entries: dict[str, _Entry] = {}
    for address, entry in (file.auths or {}).items():
        if entry and (entry.auth or entry.username or entry.identitytoken or entry.registrytoken):
            entries.setdefault(credentials.registry(address), entry)
    helpers = {credentials.registry(key): name for key, name in (file.helpers or {}).items() if name}
    for keyed in (entries, helpers):
        keyed.pop("", None)
    return DockerConfig(what, entries, helpers, file.store or "")


def _longest(servers: Iterable[str], domain: str, path: str) -> str:
    return max((each for each in servers if credentials.covers(each, domain, path)), key=len, default="")


# --- helpers ----------------------------------------------------------------------------------------------


class _Answer(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""

    def __repr__(self) -> str:
        return "_Answer(...)"


def question(domain: str) -> bytes:
    """What a helper is told on its stdin: the registry in docker's spelling."""
    host = credentials.canonical(domain)
    return (_DOCKER_HUB_SERVER if host == DEFAULT_DOMAIN else host).encode()


def answer(code: int, stdout: bytes, domain: str, whose: str) -> Credentials | None:
    """The credentials that a helper gives by its exit code and output; None if it has none. Raises Invalid.

    A helper's words are not repeated: they may hold a secret.
    """
    if code:
        if _NOT_FOUND in stdout.lower():
            return None
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise Invalid(f"{whose} fails ({ending})")
    found = strict_json.decode(stdout, _Answer, f"the answer of {whose}", ANSWER_LIMIT)
    if not found.secret:
        return None
    if not found.username:
        raise Invalid(f"{whose} gives a Secret without a Username")
    server = credentials.canonical(domain)
    return credentials.of_user(found.username, found.secret, server, f"the credentials of {whose}")
