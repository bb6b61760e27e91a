"""Every failure a caller may see, named for what the caller should do about it.

Raise at the point of knowledge, with the id in the message and a hint where there is one. Nothing below
`server.interceptor` translates or logs these; it owns the table that turns them into gRPC codes.
"""

from collections.abc import Sequence


class SampanError(Exception):
    """The root of the failures that are part of our interface."""


class NotFound(SampanError):
    """The named object does not exist; asking again will not help."""


class AlreadyExists(SampanError):
    """The name is taken by something else than what was asked for."""


class Invalid(SampanError):
    """The request can never succeed as it stands."""


class WrongState(SampanError):
    """The object exists but its state does not allow this verb."""


class Unavailable(SampanError):
    """It may work later, unchanged: the network, a registry, the daemon itself is not ready."""


class Exhausted(SampanError):
    """A limit was reached: disk, descriptors, tokens, size."""


class Denied(SampanError):
    """The other side knows us and says no."""


class Lost(SampanError):
    """Stored data is damaged or gone."""


class Typed(SampanError):
    """A failure that the kubelet recognises by the first word of its message (cri-api pkg/errors)."""

    token = ""

    def __str__(self) -> str:
        return f"{self.token}: {super().__str__()}"


class RegistryUnavailable(Typed):
    """The registry could not be reached or is out of order."""

    token = "RegistryUnavailable"


class SignatureValidationFailed(Typed):
    """The image's signature does not satisfy the policy."""

    token = "SignatureValidationFailed"


class RROUnsupported(Typed):
    """A recursive read-only mount was asked for where it cannot be given."""

    token = "RROUnsupported"


class ImageVolumeMountFailed(Typed):
    """An image volume could not be mounted."""

    token = "ImageVolumeMountFailed"


class ToolFailed(SampanError):
    """An external program failed: what was run, how it ended and its last words."""

    def __init__(self, argv: Sequence[str], code: int, stderr: str) -> None:
        self.argv = tuple(argv)
        self.code = code
        self.stderr = stderr.strip()
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        words = self.stderr[-2000:] or "it said nothing"
        super().__init__(f"{argv[0]} failed ({ending}): {words}; command: {' '.join(argv)}")
