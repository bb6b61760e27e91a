"""Registry credentials: the five forms of the CRI's AuthConfig, and the host they are meant for.

A value of this type never shows its secrets: not in repr, hence not in a task's name, a log or an error.
"""

import base64
import binascii
from dataclasses import dataclass, field

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.wire.reference import DEFAULT_DOMAIN

_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password, or a token to trade (`identity_token`), or one to show (`registry_token`).

    `server` is the registry host they are for; "" leaves it to the image's name.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server: str = ""

    def meant_for(self, domain: str) -> bool:
        """Whether they may be shown to the registry of images in `domain`."""
        return not self.server or self.server == _canonical(domain)

    def basic(self) -> str:
        """The value of an Authorization header, or "" without a user."""
        if not self.username:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def from_cri(auth: cri.AuthConfig) -> Credentials | None:
    """The credentials in a request; None for an empty AuthConfig. Raises Invalid for a malformed `auth`."""
    server = _host_of(auth.server_address)
    for value in (auth.username, auth.password, auth.identity_token, auth.registry_token):
        if any(ord(c) < 32 for c in value):
            raise Invalid("the credentials of the request have control characters in them")
    if auth.username:
        return Credentials(username=auth.username, password=auth.password, server=server)
    if auth.identity_token:
        return Credentials(identity_token=auth.identity_token, server=server)
    if auth.auth:
        username, password = _decode(auth.auth)
        return Credentials(username=username, password=password, server=server)
    if auth.registry_token:
        return Credentials(registry_token=auth.registry_token, server=server)
    return None


def _decode(auth: str) -> tuple[str, str]:
    """base64 of "user:password", as ~/.docker/config.json has it; some writers pad it with NULs."""
    try:
        text = base64.b64decode(auth, validate=True).decode().strip("\0")
    except (binascii.Error, ValueError):
        raise Invalid("the `auth` of the request's credentials is not base64 of user:password") from None
    username, colon, password = text.partition(":")
    if not colon or not username:
        raise Invalid("the `auth` of the request's credentials is not base64 of user:password")
    return username, password


def _host_of(address: str) -> str:
    """The host (and port) of a server address, which may be a URL: https://index.docker.io/v1/ is
    docker.io."""
    _, _, rest = address.rpartition("://")
    return _canonical(rest.partition("/")[0])


def _canonical(host: str) -> str:
    return DEFAULT_DOMAIN if host.lower() in _DOCKER_HUB else host.lower()
