"""What of a request reaches the use cases, and what does not."""

from types import SimpleNamespace
from typing import Any, cast

from sampan.api import cri_pb2 as cri
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

    update = create


def rpcs(calls: Calls) -> ContainerRpcs:
    cases = SimpleNamespace(state=State(FakeJournal()), containers=calls, resources=calls)
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
