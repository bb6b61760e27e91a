import msgspec
import pytest

from sampan.api import cri_pb2 as cri
from sampan.model.container import finished, started
from sampan.server import stats_convert
from tests.server.test_convert import CONTAINER

RUNNING = started(CONTAINER, 8)  # cd…, in the pod ab…, labelled app=web


@pytest.mark.parametrize(
    ("filter", "matches"),
    [
        (cri.ContainerStatsFilter(), True),
        (cri.ContainerStatsFilter(id="cd", pod_sandbox_id="ab"), True),
        (cri.ContainerStatsFilter(id="ab"), False),
        (cri.ContainerStatsFilter(pod_sandbox_id="cd"), False),
        (cri.ContainerStatsFilter(label_selector={"app": "web"}), True),
        (cri.ContainerStatsFilter(label_selector={"app": "web", "tier": "front"}), False),
    ],
)
def test_container_stats_filters(filter: cri.ContainerStatsFilter, matches: bool) -> None:
    assert stats_convert.stats_match(RUNNING, filter) is matches


def test_what_does_not_run_has_no_stats_in_a_list() -> None:
    hidden = msgspec.structs.replace(CONTAINER, init=None)
    for one in (CONTAINER, hidden, finished(RUNNING, at=9, code=0)):
        assert not stats_convert.stats_match(one, cri.ContainerStatsFilter())
