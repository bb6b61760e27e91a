"""Around every RPC: errors become codes in one table, and one line is logged (method, id, code, ms)."""

import asyncio
import errno
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from sampan.model import errors

Code = grpc.StatusCode
log = logging.getLogger("sampan.rpc")
Count = Callable[[str, Any], None]  # told of each call of a method, with its context

CODES: dict[type[BaseException], grpc.StatusCode] = {
    errors.NotFound: Code.NOT_FOUND,
    errors.AlreadyExists: Code.ALREADY_EXISTS,
    errors.Invalid: Code.INVALID_ARGUMENT,
    errors.WrongState: Code.FAILED_PRECONDITION,
    errors.Unavailable: Code.UNAVAILABLE,
    errors.Exhausted: Code.RESOURCE_EXHAUSTED,
    errors.Denied: Code.PERMISSION_DENIED,
    errors.Lost: Code.DATA_LOSS,
    # cri-client looks at the message of a typed error only when the code is UNKNOWN
    errors.Typed: Code.UNKNOWN,
    errors.ToolFailed: Code.UNKNOWN,
    TimeoutError: Code.DEADLINE_EXCEEDED,
    NotImplementedError: Code.UNIMPLEMENTED,
}
EXHAUSTED_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
DISK_ERRNOS = {errno.EROFS, errno.EIO, errno.EUCLEAN, errno.ESTALE}  # it may be mended without us
ID_FIELDS = ("container_id", "pod_sandbox_id")
ENDLESS = frozenset({"GetContainerEvents"})  # streams that are open as long as the daemon
ENDLESS_SECONDS = 0.5  # for what is still in them when the daemon ends
MESSAGE_LIMIT = 2400  # bytes of an error's words that a client is sent


def code_of(error: BaseException) -> grpc.StatusCode:
    """The gRPC code of an error; INTERNAL for one that is a bug of ours."""
    if isinstance(error, OSError) and error.errno in EXHAUSTED_ERRNOS:
        return Code.RESOURCE_EXHAUSTED
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        return Code.UNAVAILABLE
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), Code.INTERNAL)


def message_of(error: BaseException, method: str) -> str:
    """What the client reads."""
    if isinstance(error, NotImplementedError):
        return f"{method} is not implemented by this version of sampan"
    if isinstance(error, TimeoutError):
        return str(error) or f"{method} took too long"
    if code_of(error) is Code.INTERNAL:
        return f"{method} failed by a fault of sampan's own ({type(error).__name__}); its log has the details"
    return str(error)


def subject(request: Any) -> str:
    """The id a request is about, for the log line."""
    for field in ID_FIELDS:
        id = getattr(request, field, "")
        if isinstance(id, str) and id:
            return id[:64]
    metadata: Any = getattr(getattr(request, "config", None), "metadata", None)
    return f"{metadata.namespace}/{metadata.name}" if hasattr(metadata, "namespace") else ""


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps unary and server-streaming handlers, and knows when none but the endless ones are under way."""

    def __init__(self) -> None:
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def stop(self, server: grpc.aio.Server, seconds: float) -> None:
        """End the server when every call in flight is over, at the latest after `seconds`. Endless streams, which
        end by themselves if their client reads, do not keep it."""
        async with asyncio.TaskGroup() as group:
            ending, idle = group.create_task(server.stop(seconds)), group.create_task(self._idle.wait())
            await asyncio.wait({ending, idle}, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            await asyncio.wait({ending}, timeout=min(seconds, ENDLESS_SECONDS))
            await server.stop(0)

    def _count(self, method: str, context: Any) -> None:
        if method not in ENDLESS:
            self._calls += 1
            self._idle.clear()
            context.add_done_callback(self._over)  # when the answer is sent

    def _over(self, _: object) -> None:
        self._calls -= 1
        if not self._calls:
            self._idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method.rsplit("/", 1)[-1]
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            call: Any = _streaming(method, inner, self._count)
        else:
            make = grpc.unary_unary_rpc_method_handler
            call = _unary(method, handler.unary_unary, self._count)
        return make(call, handler.request_deserializer, handler.response_serializer)


def _unary(
    method: str, inner: Callable[[Any, Any], Awaitable[Any]], count: Count
) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        count(method, context)
        begin = time.perf_counter()
        try:
            response = await inner(request, context)
        except asyncio.CancelledError:
            _log(method, request, "CANCELLED", begin)
            raise
        except Exception as error:  # noqa: BLE001 - the one place where every failure becomes a code
            await _refuse(method, request, context, error, begin)
        else:
            _log(method, request, "OK", begin)
            return response

    return call


def _streaming(
    method: str, inner: Callable[[Any, Any], AsyncIterator[Any]], count: Count
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        count(method, context)
        begin = time.perf_counter()
        try:
            async for response in inner(request, context):
                yield response
        except asyncio.CancelledError:
            _log(method, request, "CANCELLED", begin)
            raise
        except Exception as error:  # noqa: BLE001 - as above
            await _refuse(method, request, context, error, begin)
        else:
            _log(method, request, "OK", begin)

    return call


async def _refuse(method: str, request: Any, context: Any, error: Exception, begin: float) -> None:
    code = code_of(error)
    if code is Code.INTERNAL:
        log.exception("%s failed", method, exc_info=error)
    _log(method, request, code.name, begin, cut(str(error)))
    await context.abort(code, cut(message_of(error, method)))


def cut(words: str) -> str:
    """What can be sent of a message. gRPC drops an answer whose status takes more than 8 KiB, and of a byte it may make
    three; and one that is not UTF-8, as names of files may be: those letters become question marks."""
    start = words.encode(errors="replace")[:MESSAGE_LIMIT].decode(errors="ignore")
    return start if len(start) == len(words) else f"{start}..."


def _log(method: str, request: Any, code: str, begin: float, why: str = "") -> None:
    level = (
        logging.INFO
        if why or not method.startswith(("List", "Stream", "Status", "Version"))
        else logging.DEBUG
    )
    if method.endswith(("Status", "Stats")) and not why:
        level = logging.DEBUG
    if not log.isEnabledFor(level):
        return
    log.log(
        level,
        "rpc",
        extra={
            "method": method,
            "subject": subject(request),
            "code": code,
            "ms": round((time.perf_counter() - begin) * 1e3, 2),
            **({"error": why} if why else {}),
        },
    )
