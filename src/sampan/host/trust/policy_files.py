"""The policy file and the keys it names, on the real machine: read at each use, so that no restart is needed. What they
say is `wire.trust_policy`'s and `host.trust.verifier`'s business."""

from sampan.host import owned
from sampan.host.threads import in_thread
from sampan.wire import trust_policy
from sampan.wire.trust_policy import Policy


class PolicyFiles:
    """The `Policies` port."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def read(self) -> Policy:
        return await in_thread(self._read)

    def _read(self) -> Policy:
        return trust_policy.parse(owned.read(self._path, trust_policy.FILE_LIMIT), self._path)

    async def key(self, path: str) -> bytes:
        return await in_thread(owned.read, path, trust_policy.KEY_LIMIT)
