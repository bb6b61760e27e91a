# ruff: noqa: E501 - one row of the table, one line
"""Bad input gets a clear error and changes nothing."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests import census
from tests.daemon.conftest import Live

pytestmark = pytest.mark.root

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ABSENT = "0" * 64


def pods(**more: Any) -> Callable[[Live, str], object]:
    return lambda daemon, _: daemon.pod("refused", **more)


def containers(**more: Any) -> Callable[[Live, str], object]:
    return lambda daemon, pod: daemon.container(pod, name="refused", **more)


def secured(**more: Any) -> Callable[[Live, str], object]:
    context = cri.LinuxContainerSecurityContext(**more)
    return containers(linux=cri.LinuxContainerConfig(security_context=context))


def named(**more: Any) -> Callable[[Live, str], object]:
    return lambda daemon, _: daemon.runtime.RunPodSandbox(
        cri.RunPodSandboxRequest(config=cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(**more)))
    )


def unnamed(daemon: Live, pod: str) -> object:
    config = daemon.container_config()
    config.metadata.name = ""
    return daemon.runtime.CreateContainer(cri.CreateContainerRequest(pod_sandbox_id=pod, config=config))


REFUSALS: list[tuple[str, Callable[[Live, str], object], grpc.StatusCode, str]] = [
    ("no pod config", lambda d, _: d.runtime.RunPodSandbox(cri.RunPodSandboxRequest()), INVALID, "config"),
    ("no pod metadata", lambda d, _: d.runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=cri.PodSandboxConfig(hostname="x"))), INVALID, "metadata"),
    ("no pod name", named(uid="u", namespace="n"), INVALID, "name"),
    ("unknown handler", lambda d, _: d.runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=d.pod_config("x"), runtime_handler="kata")), INVALID, "kata"),
    ("pod log directory climbs", pods(log_directory="/../../etc"), INVALID, "log_directory"),
    ("pod log directory relative", pods(log_directory="logs"), INVALID, "log_directory"),
    ("hostname with a line", pods(hostname="a\n127.0.0.1 b"), INVALID, "hostname"),
    ("cgroup parent climbs", pods(linux=cri.LinuxPodSandboxConfig(cgroup_parent="/../../x")), INVALID, "cgroup_parent"),
    ("sysctl of the host", pods(linux=cri.LinuxPodSandboxConfig(sysctls={"kernel.core_pattern": "|/x"})), INVALID, "kernel.core_pattern"),
    ("sysctl smuggled", pods(linux=cri.LinuxPodSandboxConfig(sysctls={"kernel.shm_rmid_forced": "1+kernel.core_pattern=|/x"})), INVALID, "shm_rmid_forced"),
    ("dns directive", pods(dns_config=cri.DNSConfig(searches=["a\nnameserver 6.6.6.6"])), INVALID, "search"),
    ("port out of range", pods(port_mappings=[cri.PortMapping(container_port=99999, host_port=1)]), INVALID, "99999"),
    ("host ip is none", pods(port_mappings=[cri.PortMapping(container_port=1, host_port=1, host_ip="x;y")]), INVALID, "host_ip"),
    ("no container config", lambda d, pod: d.runtime.CreateContainer(cri.CreateContainerRequest(pod_sandbox_id=pod)), INVALID, "config"),
    ("no container name", unnamed , INVALID, "name"),
    ("absent image", containers(image=cri.ImageSpec(image="localhost/absent:1")), grpc.StatusCode.NOT_FOUND, "absent"),
    ("absent mount source", containers(mounts=[cri.Mount(host_path="/absent/x", container_path="/x")]), INVALID, "/absent/x"),
    ("mount target relative", containers(mounts=[cri.Mount(host_path="/tmp", container_path="x")]), INVALID, "container_path"),
    ("mount target climbs", containers(mounts=[cri.Mount(host_path="/tmp", container_path="/a/../../x")]), INVALID, "container_path"),
    ("mount over the root", containers(mounts=[cri.Mount(host_path="/tmp", container_path="/")]), INVALID, "container_path"),
    ("mount option", containers(mounts=[cri.Mount(host_path="/tmp", container_path="/x", mount_options=["suid"])]), INVALID, "suid"),
    ("propagation that cannot be", containers(mounts=[cri.Mount(host_path="/proc", container_path="/x", propagation=cri.PROPAGATION_BIDIRECTIONAL)]), INVALID, "shared"),
    ("capability", secured(capabilities=cri.Capability(add_capabilities=["FLY"])), INVALID, "FLY"),
    ("group without user", secured(run_as_group=cri.Int64Value(value=5)), INVALID, "run_as_group"),
    ("uid out of range", secured(run_as_user=cri.Int64Value(value=4294967295)), INVALID, "run_as_user"),
    ("user that is not there", secured(run_as_username="nobody-here"), INVALID, "nobody-here"),
    ("seccomp profile climbs", secured(seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref="../x")), INVALID, "localhost_ref"),
    ("apparmor that is not loaded", secured(apparmor=cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref="nope")), INVALID, "(?i)apparmor"),
    ("log path climbs", containers(log_path="../../x"), INVALID, "log_path"),
    ("log path with a colon", containers(log_path="a:b.log"), INVALID, "log_path"),
    ("device that is none", containers(devices=[cri.Device(host_path="/etc", container_path="/dev/x", permissions="rwm")]), INVALID, "/etc"),
    ("stop signal", containers(stop_signal=99), INVALID, "99"),
    ("environment name", containers(envs=[cri.KeyValue(key="A=B", value=b"c")]), INVALID, "env"),
    ("container in no pod", lambda d, _: d.container(ABSENT), grpc.StatusCode.NOT_FOUND, ABSENT),
    ("start of nothing", lambda d, _: d.runtime.StartContainer(cri.StartContainerRequest(container_id=ABSENT)), grpc.StatusCode.NOT_FOUND, ABSENT),
    ("status of a path", lambda d, _: d.status("../../etc/passwd"), grpc.StatusCode.NOT_FOUND, "passwd"),
    ("status of no pod", lambda d, _: d.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id="x")), grpc.StatusCode.NOT_FOUND, "x"),
    ("exec in nothing", lambda d, _: d.exec(ABSENT, "true"), grpc.StatusCode.NOT_FOUND, ABSENT),
    ("log of nothing", lambda d, _: d.runtime.ReopenContainerLog(cri.ReopenContainerLogRequest(container_id=ABSENT)), grpc.StatusCode.NOT_FOUND, ABSENT),
    ("stats of nothing", lambda d, _: d.runtime.ContainerStats(cri.ContainerStatsRequest(container_id=ABSENT)), grpc.StatusCode.NOT_FOUND, ABSENT),
    ("malformed reference", lambda d, _: d.images.PullImage(cri.PullImageRequest(image=cri.ImageSpec(image="../../etc"))), INVALID, "etc"),
]  # fmt: skip


def settled(daemon: Live) -> census.Census:
    """The census without threads: pools grow with use, to a limit."""
    return {kind: items for kind, items in daemon.census().items() if kind != "threads"}


def test_a_table_of_bad_requests(daemon: Live) -> None:
    daemon.life()
    pod = daemon.pod()
    before = settled(daemon)
    wrong = []
    for name, request, code, words in REFUSALS:
        try:
            request(daemon, pod)
        except grpc.RpcError as error:
            if error.code() is not code or not re.search(words, error.details() or ""):
                wrong.append(f"{name}: {error.code().name}: {error.details()}")
        else:
            wrong.append(f"{name}: was accepted")
        if left := census.diff(before, settled(daemon)):
            wrong.append(f"{name}: changed something: {left}")
            before = settled(daemon)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("verb", ["StopPodSandbox", "RemovePodSandbox", "StopContainer", "RemoveContainer"])
def test_stopping_and_removing_nothing_is_fine(daemon: Live, verb: str) -> None:
    field = "pod_sandbox_id" if "Pod" in verb else "container_id"
    getattr(daemon.runtime, verb)(getattr(cri, f"{verb}Request")(**{field: ABSENT}))


def sampand(*arguments: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "sampan.daemon", *arguments]
    env = {"PATH": path or "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, env=env)


def test_a_socket_in_use_and_a_root_in_use_are_left_alone(daemon: Live, tmp_path: Path) -> None:
    second = sampand("--config", str(daemon.own.config))
    assert second.returncode == 1 and "another sampand already works on" in second.stderr
    third = sampand(
        "--root", str(tmp_path / "r"), "--state", str(tmp_path / "s"), "--listen", daemon.own.endpoint
    )
    assert third.returncode == 1 and "is in use by another process" in third.stderr
    assert daemon.runtime.Version(cri.VersionRequest()).runtime_name == "sampan"


def test_a_file_where_the_socket_should_be_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    refused = sampand(
        "--root", str(tmp_path / "r"), "--state", str(tmp_path / "s"), "--listen", f"unix://{tmp_path}/file"
    )
    assert refused.returncode == 1 and "not a socket" in refused.stderr
    assert (tmp_path / "file").read_text() == "precious"


def test_a_broken_config_names_every_problem(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[cni]\nconfdir = "/x"\n[cgroup]\ndriver = "magic"\n')
    refused = sampand("--config", str(tmp_path / "c.toml"))
    assert refused.returncode == 2
    assert "conf_dir" in refused.stderr and "magic" in refused.stderr and "Traceback" not in refused.stderr


def test_a_missing_crun_is_named_with_its_package(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for tool in ("conmon", "catatonit", "nft"):
        found = next(path for path in (Path("/usr/bin") / tool, Path("/usr/sbin") / tool) if path.exists())
        (tmp_path / "bin" / tool).symlink_to(found)
    refused = sampand("--root", str(tmp_path / "r"), "--state", str(tmp_path / "s"), "--listen", f"unix://{tmp_path}/s/x",
                      path=str(tmp_path / "bin"))  # fmt: skip
    assert refused.returncode == 1 and "crun" in refused.stderr and "apt" in refused.stderr
    assert "Traceback" not in refused.stderr
