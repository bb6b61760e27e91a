"""Proving who we are to one registry host: basic and bearer (distribution-spec; Docker's token and OAuth2
documents).

Only for the length of one pull: no credential and no token is kept.

Whose credentials are shown: those of the request, if it brings any; else the node's; else none. Those of a request
that are refused end the pull, for whoever brings credentials asks for what these may have: an image that comes all
the same would tell a user that a wrong secret is right. The node's are there for whatever is pulled, so what they
may not have is asked for once more without any.

Whom they are shown to: the host itself, and the token server it names, which may be another host, as Docker Hub's
is. Whoever may name it has the right to see them anyway: only the host's own origin, never a redirect's target.
It is asked over TLS, follows no redirect, and is not an address that `host.registry.address` refuses. Plain HTTP is
for hosts that are configured so, and there credentials never leave that host. A host on loopback that nobody
configured gets none at all: whoever gets hold of the port would have them.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from yarl import URL

from sampan.host.registry.node_credentials import Found, NodeCredentials
from sampan.model.errors import Denied, Invalid
from sampan.wire import distribution
from sampan.wire.credentials import Credentials
from sampan.wire.distribution import Challenge
from sampan.wire.reference import Reference

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from sampan.host.registry.endpoint import Endpoint

_NO_OAUTH = (404, 405)  # of a token server that knows GET alone


class Login:
    """The Authorization header for one host, obtained when the host asks for it."""

    def __init__(
        self,
        endpoint: "Endpoint",
        reference: Reference,
        credentials: Credentials | None,
        node: NodeCredentials | None,
    ) -> None:
        self._endpoint = endpoint
        self._reference = reference
        self._given = credentials
        self._usable = credentials if credentials and self._may_see(credentials) else None
        self._node = node if credentials is None and not endpoint.host.assumed else None
        self._found: Found | None = None  # of the node, once it was asked
        self._refused = False  # what was found there
        self._asked: Sequence[Challenge] = ()
        self._lock = asyncio.Lock()
        self.authorization = ""
        if self._usable and self._usable.registry_token:
            self.authorization = f"Bearer {self._usable.registry_token}"

    def _may_see(self, credentials: Credentials) -> bool:
        """Credentials are for the registry that the image's name says, never for a mirror of it, unless they
        say so."""
        if self._endpoint.host.assumed:
            return False
        return any(credentials.meant_for(*each) for each in self._own_names()) or (
            bool(credentials.server) and credentials.meant_for(*self._name_at_host())
        )

    def _own_names(self) -> list[tuple[str, str]]:
        """The image's registry and repository, if this host is that registry."""
        host, reference = self._endpoint.host, self._reference
        itself = host.origin or host.host == reference.domain
        return [(reference.domain, reference.path)] if itself else []

    def _name_at_host(self) -> tuple[str, str]:
        """What the repository is called at this host: mirrors may keep several registries' images in folders."""
        host = self._endpoint.host
        folder = host.path.removeprefix("/v2/") + "/" if host.path.startswith("/v2/") else ""
        return host.host, folder + self._reference.path

    @property
    def hint(self) -> str:
        """What to do about a refusal."""
        if self._refused and self._found:
            return f"neither the node's credentials, from {self._found.source}, nor none may have this image"
        if self._usable:
            return "the credentials given are not accepted, or have no right to this image"
        if self._endpoint.host.assumed:
            return (
                "it needs credentials, and a registry on loopback gets them only if a hosts.toml describes it"
            )
        if self._given and self._given.server:
            return f"the credentials given are for {self._given.server!r} and were not shown to this host"
        hint = (
            "it needs credentials (an imagePullSecret, or the node's auth_files), or there is no such image"
        )
        return "; ".join((hint, *self._found.troubles)) if self._found else hint

    async def answer(self, asked: Sequence[Challenge], shown: str, *, renew: bool) -> bool:
        """Meet a refusal of the header `shown`; False if there is nothing (more) to show. Without `renew` what has
        just been proved was refused, and proving it again would not help."""
        async with self._lock:
            if self.authorization != shown:
                return True  # another request of this pull has met it meanwhile
            self._asked = asked or self._asked
            if renew:
                await self._look_on_node()
                if (authorization := await self._proof(shown)) not in ("", shown):
                    self.authorization = authorization
                    return True
            return await self._go_without(shown)

    async def _look_on_node(self) -> None:
        if self._node is not None and self._found is None:
            self._found = await self._node.find(*self._own_names(), self._name_at_host())
            self._usable = self._found.credentials

    async def _proof(self, shown: str) -> str:
        try:
            return await self._obtain(again=bool(shown))
        except Denied:
            if not self._nodes:
                raise
            return ""

    @property
    def _nodes(self) -> bool:
        """Whether what we show is the node's."""
        return self._found is not None and self._found.credentials is not None and not self._refused

    async def _go_without(self, shown: str) -> bool:
        """Give up the node's credentials, if it was those that were refused."""
        if not self._nodes:
            return False
        self._refused, self._usable = True, None
        self.authorization = await self._obtain(again=True)
        return self.authorization != shown

    async def _obtain(self, *, again: bool) -> str:
        if self._usable and self._usable.registry_token:
            return "" if again else f"Bearer {self._usable.registry_token}"
        bearer = next((each for each in self._asked if each.scheme == "bearer" and each.realm), None)
        if bearer is not None:
            return f"Bearer {await self._token(bearer)}"
        basic = any(each.scheme == "basic" for each in self._asked)
        return self._usable.basic() if basic and self._usable and not again else ""

    # --- token servers ------------------------------------------------------------------------------------

    async def _token(self, challenge: Challenge) -> str:
        """Ask the token server that the challenge names."""
        realm = self._realm(challenge.realm)
        query = distribution.token_query(challenge, self._reference.path)
        where = distribution.redact(str(realm))
        response = await self._asked_for_token(realm, query)
        if response.status == 200:
            body = await self._endpoint.read(response, distribution.TOKEN_LIMIT)
            return distribution.token(body, f"the answer of {where}")
        failure = await self._endpoint.failure(response)
        if response.status in (400, 401, 403):
            raise Denied(f"the token server {where} answered {response.status}: {self.hint}")
        if 300 <= response.status < 400:
            raise Invalid(f"the token server {where} redirects, which is not followed")
        raise failure

    async def _asked_for_token(self, realm: URL, query: dict[str, str]) -> "ClientResponse":
        """An identity token is traded by OAuth2 (POST), or shown as a password, as containerd does, where the server
        knows no POST; whatever else we have is shown by GET, which all know."""
        basic = self._usable.basic() if self._usable else ""
        if self._usable and self._usable.identity_token:
            secret = {"grant_type": "refresh_token", "refresh_token": self._usable.identity_token}
            form = {**query, **secret, "client_id": "sampan"}
            response = await self._endpoint.send("POST", realm, {}, form)
            if response.status not in _NO_OAUTH:
                return response
            response.close()
            basic = self._usable.identity_as_basic()
        headers = {"Authorization": basic} if basic else {}
        # update_query keeps what the realm's own query says and encodes what the registry chose
        return await self._endpoint.send("GET", realm.update_query(query), headers)

    def _realm(self, realm: str) -> URL:
        shown = distribution.redact(realm)
        try:
            url = URL(realm)
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host or url.user or url.password:
            raise Invalid(f"the registry names a token server that is no web address: {shown}")
        if url.scheme == "http":
            host = self._endpoint.host
            if host.scheme != "http":
                raise Invalid(f"the registry names a token server without TLS: {shown}")
            if self._usable and url.host != URL(host.url).host:
                raise Invalid(
                    f"the registry names a token server elsewhere without TLS, which gets no credentials: {shown}"
                )
        return url.with_fragment(None)
