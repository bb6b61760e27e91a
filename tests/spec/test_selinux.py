"""Labels, and the pair of categories that keeps pods apart."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec import selinux
from sampan.spec.facts import PodFacts

IDS = st.integers(min_value=0, max_value=16**64 - 1).map(lambda number: f"{number:064x}")


def pod(level: str = "s0:c1,c2", **options: str) -> PodFacts:
    config = cri.PodSandboxConfig()
    config.linux.security_context.selinux_options.MergeFrom(cri.SELinuxOption(**options))
    return PodFacts(id="p", config=config, hostname="web", selinux_level=level)


def asking(level: str) -> PodFacts:
    """A pod whose config names the level."""
    made = pod(level="")
    made.config.linux.security_context.selinux_options.level = level
    return made


def context(*, privileged: bool = False, **options: str) -> cri.LinuxContainerSecurityContext:
    made = cri.LinuxContainerSecurityContext(privileged=privileged)
    if options:
        made.selinux_options.MergeFrom(cri.SELinuxOption(**options))
    return made


@pytest.mark.parametrize(
    "level", ["s0", "s0:c0", "s0:c1,c1023", "s0:c0.c1023", "s0-s15:c0.c1023", "s0:c1,c3.c7,c9", "s15"]
)
def test_a_level_that_the_kernel_would_take(level: str) -> None:
    selinux.check(cri.SELinuxOption(level=level))


@pytest.mark.parametrize(
    "options",
    [
        {"level": text}
        for text in ("s0,c4,c5", "s0:", "c1", "s0:c1:c2", "s0:c1024", "s0:c1,", "s0\n", "s0:c1 c2", "s0:c٣", "s0-")
    ]
    + [{name: text} for name in ("user", "role", "type") for text in ("a:b", "a b", "a\n", "é", "x" * 256, "a,b")],
)  # fmt: skip
def test_what_is_no_label_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(Invalid, match=r"selinux_options\.(user|role|type|level)"):
        selinux.check(cri.SELinuxOption(**options))


@given(IDS, st.sets(st.integers(0, 60), max_size=40))
def test_a_pods_level_is_one_that_no_other_has(id: str, others: set[int]) -> None:
    taken: set[str] = set()
    for _ in others:
        taken.add(selinux.level(id, taken))  # the same id: the worst case
    assert len(taken) == len(others)
    found = selinux.level(id, taken)
    assert found not in taken
    match = re.fullmatch(r"s0:c(\d+),c(\d+)", found)
    assert match and int(match[1]) < int(match[2]) < selinux.CATEGORIES
    selinux.check(cri.SELinuxOption(level=found))


def test_every_pair_comes_once() -> None:
    made = {selinux.level(f"{number:012x}", ()) for number in range(selinux.PAIRS)}
    assert len(made) == selinux.PAIRS


CASES: list[tuple[cri.LinuxContainerSecurityContext, PodFacts, str]] = [
    (context(), pod(), "system_u:system_r:container_t:s0:c1,c2"),
    (context(), pod(level=""), "system_u:system_r:container_t:s0"),
    (context(), pod(level="", type="db_t"), "system_u:system_r:db_t:s0"),
    (context(type="web_t"), pod(), "system_u:system_r:web_t:s0:c1,c2"),
    (context(type="web_t"), asking("s0:c7"), "system_u:system_r:web_t:s0:c7"),
    (context(level="s0:c9"), pod(), "system_u:system_r:container_t:s0:c9"),
    (context(user="u", role="r"), pod(), "u:r:container_t:s0:c1,c2"),
    (context(privileged=True), pod(), "system_u:system_r:spc_t:s0:c1,c2"),
    (context(privileged=True, type="web_t"), pod(), "system_u:system_r:web_t:s0:c1,c2"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "of_pod", "process"), CASES)
def test_a_containers_label(asked: Any, of_pod: PodFacts, process: str) -> None:
    made = selinux.of_container(asked, of_pod)
    assert made.process == process
    assert made.mount == "system_u:object_r:container_file_t:" + process.split(":", 3)[3]
