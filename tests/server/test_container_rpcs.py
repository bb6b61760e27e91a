"""What of a request reaches the use cases, and what does not."""

from types import SimpleNamespace
from typing import Any, cast

from sampan.api import cri_pb2 as cri
from sampan.runtime.ports import ExecResult
from sampan.runtime.state import State
from sampan.server.container_rpcs import ContainerRpcs
from tests.fakes import FakeJournal
from tests.runtime.system import container_config, pod_config


class Calls:
    """A use case that remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    async def create(self, *arguments: Any) -> str:
        self.seen.append(arguments)
        return "id"

    update = stop = create

    async def sync(self, *arguments: Any) -> ExecResult:
        self.seen.append(arguments)
        return ExecResult(7, b"out", b"err")


def rpcs(calls: Calls) -> ContainerRpcs:
    cases = SimpleNamespace(state=State(FakeJournal()), containers=calls, resources=calls, exec=calls)
    return ContainerRpcs(cast(Any, cases))


async def test_an_update_takes_the_linux_part_alone() -> None:
    calls = Calls()
    linux = cri.LinuxContainerResources(cpu_shares=5)
    request = cri.UpdateContainerResourcesRequest(
        container_id="c",
        linux=linux,
        windows=cri.WindowsContainerResources(cpu_shares=7),
        annotations={"cpu": "all"},
    )
    assert await rpcs(calls).UpdateContainerResources(request, None) == cri.UpdateContainerResourcesResponse()
    assert calls.seen == [("c", linux)]


async def test_a_pods_config_is_the_one_it_was_made_with() -> None:
    calls = Calls()
    config = container_config()
    request = cri.CreateContainerRequest(
        pod_sandbox_id="p", config=config, sandbox_config=pod_config("another", hostname="other")
    )
    assert (await rpcs(calls).CreateContainer(request, None)).container_id == "id"
    assert calls.seen == [("p", config)]


async def test_a_stop_has_its_seconds() -> None:
    calls = Calls()
    await rpcs(calls).StopContainer(cri.StopContainerRequest(container_id="c", timeout=9), None)
    await rpcs(calls).StopContainer(cri.StopContainerRequest(container_id="c", timeout=-1), None)
    assert calls.seen == [("c", 9), ("c", -1)]


async def test_an_exec_has_its_command_and_its_seconds_and_answers_with_all_that_came() -> None:
    calls = Calls()
    request = cri.ExecSyncRequest(container_id="c", cmd=["ls", "-l"], timeout=5)
    answer = await rpcs(calls).ExecSync(request, None)
    assert [(id, list(cmd), seconds) for id, cmd, seconds in calls.seen] == [("c", ["ls", "-l"], 5)]
    assert answer == cri.ExecSyncResponse(stdout=b"out", stderr=b"err", exit_code=7)
