"""What the three RPCs make of their requests; the use cases behind them are real, the machine is not."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Exhausted, Invalid, NotFound
from sampan.runtime.streaming import AttachTo, ExecIn, ForwardTo
from sampan.server.session_rpcs import SessionRpcs
from sampan.server.streaming.tokens import IN_FLIGHT
from sampan.server.use_cases import UseCases
from sampan.wire.remotecommand.channels import Wanted
from tests.sessions import Lab, lab


@pytest.fixture
async def it() -> AsyncIterator[Lab]:
    async with lab() as made:
        yield made


def rpcs(it: Lab) -> SessionRpcs:
    fields: dict[str, Any] = dict.fromkeys(UseCases.__dataclass_fields__, cast(Any, None))
    fields |= {"state": it.system.state, "streaming": it.streaming, "listener": it.listener}
    return SessionRpcs(UseCases(**fields))


async def test_an_exec_is_asked_for_as_it_came(it: Lab) -> None:
    request = cri.ExecRequest(
        container_id=it.container, cmd=["sh", "-c", "x"], stdin=True, stdout=True, tty=True
    )
    url = (await rpcs(it).Exec(request, None)).url
    operation = it.tokens.take(url.rpartition("/")[2], "exec")
    assert operation == ExecIn(it.container, ("sh", "-c", "x"), Wanted(stdin=True, stdout=True, tty=True))


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
async def test_one_stream_is_enough_for_an_exec(it: Lab, name: str) -> None:
    asked = {"stdin": False, "stdout": False, "stderr": False, name: True}
    request = cri.ExecRequest(container_id=it.container, cmd=["sh"], **cast(Any, asked))
    url = (await rpcs(it).Exec(request, None)).url
    operation = it.tokens.take(url.rpartition("/")[2], "exec")
    assert operation == ExecIn(it.container, ("sh",), Wanted(**asked))


async def test_a_terminal_has_no_stderr(it: Lab) -> None:
    with pytest.raises(Invalid, match="tty and stderr exclude each other"):
        await rpcs(it).Exec(
            cri.ExecRequest(container_id=it.container, cmd=["sh"], stderr=True, tty=True), None
        )
    with pytest.raises(Invalid, match="tty and stderr exclude each other"):
        await rpcs(it).Attach(cri.AttachRequest(container_id=it.container, stderr=True, tty=True), None)


async def test_a_terminal_is_attached_to_only_where_there_is_one(it: Lab) -> None:
    with pytest.raises(Invalid, match="has no terminal"):
        await rpcs(it).Attach(cri.AttachRequest(container_id=it.container, stdout=True, tty=True), None)
    there = await it.system.started(it.pod, "tty", tty=True)
    await rpcs(it).Attach(cri.AttachRequest(container_id=there, stdout=True, tty=True), None)


async def test_an_attach_is_asked_for_as_it_came(it: Lab) -> None:
    request = cri.AttachRequest(container_id=it.container, stdin=False, stdout=True, stderr=True)
    url = (await rpcs(it).Attach(request, None)).url
    assert it.tokens.take(url.rpartition("/")[2], "attach") == AttachTo(
        it.container, Wanted(stdout=True, stderr=True)
    )


async def test_a_port_forward_is_asked_for_as_it_came(it: Lab) -> None:
    url = (
        await rpcs(it).PortForward(cri.PortForwardRequest(pod_sandbox_id=it.pod, port=[80, 443]), None)
    ).url
    assert it.tokens.take(url.rpartition("/")[2], "portforward") == ForwardTo(it.pod, (80, 443))


async def test_an_id_may_be_shortened(it: Lab) -> None:
    request = cri.AttachRequest(container_id=it.container[:12], stdout=True)
    url = (await rpcs(it).Attach(request, None)).url
    operation = it.tokens.take(url.rpartition("/")[2], "attach")
    assert operation is not None and operation.subject == it.container


async def test_what_is_refused_costs_no_token(it: Lab) -> None:
    with pytest.raises(NotFound):
        await rpcs(it).Exec(cri.ExecRequest(container_id="f" * 64, cmd=["sh"], stdout=True), None)
    with pytest.raises(Invalid):
        await rpcs(it).Exec(cri.ExecRequest(container_id=it.container, cmd=["sh"]), None)
    assert len(it.tokens) == 0


async def test_too_many_that_nobody_comes_for_are_refused(it: Lab) -> None:
    request = cri.PortForwardRequest(pod_sandbox_id=it.pod)
    for _ in range(IN_FLIGHT):
        await rpcs(it).PortForward(request, None)
    with pytest.raises(Exhausted):
        await rpcs(it).PortForward(request, None)
