import pytest

from sampan.model.errors import Invalid, NotFound, ToolFailed, WrongState
from sampan.runtime.streaming import AttachTo, ExecIn, ForwardTo, Streaming
from sampan.wire.remotecommand.channels import Wanted
from tests.fake_streams import FakeCommands
from tests.runtime.system import System, wire

OUT = Wanted(stdout=True)
TERMINAL = Wanted(stdin=True, stdout=True, tty=True)


def streaming(system: System) -> Streaming:
    return Streaming(system.config, system.state, system.machine, system.exec)


async def test_what_cannot_be_execed_in_is_refused_at_once() -> None:
    system = wire()
    it, pod = streaming(system), await system.pod()
    created = await system.container(pod)
    with pytest.raises(NotFound):
        await it.exec("f" * 64, ["sh"], OUT)
    with pytest.raises(WrongState, match="created, not running"):
        await it.exec(created, ["sh"], OUT)
    await system.containers.start(created)
    await it.exec(created, ["sh"], OUT)
    await system.containers.stop(created, 0)
    with pytest.raises(WrongState, match="exited, not running"):
        await it.exec(created, ["sh"], OUT)


async def test_what_cannot_be_attached_to_is_refused_at_once() -> None:
    system = wire()
    it, container = streaming(system), await system.container(await system.pod())
    with pytest.raises(NotFound):
        await it.attach("f" * 64, OUT)
    assert await it.attach(container, OUT) == AttachTo(container, OUT)  # who comes this early misses nothing
    await system.containers.start(container)
    assert await it.attach(container, OUT) == AttachTo(container, OUT)
    await system.containers.stop(container, 0)
    with pytest.raises(WrongState, match="exited, not created or running"):
        await it.attach(container, OUT)


@pytest.mark.parametrize("command", [[], [""], ["a\0b"], ["x" * 200_000]])
async def test_a_command_that_cannot_be_run_is_refused_at_once(command: list[str]) -> None:
    system = wire()
    container = await system.started(await system.pod())
    with pytest.raises(Invalid):
        await streaming(system).exec(container, command, OUT)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Wanted(), "none of stdin, stdout and stderr"),
        (Wanted(tty=True), "none of stdin, stdout and stderr"),
        (Wanted(stdout=True, stderr=True, tty=True), "tty and stderr exclude each other"),
    ],
)
async def test_streams_that_make_no_session_are_refused(wanted: Wanted, words: str) -> None:
    system = wire()
    container = await system.started(await system.pod(), tty=True)
    with pytest.raises(Invalid, match=words):
        await streaming(system).exec(container, ["sh"], wanted)
    with pytest.raises(Invalid, match=words):
        await streaming(system).attach(container, wanted)


async def test_a_terminal_is_attached_to_only_where_there_is_one() -> None:
    system = wire()
    it, pod = streaming(system), await system.pod()
    without, there = await system.started(pod, "a"), await system.started(pod, "b", tty=True)
    with pytest.raises(Invalid, match="has no terminal"):
        await it.attach(without, TERMINAL)
    await it.attach(there, TERMINAL)
    await it.attach(there, Wanted(stdout=True, stderr=True))  # one that only looks on
    await it.exec(without, ["sh"], TERMINAL)  # a command has a terminal of its own


async def test_ports_of_what_is_no_ready_pod_are_refused() -> None:
    system = wire()
    it, pod = streaming(system), await system.pod()
    with pytest.raises(NotFound):
        await it.port_forward("f" * 64, [])
    operation = await it.port_forward(pod, [80])
    assert it.network(operation) == f"{system.config.paths.namespace(pod, 'net')}"
    await system.pods.stop(pod)
    with pytest.raises(WrongState, match="not ready"):
        await it.port_forward(pod, [])
    with pytest.raises(WrongState, match="not ready"):
        it.network(operation)


@pytest.mark.parametrize("port", [-1, 0, 65536, 1 << 20])
async def test_ports_are_numbers_of_ports(port: int) -> None:
    system = wire()
    it, pod = streaming(system), await system.pod()
    with pytest.raises(Invalid, match="ports are 1 to 65535"):
        await it.port_forward(pod, [80, port])
    assert await it.port_forward(pod, [1, 65535]) == ForwardTo(pod, (1, 65535))
    assert await it.port_forward(pod, []) == ForwardTo(pod, ())


async def test_a_command_runs_as_the_container_does() -> None:
    system = wire()
    container = await system.started(await system.pod())
    it = streaming(system)
    operation = await it.exec(container, ["echo", "x"], OUT)
    assert operation == ExecIn(container, ("echo", "x"), OUT)
    async with it.run(operation) as running:
        assert running.stdout is not None and await running.stdout.read() == b"x\n"
        assert await running.exited() == 0


async def test_a_container_that_has_ended_meanwhile_runs_nothing() -> None:
    system = wire()
    container = await system.started(await system.pod())
    it = streaming(system)
    operation = await it.exec(container, ["echo"], OUT)
    await system.containers.stop(container, 0)
    with pytest.raises(WrongState):
        async with it.run(operation):
            pass
    commands = system.machine.commands
    assert isinstance(commands, FakeCommands) and not commands.ran


async def test_what_the_oci_runtime_cannot_run_is_its_own_words() -> None:
    system = wire()
    container = await system.started(await system.pod())
    it = streaming(system)
    operation = await it.exec(container, ["nonesuch"], OUT)
    with pytest.raises(ToolFailed, match="not found"):
        async with it.run(operation):
            pass
