"""Which images may come to this node and which may run on it, by the operator's policy (`wire.trust_policy`).

The policy is read at each use. An image is judged by the name that it is asked for, whichever host answers; at a
pull, before anything of its content is fetched, and again whenever a container is made of it or mounts it, then with
the signatures that are on record. Whatever cannot be decided is refused: there is no failure that accepts.
"""

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid, NotFound, SignatureValidationFailed
from sampan.model.image import Image, Signature
from sampan.runtime import signatures
from sampan.runtime.image_ports import Repository
from sampan.runtime.trust_ports import Policies, Verifier
from sampan.spec import volumes
from sampan.wire import reference, sigstore, trust_policy
from sampan.wire.reference import Reference
from sampan.wire.trust_policy import ACCEPT_ALL, Decision, Policy, Rule

log = logging.getLogger("sampan.trust")
KEPT = 32  # signatures on record for an image
UNPROVEN_LIMIT = 4096  # bytes of a kept payload that no key of the policy has signed (yet)
REASONS = 3  # in an error


class Trust:
    """The judge. Without `policies` every image is accepted."""

    def __init__(self, policies: Policies | None = None, verifier: Verifier | None = None) -> None:
        self._policies = policies
        self._verifier = verifier

    async def complain(self) -> None:
        """Log what is wrong with the policy and its keys, at a start: else the first refusal would tell."""
        if self._policies is None or self._verifier is None:
            return
        try:
            policy = await self._policies.read()
        except Invalid as error:
            log.error("every image is refused while the policy cannot be used: %s", error)
            return
        for rule in policy.rules.values():
            if not rule.keys:
                continue
            try:
                await self._verifier.check(await self._keys(rule))
            except Invalid as error:
                log.error("%s: what %s decides is refused: %s", policy.source, rule, error)

    # --- at a pull ------------------------------------------------------------------------------------------

    async def may_pull(self, wanted: Reference) -> None:
        """Raise SignatureValidationFailed for a name that is refused whatever is signed, before anybody is asked."""
        rule = (await self._policy(str(wanted))).rule(wanted)
        if rule.decision is Decision.REJECT:
            raise _rejected(str(wanted), rule)

    async def prove(
        self, wanted: Reference, digest: str, repository: Repository, known: Sequence[Signature] = ()
    ) -> tuple[Signature, ...]:
        """Raise SignatureValidationFailed unless what `wanted` means now, the manifest or index `digest`, may be
        pulled. Returns the signatures to keep, where any had to be fetched beside the `known` ones.

        What a registry fails to answer is raised as it is: it may have signatures that prove it.
        """
        rule = (await self._policy(str(wanted))).rule(wanted)
        if rule.decision is Decision.ACCEPT:
            return ()
        if rule.decision is Decision.REJECT:
            raise _rejected(str(wanted), rule)
        case = await self._case(rule, wanted)
        if await case.any_proves(one for one in known if one.digest == digest):
            return ()
        try:
            sigstore.tag(digest)
        except Invalid as error:
            raise case.refusal(str(error)) from None
        for forms in (signatures.attached, signatures.bundled):
            if await case.hear(forms(repository, digest, case.reasons.append)):
                return case.kept()
        raise case.refusal("it has no signature that counts")

    # --- at a container -------------------------------------------------------------------------------------

    async def may_run(
        self, config: cri.ContainerConfig, image: Image | None, mounted: Sequence[Image | None]
    ) -> None:
        """Raise SignatureValidationFailed unless a container may be made of this image and mount those. Raises NotFound
        for one that is None, removed just now: nothing that was not judged may be used, also if it comes back."""
        if self._policies is None:
            return
        policy = await self._policy("the container's image")
        asked = [("", config.image, image)]
        for (number, mount), each in zip(volumes.of_images(config), mounted, strict=True):
            asked.append((f"mounts[{number}].image: ", mount.image, each))
        for where, spec, each in asked:
            if each is None:
                raise NotFound(f"{where}image {spec.image[:200]!r} was removed just now; pull it again")
            for name in _names(spec, each):
                await self._may_use(policy, name, each, where)

    async def _may_use(self, policy: Policy, name: Reference | None, image: Image, where: str) -> None:
        what = where + (str(name) if name else f"image {image.id}, which has no name")
        rule = policy.rule(name) if name else policy.default
        if rule.decision is Decision.ACCEPT:
            return
        if rule.decision is Decision.REJECT or name is None:
            raise _rejected(what, rule)
        case = await self._case(rule, name, where)
        digests = _digests(name, image)
        if not await case.any_proves(one for one in image.signatures if one.digest in digests):
            raise case.refusal("no signature on record counts; pull it again to have them fetched anew")

    # --- both -----------------------------------------------------------------------------------------------

    async def _policy(self, what: str) -> Policy:
        if self._policies is None:
            return ACCEPT_ALL
        try:
            return await self._policies.read()
        except Invalid as error:
            raise SignatureValidationFailed(
                f"{what} is refused, as every image is while the policy cannot be used: {error}"
            ) from None

    async def _case(self, rule: Rule, asked: Reference, where: str = "") -> "_Case":
        if self._policies is None or self._verifier is None:
            raise SignatureValidationFailed(f"{where}{asked} is refused: nothing here checks signatures")
        try:
            keys = await self._keys(rule)
            await self._verifier.check(keys)  # here, for without any signature they would never be looked at
        except Invalid as error:
            raise SignatureValidationFailed(f"{where}{asked} is refused: {error}") from None
        return _Case(rule, asked, where, keys, self._verifier)

    async def _keys(self, rule: Rule) -> dict[str, bytes]:
        assert self._policies is not None
        return {path: await self._policies.key(path) for path in rule.keys}


class _Case:
    """One image before the judge: what has been brought forward for it, and why that does not count."""

    def __init__(
        self, rule: Rule, asked: Reference, where: str, keys: Mapping[str, bytes], verifier: Verifier
    ) -> None:
        self.reasons: list[str] = []
        self._rule = rule
        self._asked = asked
        self._where = where
        self._keys = keys
        self._verifier = verifier
        self._proven: list[Signature] = []
        self._heard: list[Signature] = []

    async def any_proves(self, brought: Iterable[Signature]) -> bool:
        """Whether one of these is by a key of the rule, and for this image under this name."""
        for signature in brought:
            if await self._proves(signature):
                return True
        return False

    async def hear(self, brought: AsyncGenerator[Signature, None]) -> bool:
        """The same, but all are heard: they are to be kept, for the key that counts tomorrow may be another."""
        async with aclosing(brought) as each:
            async for signature in each:
                counts = await self._proves(signature)
                (self._proven if counts else self._heard).append(signature)
        return bool(self._proven)

    async def _proves(self, signature: Signature) -> bool:
        try:
            trust_policy.check_claim(self._rule, self._asked, signature)
            message = sigstore.message(signature)
            signer = await self._verifier.signer(self._keys, message, signature.signature)
        except Invalid as error:
            self.reasons.append(str(error))
            return False
        if signer is None:
            self.reasons.append(f"a signature is by none of the keys {', '.join(self._keys)}")
            return False
        log.debug("%s%s is signed with %s", self._where, self._asked, signer)
        return True

    def kept(self) -> tuple[Signature, ...]:
        """What the record of the image is to hold: a stranger's share of it is bounded."""
        small = [one for one in self._heard if len(one.payload) <= UNPROVEN_LIMIT]
        return tuple(dict.fromkeys([*self._proven, *small]))[:KEPT]

    def refusal(self, why: str) -> SignatureValidationFailed:
        """The error that says what was brought forward and why it does not count."""
        said = "; ".join(list(dict.fromkeys(self.reasons))[:REASONS])
        return SignatureValidationFailed(
            f"{self._where}{self._asked} must be signed, by {self._rule}: {why}{f' ({said})' if said else ''}"
        )


def merged_signatures(new: Sequence[Signature], old: Sequence[Signature]) -> tuple[Signature, ...]:
    """The signatures of a record, the newest first."""
    return tuple(dict.fromkeys((*new, *old)))[:KEPT]


def _rejected(what: str, rule: Rule) -> SignatureValidationFailed:
    return SignatureValidationFailed(f"{what} is refused by {rule} in the policy")


def _names(spec: cri.ImageSpec, image: Image) -> list[Reference | None]:
    """The names by which the policy judges the image, each of which must be allowed: those that the request gives it.
    Where it gives none that the image was pulled as (an id alone, say), all that it has too; None stands for its having
    none."""
    own = [reference.parse(name) for name in (*image.tags, *image.digests)]
    repositories = {trust_policy.full_name(name) for name in own}
    names: list[Reference | None] = []
    for text in (spec.user_specified_image, spec.image, spec.image_ref):
        name = _parsed(text)
        beginning = reference.id_prefix(text)  # of an id, which may look like a name
        is_id = beginning is not None and image.id.startswith(beginning)
        if name and (trust_policy.full_name(name) in repositories or not is_id):
            names.append(name)
    if not any(name and trust_policy.full_name(name) in repositories for name in names):
        names += own or [None]
    return list(dict.fromkeys(names))


def _parsed(text: str) -> Reference | None:
    try:
        return reference.parse(text)
    except Invalid:
        return None


def _digests(name: Reference, image: Image) -> set[str]:
    """What the name may mean: the digests that the image was pulled by from this repository."""
    own = [reference.parse(digest) for digest in image.digests]
    same = {each.digest for each in own if trust_policy.full_name(each) == trust_policy.full_name(name)}
    return same & {name.digest} if name.digest else same
