"""Limits and their updates, and kills for memory, through a whole daemon, under each cgroup driver."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.host.cgroup.container_cgroup import machine_layout
from sampan.wire import cgroup_paths
from tests import cgroup_drivers
from tests.daemon.conftest import SECONDS, Live

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("daemon", cgroup_drivers.DRIVERS, indirect=True),
]
MIB = 1 << 20
UNIFIED = machine_layout().unified
LOG = os.access("/dev/kmsg", os.R_OK)


def limited(**fields: Any) -> cri.LinuxContainerConfig:
    context = cri.LinuxContainerSecurityContext(namespace_options=cri.NamespaceOption(pid=cri.CONTAINER))
    return cri.LinuxContainerConfig(resources=cri.LinuxContainerResources(**fields), security_context=context)


def update(daemon: Live, id: str, **fields: Any) -> None:
    daemon.runtime.UpdateContainerResources(
        cri.UpdateContainerResourcesRequest(
            container_id=id, linux=cri.LinuxContainerResources(**fields), annotations={"any": "thing"}
        ),
        timeout=SECONDS,
    )


def refused(daemon: Live, id: str, **fields: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as error:
        update(daemon, id, **fields)
    return error.value


def limits(daemon: Live, id: str) -> cri.LinuxContainerResources:
    return daemon.status(id).resources.linux


def kernel(daemon: Live, id: str, v1: str, v2: str) -> str:
    """A limit where the kernel keeps it; `v1` is controller/file."""
    layout = machine_layout()
    place = cgroup_paths.directory(
        cgroup_paths.SYSTEMD if daemon.cgroup_parent.endswith(".slice") else cgroup_paths.CGROUPFS,
        daemon.cgroup_parent,
        id,
    )
    if not layout.unified:
        controller, _, name = v1.partition("/")
        return Path(layout.v1[controller], place, name).read_text().strip()
    group = Path(layout.v2, place)
    inner = group / "container"
    return ((inner if inner.is_dir() else group) / v2).read_text().strip()


def memory(daemon: Live, id: str) -> int:
    return int(kernel(daemon, id, "memory/memory.limit_in_bytes", "memory.max"))


@pytest.mark.parametrize("started", [False, True], ids=["created", "running"])
def test_an_update_of_a_container_that_is(daemon: Live, started: bool) -> None:
    make = daemon.started if started else daemon.container
    id = make(daemon.pod(), linux=limited(memory_limit_in_bytes=64 * MIB, cpu_shares=512, cpu_quota=50_000))
    assert limits(daemon, id).memory_limit_in_bytes == memory(daemon, id) == 64 * MIB
    update(daemon, id, memory_limit_in_bytes=100_000_001, cpu_quota=20_000, cpu_period=50_000)
    assert limits(daemon, id) == cri.LinuxContainerResources(
        memory_limit_in_bytes=100_000_001, cpu_shares=512, cpu_quota=20_000, cpu_period=50_000
    )  # as asked: the kubelet compares
    assert 100_000_001 - 65536 < memory(daemon, id) <= 100_000_001  # whole pages
    assert kernel(daemon, id, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "20000"
    update(daemon, id, memory_limit_in_bytes=32 * MIB, cpu_quota=-1, cpuset_cpus="0", oom_score_adj=900)
    assert memory(daemon, id) == 32 * MIB
    assert kernel(daemon, id, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] in ("-1", "max")
    assert (limits(daemon, id).cpu_quota, limits(daemon, id).cpuset_cpus) == (-1, "0")
    if not started:
        daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id), timeout=SECONDS)
    assert memory(daemon, id) == 32 * MIB
    assert daemon.exec(id, "cat", "/proc/1/oom_score_adj").stdout == b"900\n"


def test_an_update_survives_the_daemon(daemon: Live) -> None:
    id = daemon.started(daemon.pod(), linux=limited(memory_limit_in_bytes=64 * MIB))
    update(daemon, id, memory_limit_in_bytes=48 * MIB)
    daemon.kill()
    daemon.start()
    assert limits(daemon, id).memory_limit_in_bytes == memory(daemon, id) == 48 * MIB


def test_a_daemon_killed_half_way_through_an_update_takes_it_again(daemon: Live) -> None:
    id = daemon.started(daemon.pod(), linux=limited(memory_limit_in_bytes=64 * MIB))
    daemon.faults.write_text(json.dumps([{"step": "container.updated", "action": "kill"}]))
    with pytest.raises(grpc.RpcError):
        update(daemon, id, memory_limit_in_bytes=48 * MIB)
    daemon.ended()
    daemon.start()
    assert limits(daemon, id).memory_limit_in_bytes == 64 * MIB  # nobody was told otherwise
    info = daemon.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=id, verbose=True)).info
    [difference, *_] = json.loads(info["info"])["limitDifferences"]
    assert difference == "the memory limit is 50331648, not 67108864 as asked"
    update(daemon, id, memory_limit_in_bytes=48 * MIB)
    assert limits(daemon, id).memory_limit_in_bytes == memory(daemon, id) == 48 * MIB


def test_what_cannot_be_is_refused_and_changes_nothing(daemon: Live) -> None:
    id = daemon.started(daemon.pod(), linux=limited(memory_limit_in_bytes=64 * MIB, cpu_shares=512))
    daemon.exec(id, "dd", "if=/dev/zero", "of=/dev/shm/used", "bs=1M", "count=20")
    before = limits(daemon, id)
    error = refused(daemon, id, memory_limit_in_bytes=8 * MIB)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "more than the limit of 8 MiB (8388608 bytes)" in (error.details() or "")
    error = refused(daemon, id, memory_limit_in_bytes=80 * MIB, cpuset_mems="500")  # half way through
    assert "cpuset.mems" in (error.details() or "")
    assert memory(daemon, id) == 64 * MIB
    error = refused(daemon, id, cpuset_cpus="9999")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "cpuset_cpus" in (error.details() or "")
    assert refused(daemon, id, cpu_period=5).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused(daemon, "f" * 64, cpu_shares=5).code() is grpc.StatusCode.NOT_FOUND
    assert limits(daemon, id) == before
    daemon.runtime.StopContainer(cri.StopContainerRequest(container_id=id, timeout=0), timeout=SECONDS)
    assert refused(daemon, id, cpu_shares=5).code() is grpc.StatusCode.FAILED_PRECONDITION
    assert daemon.status(id).reason == "Error"


def test_huge_pages_and_files_by_name(daemon: Live) -> None:
    pages = [cri.HugepageLimit(page_size="2MB", limit=4 * MIB)]
    unified = {"memory.high": str(48 * MIB), "pids.max": "50"} if UNIFIED else {}
    id = daemon.started(daemon.pod(), linux=limited(hugepage_limits=pages, unified=unified))
    assert list(limits(daemon, id).hugepage_limits) == pages
    pages[0].limit = 2 * MIB
    update(daemon, id, hugepage_limits=pages, unified={"pids.max": "60"} if UNIFIED else {})
    if "hugetlb" in machine_layout().controllers or "hugetlb" in machine_layout().v1:
        assert kernel(daemon, id, "hugetlb/hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max") == str(2 * MIB)
    if UNIFIED:
        assert kernel(daemon, id, "", "pids.max") == "60"
        assert limits(daemon, id).unified == {"memory.high": str(48 * MIB), "pids.max": "60"}
    else:
        assert "cgroup v2" in (refused(daemon, id, unified={"memory.high": "5"}).details() or "")


def test_a_pods_own_limits_are_noted(daemon: Live) -> None:
    pod = daemon.pod()
    told = cri.LinuxContainerResources(memory_limit_in_bytes=5 * MIB)
    daemon.runtime.UpdatePodSandboxResources(
        cri.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod, resources=told), timeout=SECONDS
    )
    info = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=True)).info
    assert json.loads(info["info"])["resources"]["linux"]["memory_limit_in_bytes"] == 5 * MIB
    assert daemon.pod() == pod
    with pytest.raises(grpc.RpcError) as error:
        daemon.runtime.UpdatePodSandboxResources(
            cri.UpdatePodSandboxResourcesRequest(pod_sandbox_id="f" * 64), timeout=SECONDS
        )
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_who_was_killed_for_memory_and_why(daemon: Live) -> None:
    pod = daemon.pod()
    small = limited(memory_limit_in_bytes=16 * MIB)
    own = daemon.until_exited(daemon.started(pod, "tail", "/dev/zero", name="own", linux=small))
    child = daemon.until_exited(
        daemon.started(pod, "sh", "-c", "tail /dev/zero; exit 0", name="child", linux=small)
    )
    assert (own.exit_code, own.reason) == (137, "OOMKilled")
    assert (child.exit_code, child.reason) == (0, "Completed")
    if LOG:
        for status in (own, child):
            assert status.message.startswith("the kernel killed process `tail` (pid ")
            assert status.message.endswith("the container's memory limit of 16 MiB was reached")


def test_a_container_out_of_the_pods_memory(daemon: Live) -> None:
    pod = daemon.pod()
    id = daemon.container(pod, "tail", "/dev/zero", linux=limited(memory_limit_in_bytes=512 * MIB))
    limit_parent(daemon, 24 * MIB)
    daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=id), timeout=SECONDS)
    status = daemon.until_exited(id, 60)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    if LOG:
        assert status.message.endswith("the pod's memory limit of 24 MiB was reached")


def limit_parent(daemon: Live, limit: int) -> None:
    """As the kubelet does with the group of a pod."""
    layout, group = machine_layout(), daemon.cgroup_parent.strip("/")
    if not layout.unified:
        Path(layout.v1["memory"], group, "memory.limit_in_bytes").write_text(str(limit))
    elif group.endswith(".slice"):
        argv = ["systemctl", "set-property", "--runtime", group, f"MemoryMax={limit}", "MemorySwapMax=0"]
        subprocess.run(argv, check=True)
    else:
        Path(layout.v2, group, "memory.max").write_text(str(limit))
