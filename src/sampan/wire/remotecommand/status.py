"""The last word of a session, on the error channel: a metav1.Status as JSON (v4 and later), or words (before).

Source: Kubernetes, apimachinery meta/v1 Status; remotecommand's reason NonZeroExitCode and cause ExitCode.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """How a session ended: the command's exit `code`, or, where it never ran or was not seen to end, `failure` with
    the words for a person."""

    code: int = 0
    failure: str = ""
