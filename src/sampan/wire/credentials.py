"""Registry credentials: the five forms of the CRI's AuthConfig, and the registry they are meant for.

A value of this type never shows its secrets: not in repr, hence not in a task's name, a log or an error. Those of
the node's own files are `wire.docker_config`'s.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.wire.reference import DEFAULT_DOMAIN

TOKEN_USER = "<token>"  # whose password is an identity token (docker-credential-helpers)

_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_ADDRESS = re.compile(
    r"(?:https?://)?(?:[^@/\s]*@)?((?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)((?:/[A-Za-z0-9._-]*)*)"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password, or a token to trade (`identity_token`), or one to show (`registry_token`).

    `server` is the registry host they are for, and the beginning of the repositories' path if it is for some of them
    only: "a.test:5000/team"; "" leaves it to the image's name.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server: str = ""

    def meant_for(self, domain: str, path: str = "") -> bool:
        """Whether they may be shown to the registry of images in `domain`, for the repository `path`."""
        return not self.server or covers(self.server, domain, path)

    def basic(self) -> str:
        """The value of an Authorization header, or "" without a user."""
        return _basic(self.username, self.password) if self.username else ""

    def identity_as_basic(self) -> str:
        """The identity token as the password of nobody: for token servers that know no OAuth."""
        return _basic("", self.identity_token)


def from_cri(auth: cri.AuthConfig) -> Credentials | None:
    """The credentials in a request; None for an empty AuthConfig, which leaves them to the node. Raises Invalid.

    Where several forms are set, the first of these counts, as with containerd's ParseAuth: username (and password),
    identity_token, auth; then registry_token, which containerd passes over. The kubelet and crictl send one form.
    """
    whose = "the credentials of the request"
    server = ""
    if auth.server_address:
        server = registry(auth.server_address)
        if not server:
            raise Invalid(
                "the `server_address` of the request's credentials is not the address of a registry"
            )
    if auth.username:
        return of_user(auth.username, auth.password, server, whose)
    if auth.identity_token:
        return checked(Credentials(identity_token=auth.identity_token, server=server), whose)
    if auth.auth:
        return of_user(*decode(auth.auth, whose), server, whose)
    if auth.registry_token:
        return checked(Credentials(registry_token=auth.registry_token, server=server), whose)
    return None


def of_user(username: str, password: str, server: str, whose: str) -> Credentials:
    """A user's credentials, or an identity token where the user's name says so. `whose` begins the text of Invalid."""
    if username == TOKEN_USER:
        return checked(Credentials(identity_token=password, server=server), whose)
    return checked(Credentials(username, password, server=server), whose)


def checked(credentials: Credentials, whose: str) -> Credentials:
    """The same; raises Invalid for what could end a header's line."""
    values = (
        credentials.username,
        credentials.password,
        credentials.identity_token,
        credentials.registry_token,
    )
    if any(_CONTROL.search(value) for value in values):
        raise Invalid(f"{whose} have control characters in them")
    return credentials


def decode(auth: str, whose: str) -> tuple[str, str]:
    """User and password of an `auth`: base64 of "user:password"; some writers pad it with NULs. Raises Invalid."""
    try:
        text = base64.b64decode(auth, validate=True).decode().strip("\0")
    except (binascii.Error, ValueError):
        text = ""
    username, colon, password = text.partition(":")
    if not colon or not username:
        raise Invalid(f"{whose} hold an `auth` that is not base64 of user:password")
    return username, password


# --- for whom ---------------------------------------------------------------------------------------------


def registry(address: str) -> str:
    """The registry host that an address names, with the path of the repositories if there is one; "" if it is no such
    address.

    Addresses are what AuthConfig.server_address and the keys of docker's config.json hold: a host, a URL, either with
    the API's version as path (https://index.docker.io/v1/ is docker.io), or a host with the beginning of repositories'
    names (containers-auth.json(5)). A user in it is dropped.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return ""
    version, slash, rest = match[2].strip("/").partition("/")
    path = rest if version in ("v1", "v2") else f"{version}{slash}{rest}"
    return f"{canonical(match[1])}/{path}".strip("/")


def covers(server: str, domain: str, path: str) -> bool:
    """Whether `server`, a result of `registry`, stands for the repository `path` of `domain`."""
    return f"{canonical(domain)}/{path}/".startswith(f"{server}/")


def canonical(host: str) -> str:
    """One name for each registry host: docker.io has several."""
    return DEFAULT_DOMAIN if host.lower() in _DOCKER_HUB else host.lower()


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
