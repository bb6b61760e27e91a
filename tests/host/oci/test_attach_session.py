"""Tests of host.oci.attach_session without a container: a socket that is conmon's for all that a session sees."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.host.oci.attach_connections import Container
from sampan.host.oci.attach_session import Session
from sampan.model.process import ProcessRef
from sampan.wire.remotecommand.channels import Wanted


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours and conmon's."""
    made = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    yield made
    for end in made:
        end.close()


async def test_a_conmon_that_dies_while_input_waits_leaves_no_trace_of_its_descriptor(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """Its number is the next connection's at once; what the event loop kept of it would break that one."""
    ours, conmon = ends
    container = Container("c", tmp_path, (ProcessRef(os.getpid(), 0), [b"conmon", b"--stdin"]), lambda: None)
    container._open = 1  # as `connect` counts
    session = Session(container, ours, Wanted(stdin=True, stdout=True))
    assert session.stdin is not None
    writing = asyncio.create_task(session.stdin.write(bytes(16 << 20)))
    await asyncio.sleep(0)
    assert not writing.done()
    number = ours.fileno()
    conmon.close()
    loop = asyncio.get_running_loop()
    session._readable()
    assert ours.fileno() == -1
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(end) for end in socket.socketpair()]
        pair.sort(key=lambda end: end.fileno() != number)
        reader, writer = pair
        assert reader.fileno() == number
        came = asyncio.Event()
        try:
            loop.add_reader(reader, came.set)
            writer.send(b"x")
            with pytest.raises(BrokenPipeError):
                await writing
            async with asyncio.timeout(5):
                await came.wait()
        finally:
            loop.remove_reader(reader)
    assert await session.exited() == 0
