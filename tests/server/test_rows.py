import msgspec

from sampan.api import cri_pb2 as cri
from sampan.model.container import finished, started
from sampan.model.pod import stopping
from sampan.runtime.state import Gone, State
from sampan.server import convert
from sampan.server.rows import Rows
from tests.fakes import FakeJournal
from tests.server.test_convert import CONTAINER, IMAGE, POD

SECOND = msgspec.structs.replace(CONTAINER, id="ce" * 32, created_at=8)
ALL = cri.ContainerFilter()


async def test_lists_are_the_rows_of_all_that_match_the_newest_first() -> None:
    state = State(FakeJournal())
    rows = Rows(state)
    assert rows.pods(cri.PodSandboxFilter()) == cri.ListPodSandboxResponse()
    other = msgspec.structs.replace(POD, id="ff" * 32, created_at=50)
    await state.commit(IMAGE, POD, other, CONTAINER, SECOND)
    for _ in range(2):  # packed, and as packed before
        assert list(rows.pods(cri.PodSandboxFilter()).items) == [
            convert.pod_item(other),
            convert.pod_item(POD),
        ]
        assert list(rows.pods(cri.PodSandboxFilter(id="ab")).items) == [convert.pod_item(POD)]
        assert list(rows.containers(ALL).containers) == [
            convert.container_item(SECOND, IMAGE), convert.container_item(CONTAINER, IMAGE)
        ]  # fmt: skip
        assert list(rows.containers(cri.ContainerFilter(id="cd")).containers) == [
            convert.container_item(CONTAINER, IMAGE)
        ]


async def test_a_row_changes_with_its_record_and_with_the_names_of_its_image() -> None:
    state = State(FakeJournal())
    rows = Rows(state)
    unnamed = msgspec.structs.replace(
        CONTAINER, config=cri.ContainerConfig(image=cri.ImageSpec(image="sha256:1"))
    )
    await state.commit(IMAGE, POD, unnamed)

    def shown() -> tuple[int, str]:
        (one,) = rows.containers(ALL).containers
        return one.state, one.image.image

    assert shown() == (cri.CONTAINER_CREATED, IMAGE.tags[0])
    await state.update_container(unnamed.id, lambda one: started(one, 8))
    assert shown() == (cri.CONTAINER_RUNNING, IMAGE.tags[0])
    await state.update_container(unnamed.id, lambda one: finished(one, at=9, code=0))
    assert shown() == (cri.CONTAINER_EXITED, IMAGE.tags[0])
    await state.commit(msgspec.structs.replace(IMAGE, tags=("docker.io/library/new:1",)))
    assert shown() == (cri.CONTAINER_EXITED, "docker.io/library/new:1")
    await state.commit(Gone("image", IMAGE.id))
    assert shown() == (cri.CONTAINER_EXITED, "sha256:1")
    assert rows.pods(cri.PodSandboxFilter()).items[0].state == cri.SANDBOX_READY
    await state.update_pod(POD.id, lambda one: stopping(one, 9))
    assert rows.pods(cri.PodSandboxFilter()).items[0].state == cri.SANDBOX_NOTREADY


async def test_nothing_is_kept_of_what_is_gone() -> None:
    state = State(FakeJournal())
    rows = Rows(state)
    await state.commit(POD, CONTAINER)
    assert rows.pods(cri.PodSandboxFilter()).items and rows.containers(ALL).containers
    await state.commit(Gone("container", CONTAINER.id), Gone("pod", POD.id))
    assert not rows.pods(cri.PodSandboxFilter()).items and not rows.containers(ALL).containers
    assert not rows._packed
