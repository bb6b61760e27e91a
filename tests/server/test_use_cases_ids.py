"""What a request names by its id: every RPC takes the id or an unambiguous beginning of it, and nothing else."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sampan.api import cri_pb2 as cri
from sampan.model import ids
from sampan.model.errors import Invalid, NotFound
from sampan.runtime.events import Events
from sampan.server.runtime_service import RuntimeService
from tests.runtime.system import System, container_config, wire

LIMITS = cri.LinuxContainerResources(cpu_shares=512)
FORGIVING = {
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
}  # what is not there is fine
Acted = Callable[[System, str, Any], object]  # whether the RPC, which answered so, was about this id


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    made = iter(f"a{number}" * 32 for number in range(10))
    monkeypatch.setattr(ids, "new_id", lambda: next(made))
    return wire()


async def ask(system: System, verb: str, **fields: Any) -> Any:
    cases = SimpleNamespace(**vars(system), events=Events(system.state))
    service = RuntimeService(cast(Any, cases))  # type: ignore[abstract]
    return await getattr(service, verb)(getattr(cri, f"{verb}Request")(**fields), None)


@pytest.mark.parametrize(
    ("verb", "more", "acted"),
    [
        ("StartContainer", {}, lambda system, id, _: system.state.containers[id].started_at),
        ("StopContainer", {}, lambda system, id, _: system.state.containers[id].finished_at),
        ("RemoveContainer", {}, lambda system, id, _: id not in system.state.containers),
        ("ContainerStatus", {}, lambda _, id, answer: answer and answer.status.id == id),
        ("ContainerStats", {}, lambda _, id, answer: answer and answer.stats.attributes.id == id),
        ("UpdateContainerResources", {"linux": LIMITS},
         lambda system, id, _: system.state.containers[id].limits == LIMITS),
        # the other container does not run, and has no use for these
        ("ReopenContainerLog", {},
         lambda system, id, _: "oci.reopen_log" in system.world.calls and system.state.containers[id].started_at),
        ("ExecSync", {"cmd": ["true"]},
         lambda system, id, answer: answer and system.state.containers[id].started_at),
    ],
)  # fmt: skip
async def test_a_container(system: System, verb: str, more: dict[str, Any], acted: Acted) -> None:
    pod = await system.pod()
    one, other = await system.container(pod, "one"), await system.container(pod, "other")
    if verb != "StartContainer":
        await system.containers.start(one)
    with pytest.raises(Invalid, match="ambiguous"):
        await ask(system, verb, container_id="a", **more)
    assert not acted(system, one, None)
    for absent in ("", "../x", "ff"):
        if verb not in FORGIVING:
            with pytest.raises(NotFound):
                await ask(system, verb, container_id=absent, **more)
    answer = await ask(system, verb, container_id=one[:2], **more)
    assert acted(system, one, answer) and not acted(system, other, answer)
    if verb not in {"StartContainer", "RemoveContainer"}:
        assert await ask(system, verb, container_id=one, **more) == answer
    await system.tasks.stop()


@pytest.mark.parametrize(
    ("verb", "more", "acted"),
    [
        ("StopPodSandbox", {}, lambda system, id, _: system.state.pods[id].stopped_at),
        ("RemovePodSandbox", {}, lambda system, id, _: id not in system.state.pods),
        ("PodSandboxStatus", {}, lambda _, id, answer: answer and answer.status.id == id),
        ("PodSandboxStats", {}, lambda _, id, answer: answer and answer.stats.attributes.id == id),
        ("UpdatePodSandboxResources", {"overhead": LIMITS},
         lambda system, id, _: system.state.pods[id].overhead == LIMITS),
        ("CreateContainer", {"config": container_config()},
         lambda system, id, _: system.state.containers_of(id)),
    ],
)  # fmt: skip
async def test_a_pod(system: System, verb: str, more: dict[str, Any], acted: Acted) -> None:
    one, other = await system.pod("one"), await system.pod("other")
    with pytest.raises(Invalid, match="ambiguous"):
        await ask(system, verb, pod_sandbox_id="a", **more)
    assert not acted(system, one, None)
    for absent in ("", "../x", "ff"):
        if verb not in FORGIVING:
            with pytest.raises(NotFound):
                await ask(system, verb, pod_sandbox_id=absent, **more)
    answer = await ask(system, verb, pod_sandbox_id=one[:2], **more)
    assert acted(system, one, answer) and not acted(system, other, answer)
    await system.tasks.stop()
