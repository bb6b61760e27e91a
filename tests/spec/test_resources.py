"""Limits that change while the container runs."""

from sampan.api import cri_pb2 as cri
from sampan.spec import resources


def test_an_update_changes_what_it_names() -> None:
    current = cri.LinuxContainerResources(
        cpu_shares=512,
        memory_limit_in_bytes=1000,
        unified={"memory.high": "900", "memory.min": "1"},
        hugepage_limits=[cri.HugepageLimit(page_size="2MB", limit=1)],
    )
    before = current.SerializeToString(deterministic=True)
    change = cri.LinuxContainerResources(
        cpu_quota=-1,
        memory_limit_in_bytes=2000,
        unified={"memory.high": "1800"},
        hugepage_limits=[cri.HugepageLimit(page_size="2MB", limit=2)],
    )
    merged = resources.merged(current, change)
    assert (merged.cpu_shares, merged.cpu_quota, merged.memory_limit_in_bytes) == (512, -1, 2000)
    assert dict(merged.unified) == {"memory.high": "1800", "memory.min": "1"}
    assert [limit.limit for limit in merged.hugepage_limits] == [2]
    assert current.SerializeToString(deterministic=True) == before
    assert resources.merged(current, cri.LinuxContainerResources()) == current
