"""Compiled seccomp filters, learnt from the first container that has each.

libseccomp takes 25 ms to compile the default profile. crun leaves what it compiled beside its state; handed back
for the next container with the same profile (`run.oci.seccomp_bpf_data`), it is not compiled again. Kept in memory
only: the kernel, crun and libseccomp of a later start may be others.
"""

from collections.abc import Mapping
from typing import Any

from sampan.config import Handler
from sampan.runtime.ports import Oci
from sampan.spec import seccomp

LIMIT = 64  # filters kept for each handler; a node sees a handful


class SeccompFilters:
    """Filters by handler and by the fingerprint of the profile they were compiled from."""

    def __init__(self, oci: Oci) -> None:
        self._oci = oci
        self._known: dict[str, dict[str, bytes]] = {}

    def of(self, handler: Handler) -> Mapping[str, bytes]:
        """What is known for this handler."""
        return self._known.get(handler.name, {})

    async def learn(self, handler: Handler, id: str, spec: Mapping[str, Any]) -> None:
        """Remember the filter of container `id`, which was just created from `spec`."""
        profile = spec["linux"].get("seccomp")
        if not profile:
            return
        known = self._known.setdefault(handler.name, {})
        name = seccomp.fingerprint(profile)
        if name in known or len(known) >= LIMIT:
            return
        program = await self._oci.compiled_filter(handler, id)
        if program:
            known[name] = program
