import errno

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model import errors
from sampan.server.interceptor import CODES, code_of, cut, message_of, subject


def test_every_error_has_a_code() -> None:
    for kind in errors.SampanError.__subclasses__():
        assert kind in CODES or any(issubclass(kind, known) for known in CODES), kind


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("x"), grpc.StatusCode.NOT_FOUND),
        (errors.RegistryUnavailable("x"), grpc.StatusCode.UNKNOWN),
        (errors.ToolFailed(["crun"], 1, "no"), grpc.StatusCode.UNKNOWN),
        (TimeoutError("slow"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (NotImplementedError("Exec"), grpc.StatusCode.UNIMPLEMENTED),
        (OSError(errno.ENOSPC, "full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (OSError(errno.EINVAL, "odd"), grpc.StatusCode.INTERNAL),
        (KeyError("bug"), grpc.StatusCode.INTERNAL),
    ],
)
def test_codes(error: Exception, code: grpc.StatusCode) -> None:
    assert code_of(error) is code


def test_a_typed_error_begins_with_the_word_the_kubelet_looks_for() -> None:
    assert message_of(errors.RegistryUnavailable("no route"), "PullImage") == "RegistryUnavailable: no route"


def test_a_bug_tells_the_client_nothing_of_our_insides() -> None:
    assert "secret" not in message_of(KeyError("secret"), "Status")


@pytest.mark.parametrize("letter", ["x", "é", "\n", "🛶", "\udcff"])
def test_no_message_is_too_long_for_a_client(letter: str) -> None:
    """gRPC's limit is 8 KiB, with every byte that is not plain ASCII sent as three."""
    sent = cut(letter * 100_000)
    assert sent.endswith("...") and len(sent.encode(errors="replace")) * 3 < 8 << 10
    assert cut("short é") == "short é"


def test_the_log_line_names_what_the_call_is_about() -> None:
    assert subject(cri.StartContainerRequest(container_id="abc")) == "abc"
    metadata = cri.PodSandboxMetadata(name="n", namespace="ns")
    assert subject(cri.RunPodSandboxRequest(config=cri.PodSandboxConfig(metadata=metadata))) == "ns/n"
    assert subject(cri.VersionRequest()) == ""
