"""What the machine can do."""

import os
from pathlib import Path

import pytest

from sampan.host import features
from sampan.host.cgroup import cgroups
from sampan.host.features import CAPABILITIES
from sampan.model.errors import Invalid
from sampan.wire.cgroup_paths import Layout

V2 = Layout(v1={}, v2="/nowhere", controllers=frozenset({"memory"}))


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.12.9-amd64", (6, 12)), ("5.10.0-28-cloud-arm64", (5, 10)), ("6.18", (6, 18)), ("odd", (0, 0))],
)
def test_kernel_versions(release: str, version: tuple[int, int]) -> None:
    assert features.kernel_version(release) == version


def test_capabilities_have_their_kernel_numbers() -> None:
    numbers = {
        "CAP_CHOWN": 0,
        "CAP_NET_ADMIN": 12,
        "CAP_SYS_ADMIN": 21,
        "CAP_SYS_RESOURCE": 24,
        "CAP_SETFCAP": 31,
    }
    numbers |= {"CAP_SYSLOG": 34, "CAP_AUDIT_READ": 37, "CAP_BPF": 39, "CAP_CHECKPOINT_RESTORE": 40}
    assert {name: CAPABILITIES.index(name) for name in numbers} == numbers
    assert len(CAPABILITIES) == 41


def test_capabilities_are_those_of_the_kernel_that_we_may_give() -> None:
    assert features._capabilities(0b1011, 40) == ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER")
    assert features._capabilities((1 << 64) - 1, 2) == CAPABILITIES[:3]
    assert features._capabilities((1 << 64) - 1, 63) == CAPABILITIES


def test_only_with_the_capability_can_an_oom_score_be_lowered() -> None:
    assert features._oom_score_floor(1 << 24) == -1000
    assert features._oom_score_floor(0) == int(Path("/proc/self/oom_score_adj").read_text())


def bounding_set() -> int:
    return int(Path("/proc/self/status").read_text().partition("CapBnd:")[2].split()[0], 16)


@pytest.mark.parametrize(
    ("possible", "last"), [("0", 0), ("0-1", 1), ("0-3,8-127", 127), ("0-3,5", 5), ("", 99_999)]
)
def test_the_last_processor_that_there_can_be(possible: str, last: int) -> None:
    assert features._last_cpu(possible) == last


@pytest.mark.root
async def test_the_facts_of_this_machine() -> None:
    machine = await cgroups.detect("auto")
    host = await features.gather(machine)
    assert host.architecture == os.uname().machine
    assert (host.cgroup_v2, host.controllers) == (machine.layout.unified, machine.layout.controllers)
    assert host.systemd_cgroup == (machine.driver == "systemd")
    assert host.kernel == features.kernel_version(os.uname().release)
    assert "CAP_CHOWN" in host.capabilities
    assert max(os.sched_getaffinity(0)) <= host.last_cpu < 99_999
    assert ("CAP_SYS_RESOURCE" in host.capabilities) == bool(bounding_set() >> 24 & 1)


async def test_an_unknown_driver_is_refused() -> None:
    with pytest.raises(Invalid, match="unknown"):
        await cgroups.detect("cgroups")


def test_the_driver_decides_who_makes_groups() -> None:
    assert features._host("systemd", V2).systemd_cgroup
    assert not features._host("cgroupfs", V2).systemd_cgroup
    assert features._host("cgroupfs", V2).cgroup_v2


def test_the_kernel_decides_what_a_runtime_may_be_asked_for() -> None:
    host = features._host("cgroupfs", V2)
    assert host.seccomp
    assert host.recursive_read_only == (host.kernel >= (5, 12))


@pytest.mark.parametrize(
    ("files", "accounts"),
    [(["memory.limit_in_bytes"], False), (["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"], True)],
)
def test_swap_accounting_on_v1(tmp_path: Path, files: list[str], accounts: bool) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert features._accounts_swap(Layout({"memory": str(tmp_path)}, "", frozenset())) is accounts


@pytest.mark.parametrize(
    ("files", "accounts"), [(["memory.max"], False), (["memory.max", "memory.swap.max"], True)]
)
def test_swap_accounting_on_v2(tmp_path: Path, files: list[str], accounts: bool) -> None:
    (tmp_path / "init.scope").mkdir()
    (tmp_path / "system.slice").mkdir()
    for name in files:
        (tmp_path / "system.slice" / name).touch()
    assert features._accounts_swap(Layout({}, str(tmp_path), frozenset())) is accounts
