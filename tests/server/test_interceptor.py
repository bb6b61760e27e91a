import asyncio
import errno
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model import errors
from sampan.server import interceptor as module
from sampan.server.interceptor import CODES, Interceptor, code_of, cut, message_of, subject
from tests.runtime.system import until


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


# --- through a real server --------------------------------------------------------------------------------------

Handler = Callable[[bytes, Any], Awaitable[bytes]]


class Served:
    """A server with one method, whose handler a test sets."""

    def __init__(self, directory: Path) -> None:
        self.handler: Handler
        self.interceptor = Interceptor()
        self.server = grpc.aio.server(interceptors=[self.interceptor])
        method: Any = grpc.unary_unary_rpc_method_handler(
            lambda request, context: self.handler(request, context)
        )
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x", {"Do": method}),))
        self.server.add_insecure_port(f"unix://{directory}/s")
        self.channel = grpc.aio.insecure_channel(f"unix://{directory}/s")

    def call(self) -> Any:
        ask: Any = self.channel.unary_unary("/x/Do")
        return ask(b"", timeout=20)


@pytest.fixture
async def served(short_tmp: Path) -> AsyncIterator[Served]:
    it = Served(short_tmp)
    await it.server.start()
    yield it
    await it.server.stop(0)
    await it.channel.close()


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ("no name \udcff", "no name ?"),
        ("short é", "short é"),
        ("🛶" * 100_000, "🛶" * 600 + "..."),
        ("\udcff" * 100_000, "?" * 2400 + "..."),
    ],
)
async def test_every_message_arrives(served: Served, words: str, sent: str) -> None:
    async def refuse(_: bytes, __: Any) -> bytes:
        raise errors.Invalid(words)

    served.handler = refuse
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await served.call()
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, sent)


async def test_the_end_waits_for_the_calls_in_flight_until_their_answers_are_sent(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENDLESS_SECONDS", 0.0)
    begun, release = asyncio.Semaphore(0), asyncio.Event()

    async def slow(_: bytes, __: Any) -> bytes:
        begun.release()
        await release.wait()
        return b"x" * (1 << 20)

    served.handler = slow
    calls = [asyncio.ensure_future(_answer(served)) for _ in range(3)]
    for _ in calls:
        await begun.acquire()
    ending = asyncio.ensure_future(served.interceptor.stop(served.server, 20))
    await asyncio.sleep(0.05)
    assert not ending.done()
    release.set()
    assert [len(each) for each in await asyncio.gather(*calls)] == [1 << 20] * 3
    began = time.monotonic()
    await ending
    assert time.monotonic() - began < 5


async def test_a_call_that_never_ends_has_so_many_seconds(served: Served) -> None:
    begun = asyncio.Event()

    async def stuck(_: bytes, __: Any) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    served.handler = stuck
    call = asyncio.ensure_future(_answer(served))
    await begun.wait()
    began = time.monotonic()
    await served.interceptor.stop(served.server, 0.2)
    assert 0.15 < time.monotonic() - began < 5
    with pytest.raises(grpc.aio.AioRpcError):
        await call


async def test_calls_that_are_over_are_not_waited_for_however_they_ended(served: Served) -> None:
    begun, release = asyncio.Semaphore(0), asyncio.Event()

    async def slow(_: bytes, __: Any) -> bytes:
        begun.release()
        await release.wait()
        return b""

    served.handler = slow
    left, last = asyncio.ensure_future(_answer(served)), asyncio.ensure_future(_answer(served))
    for _ in range(2):
        await begun.acquire()
    left.cancel()
    served.handler = _refuse
    with pytest.raises(grpc.aio.AioRpcError):
        await served.call()
    assert not served.interceptor._idle.is_set()
    release.set()
    await last
    await until(served.interceptor._idle.is_set)


async def _answer(served: Served) -> bytes:
    answer: bytes = await served.call()
    return answer


async def _refuse(_: bytes, __: Any) -> bytes:
    raise errors.NotFound("x")
