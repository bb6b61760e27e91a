"""The connection to the daemon: one method for calls, one for streams, and what their failures mean to a
person.
"""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import click
import grpc

from sampan.api import cri_pb2 as cri
from sampan.api import cri_pb2_grpc as rpc
from sampan.api import sampan_pb2_grpc as own_rpc
from sampan.cli.invocation import CANNOT_RUN, FAILED, NOT_FOUND, OUT_OF_TIME, UNREACHABLE, Failed
from sampan.model.errors import Typed
from sampan.wire import settings

Request = TypeVar("Request")
Response = TypeVar("Response")
MESSAGE_LIMIT = 64 << 20  # bytes; the list of a busy node, the output of an exec

_START = "start it with `systemctl start sampan` or `sudo sampand`, or name another socket with --endpoint"


# A program that an OCI runtime (crun, runc) could not run in a container, and the code that shells give that.
_NO_PROGRAM = (
    (re.compile(r"executable file .*not found|exec: .*: no such file or directory"), NOT_FOUND),
    (re.compile(r"open executable: |exec: .*: (permission denied|is a directory)"), CANNOT_RUN),
)
_TOOL_FAILED = re.compile(r"\S+ failed \([^)]*\): (.*); command: .*", re.DOTALL)  # errors.ToolFailed


class NotOffered(Failed):
    """The daemon has no such call."""


class Refused(Failed):
    """The daemon says that the request can never be met."""


class Client:
    """Both CRI services behind one socket. Raises Failed: 3 if nobody is there, 124 out of time, else 1."""

    def __init__(self, endpoint: str, seconds: float = 0.0) -> None:
        try:
            self._socket = Path(settings.socket(endpoint).removeprefix("unix://"))
        except ValueError as error:
            raise click.UsageError(f"--endpoint {endpoint}: {error}") from error
        self._seconds = seconds
        _reach(self._socket)
        self.channel = grpc.insecure_channel(
            endpoint,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_LIMIT),
                ("grpc.enable_http_proxy", 0),
                ("grpc.default_authority", "localhost"),
            ],
        )
        self.runtime = rpc.RuntimeServiceStub(self.channel)
        self.images = rpc.ImageServiceStub(self.channel)
        self.own = own_rpc.ImagesStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        seconds: float = 0.0,
    ) -> Response:
        """One answer to one request; `seconds` replaces the deadline of the command line."""
        try:
            return method(request, timeout=seconds or self._seconds or None)
        except grpc.RpcError as error:
            raise self.failure(error) from None

    def stream(
        self, method: "grpc.UnaryStreamMultiCallable[Request, Response]", request: Request
    ) -> Iterator[Response]:
        """Answers to a request as they come."""
        try:
            yield from method(request, timeout=self._seconds or None)
        except grpc.RpcError as error:
            raise self.failure(error) from None

    def upload(
        self, method: "grpc.StreamStreamMultiCallable[Request, Response]", requests: Iterator[Request]
    ) -> Iterator[Response]:
        """Answers to a stream of requests as they come."""
        try:
            yield from method(requests, timeout=self._seconds or None)
        except grpc.RpcError as error:
            raise self.failure(error) from None

    def failure(self, error: grpc.RpcError) -> Failed:
        """What an RPC's failure is to the one who typed the command: the server's own words."""
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE:
            _reach(self._socket)  # raises if the daemon has gone meanwhile
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            if details in ("", "Deadline Exceeded"):
                details = f"no answer within {self._seconds:g} s"
            return Failed(details, OUT_OF_TIME)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return NotOffered(f"this daemon cannot do that: {details or 'not implemented'}")
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return Refused(details)
        if code is grpc.StatusCode.UNKNOWN:
            return told(details)
        return Failed(details or f"the daemon answered {code.name} and nothing else", FAILED)

    # --- what most commands begin with ----------------------------------------------------------------------

    def containers(self) -> list[cri.Container]:
        """Every container, whatever its state."""
        return list(self.call(self.runtime.ListContainers, cri.ListContainersRequest()).containers)

    def pods(self) -> list[cri.PodSandbox]:
        """Every pod, whatever its state."""
        return list(self.call(self.runtime.ListPodSandbox, cri.ListPodSandboxRequest()).items)

    def status(self, container_id: str) -> cri.ContainerStatus:
        """A container's status as it is now."""
        request = cri.ContainerStatusRequest(container_id=container_id)
        return self.call(self.runtime.ContainerStatus, request).status


def told(details: str) -> Failed:
    """A failure in the words of a tool, or with a first word that is meant for the kubelet."""
    for pattern, exit_code in _NO_PROGRAM:
        if pattern.search(details):
            words = _TOOL_FAILED.fullmatch(details)
            return Failed(words[1] if words else details, exit_code)
    for kind in Typed.__subclasses__():
        details = details.removeprefix(f"{kind.token}: ")
    return Failed(details or "the daemon answered UNKNOWN and nothing else", FAILED)


def _reach(path: Path) -> None:
    """Say in plain words why nobody can be reached at this socket, if so."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5.0)
            probe.connect(str(path))
    except FileNotFoundError:
        raise Failed(f"sampand is not running: there is no socket {path}; {_START}", UNREACHABLE) from None
    except ConnectionRefusedError:
        raise Failed(f"sampand is not running: nobody listens on {path}; {_START}", UNREACHABLE) from None
    except PermissionError:
        raise Failed(f"no permission to use {path}: it belongs to root; try sudo", UNREACHABLE) from None
    except OSError as error:
        raise Failed(f"cannot reach sampand at {path}: {error.strerror or error}", UNREACHABLE) from None
