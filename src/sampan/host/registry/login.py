"""Proving who we are to one registry host: basic and bearer (distribution-spec; Docker's token and OAuth2
documents).

Only for the length of one pull: no credential and no token is kept.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from yarl import URL

from sampan.model.errors import Denied, Invalid
from sampan.wire import distribution
from sampan.wire.credentials import Credentials
from sampan.wire.distribution import Challenge
from sampan.wire.reference import Reference

if TYPE_CHECKING:
    from sampan.host.registry.endpoint import Endpoint


class Login:
    """The Authorization header for one host, obtained when the host asks for it."""

    def __init__(self, endpoint: "Endpoint", reference: Reference, credentials: Credentials | None) -> None:
        self._endpoint = endpoint
        self._path = reference.path
        self._given = credentials
        self._usable = credentials if credentials and self._may_see(credentials, reference) else None
        self._lock = asyncio.Lock()
        self.authorization = ""
        if self._usable and self._usable.registry_token:
            self.authorization = f"Bearer {self._usable.registry_token}"

    def _may_see(self, credentials: Credentials, reference: Reference) -> bool:
        """Credentials are for the registry that the image's name says, never for a mirror of it, unless they
        say so."""
        host = self._endpoint.host
        if host.origin or host.host == reference.domain:
            return credentials.meant_for(reference.domain) or credentials.meant_for(host.host)
        return bool(credentials.server) and credentials.meant_for(host.host)

    @property
    def hint(self) -> str:
        """What to do about a refusal."""
        if self._usable:
            return "the credentials given are not accepted, or have no right to this image"
        if self._given and self._given.server:
            return f"the credentials given are for {self._given.server!r} and were not shown to this host"
        return "it needs credentials (an imagePullSecret), or there is no such image"

    async def answer(self, challenges: Sequence[Challenge], shown: str) -> bool:
        """Meet a challenge; `shown` is the header that was refused. False if there is nothing (more) to
        show."""
        async with self._lock:
            if self.authorization != shown:
                return True  # another request of this pull has met it meanwhile
            authorization = await self._obtain(challenges, again=bool(shown))
            if not authorization or authorization == shown:
                return False
            self.authorization = authorization
            return True

    async def _obtain(self, challenges: Sequence[Challenge], *, again: bool) -> str:
        if self._usable and self._usable.registry_token:
            return ""
        bearer = next((each for each in challenges if each.scheme == "bearer" and each.realm), None)
        if bearer is not None:
            return f"Bearer {await self._token(bearer)}"
        basic = any(each.scheme == "basic" for each in challenges)
        return self._usable.basic() if basic and self._usable and not again else ""

    async def _token(self, challenge: Challenge) -> str:
        """Ask the token server that the challenge names, over TLS unless the registry itself goes without."""
        realm = self._realm(challenge.realm)
        query = distribution.token_query(challenge, self._path)
        where = distribution.redact(str(realm))
        if self._usable and self._usable.identity_token:
            secret = {"grant_type": "refresh_token", "refresh_token": self._usable.identity_token}
            form = {**query, **secret, "client_id": "sampan", "access_type": "offline"}
            response = await self._endpoint.send("POST", realm, {}, form)
        else:
            basic = self._usable.basic() if self._usable else ""
            headers = {"Authorization": basic} if basic else {}
            # update_query keeps what the realm's own query says and encodes what the registry chose
            response = await self._endpoint.send("GET", realm.update_query(query), headers)
        if response.status == 200:
            body = await self._endpoint.read(response, distribution.TOKEN_LIMIT)
            return distribution.token(body, f"the answer of {where}")
        failure = await self._endpoint.failure(response)
        if response.status in (400, 401, 403):
            raise Denied(f"the token server {where} answered {response.status}: {self.hint}")
        if 300 <= response.status < 400:
            raise Invalid(f"the token server {where} redirects, which is not followed")
        raise failure

    def _realm(self, realm: str) -> URL:
        try:
            url = URL(realm)
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host or url.user or url.password:
            raise Invalid(
                f"the registry names a token server that is no web address: {distribution.redact(realm)}"
            )
        if url.scheme == "http" and self._endpoint.host.scheme != "http":
            raise Invalid(f"the registry names a token server without TLS: {distribution.redact(realm)}")
        return url.with_fragment(None)
