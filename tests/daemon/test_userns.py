"""Pods with a user namespace of their own, through the socket, on the real machine."""

import stat
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from sampan.host.sandbox import userns
from tests import census, cgroup_drivers
from tests.daemon.conftest import Live
from tests.daemon.test_crash import settled, without_daemon

pytestmark = pytest.mark.root
with_each_driver = pytest.mark.parametrize("daemon", cgroup_drivers.DRIVERS, indirect=True)

USERS = cri.UserNamespace(
    mode=cri.POD,
    uids=[cri.IDMapping(container_id=0, host_id=300000, length=65536)],
    gids=[cri.IDMapping(container_id=0, host_id=400000, length=65536)],
)


def options(**more: Any) -> cri.NamespaceOption:
    return cri.NamespaceOption(**{"pid": cri.CONTAINER, "userns_options": USERS, **more})


def in_pod(asked: cri.NamespaceOption) -> dict[str, Any]:
    context = cri.LinuxSandboxSecurityContext(namespace_options=asked)
    return {"linux": cri.LinuxPodSandboxConfig(security_context=context)}


def in_container(asked: cri.NamespaceOption, **more: Any) -> dict[str, Any]:
    context = cri.LinuxContainerSecurityContext(namespace_options=asked, **more)
    return {"linux": cri.LinuxContainerConfig(security_context=context)}


def pod(daemon: Live, **more: Any) -> str:
    return daemon.pod("web", **in_pod(options(**more)))


def container(daemon: Live, pod: str, *command: str, name: str = "app", **more: Any) -> str:
    return daemon.started(pod, *command, name=name, **in_container(options(), **more))


def shell(daemon: Live, id: str, script: str) -> str:
    done = daemon.exec(id, "sh", "-c", script)
    assert done.exit_code == 0, done.stderr.decode()
    return done.stdout.decode()


def process_of(daemon: Live, id: str) -> Path:
    """The first process of a container, in the host's /proc."""
    for group in list(Path("/proc").glob("[0-9]*/cgroup")):
        try:
            if id in group.read_text() and "conmon" not in (group.parent / "comm").read_text():
                return group.parent
        except OSError:
            continue
    raise AssertionError(f"no process of {id}")


def ids(process: Path) -> tuple[int, int]:
    found = process.stat()
    return found.st_uid, found.st_gid


def remove(daemon: Live, pod: str) -> None:
    daemon.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=pod))
    daemon.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=pod))


@with_each_driver
def test_c16_ids_of_the_container_are_the_requests_ids_on_the_host_and_nothing_is_left(daemon: Live) -> None:
    remove(daemon, (first := pod(daemon)))
    daemon.life()
    before = census.without_threads(daemon.census())
    made = pod(daemon)
    assert made != first
    app = container(daemon, made)
    assert shell(daemon, app, "cat /proc/self/uid_map /proc/self/gid_map").split() == [
        "0", "300000", "65536", "0", "400000", "65536",
    ]  # fmt: skip
    assert shell(daemon, app, "id -u; id -g").split() == ["0", "0"]
    assert ids(process_of(daemon, app)) == (300000, 400000)
    shell(daemon, app, "echo x >/root-file; mkdir /tmp/dir; echo more >>/etc/passwd")
    upper = daemon.own.root / "containers" / app / "upper"
    assert ids(upper / "root-file") == ids(upper / "tmp/dir") == (300000, 400000)
    assert shell(daemon, app, "stat -c %u /bin/busybox /etc /").split() == ["0", "0", "0"]
    status = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=made)).status
    assert status.linux.namespaces.options.userns_options == USERS
    assert status.network.ip
    remove(daemon, made)
    assert census.diff(before, census.without_threads(daemon.census())) == ""


def test_what_a_container_finds_is_its_own(daemon: Live) -> None:
    """Terminals, shared memory, message queues, the pod's files and its log are root's, as without a namespace."""
    app = container(
        daemon, pod(daemon), "sh", "-c", "echo to the log; echo too >/dev/stdout; exec sleep 100000"
    )
    deadline = time.monotonic() + 10
    while len(daemon.logged(app)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert daemon.logged(app) == ["to the log", "too"]
    places = "/dev /dev/shm /dev/mqueue /dev/pts /etc/resolv.conf /etc/hostname"
    assert set(shell(daemon, app, f"stat -c %u:%g {places}").split()) == {"0:0"}
    shell(
        daemon,
        app,
        "echo x >>/etc/resolv.conf; echo x >/dev/shm/x; echo x >/dev/null; head -c 1 /dev/urandom >/dev/zero",
    )
    assert shell(daemon, app, "hostname").strip() == "web"
    make = "cd /sys/fs/cgroup; [ ! -d memory ] || cd memory; mkdir x"
    assert daemon.exec(app, "sh", "-c", make).exit_code != 0
    shell(daemon, app, "ping -c 1 -W 5 127.0.0.1")


def test_the_group_of_the_pod_is_where_the_request_says(daemon: Live) -> None:
    """CVE-2025-47291: pods with a user namespace lost the kubelet's cgroup parent."""
    app = container(daemon, pod(daemon))
    groups = (process_of(daemon, app) / "cgroup").read_text()
    assert daemon.cgroup_parent.removesuffix(".slice").lstrip("/") in groups


def test_a8_nothing_else_of_the_daemons_is_opened_for_it(daemon: Live) -> None:
    """Set-id files of an image must not be reached by users of the host, nor by other pods."""
    plain = daemon.started(daemon.pod("plain"))
    app = container(daemon, pod(daemon))
    state = daemon.own.state
    opened = {
        str(path.relative_to(state)): stat.S_IMODE(path.stat().st_mode)
        for path in (state, *state.iterdir(), *state.glob("*/*"))
        if path.is_dir() and not path.is_symlink() and path.stat().st_mode & 0o077
    }
    assert opened == {".": 0o711, "containers": 0o711, f"containers/{app}": 0o710}
    assert not (state / "containers" / plain).stat().st_mode & 0o077
    assert daemon.own.root.stat().st_mode & 0o777 == 0o700


def test_another_user_and_its_groups(daemon: Live) -> None:
    app = container(
        daemon,
        pod(daemon),
        run_as_user=cri.Int64Value(value=33),
        run_as_group=cri.Int64Value(value=50),
        supplemental_groups=[1234],
    )
    assert ids(process_of(daemon, app)) == (300033, 400050)
    assert "1234" in shell(daemon, app, "id -G").split()


def test_containers_of_a_pod_share_their_pids_there_too(daemon: Live) -> None:
    made = daemon.pod("web", pid=cri.POD, **in_pod(options(pid=cri.POD)))
    one, two = (
        daemon.started(made, "sleep", seconds, name=name, pid=cri.POD, **in_container(options(pid=cri.POD)))
        for name, seconds in (("one", "12345"), ("two", "67890"))
    )
    assert "sleep 12345" in shell(daemon, two, "ps")
    links = {(process_of(daemon, id) / "ns/user").readlink() for id in (made, one, two)}
    assert len(links) == 1
    assert ids(process_of(daemon, made)) == (365534, 465534)  # the init, who is nobody there as well
    assert shell(daemon, one, "cat /proc/1/comm").strip() == "init"


def test_with_the_hosts_network_sys_is_read_only(daemon: Live) -> None:
    made = daemon.pod("web", **in_pod(options(network=cri.NODE)))
    app = daemon.started(made, **in_container(options(network=cri.NODE)))
    assert shell(daemon, app, "readlink /proc/self/ns/net").strip() == str(
        Path("/proc/self/ns/net").readlink()
    )
    assert shell(daemon, app, "cat /proc/self/uid_map").split()[1] == "300000"
    mounted = [line.split() for line in shell(daemon, app, "cat /proc/self/mounts").splitlines()]
    sys_mounts = [
        fields for fields in mounted if fields[1] == "/sys" or fields[2] in ("sysfs", "cgroup", "cgroup2")
    ]
    assert sys_mounts and all("ro" in fields[3].split(",") for fields in sys_mounts)
    assert daemon.exec(app, "sh", "-c", "echo 1 >/sys/kernel/mm/ksm/run").exit_code != 0


def test_executed_plugins_work_in_it_too(daemon: Live) -> None:
    daemon.kill()
    config = daemon.own.config
    config.write_text(config.read_text().replace("[cni]\n", "[cni]\nbuiltin = false\n"))
    daemon.start()
    made = pod(daemon)
    status = daemon.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=made)).status
    app = container(daemon, made)
    assert f" {status.network.ip}/" in shell(daemon, app, "ip addr show eth0")
    remove(daemon, made)


def test_privileged_is_over_what_the_namespace_owns(daemon: Live) -> None:
    sandbox = cri.LinuxSandboxSecurityContext(namespace_options=options(), privileged=True)
    made = daemon.pod("web", linux=cri.LinuxPodSandboxConfig(security_context=sandbox))
    app = container(daemon, made, privileged=True)
    shell(daemon, app, "mkdir /tmp/m; mount -t tmpfs x /tmp/m; hostname other")
    assert ids(process_of(daemon, app)) == (300000, 400000)
    assert (
        daemon.exec(app, "sh", "-c", "mount -o remount,rw /sys; echo 1 >/proc/sys/kernel/panic").exit_code
        != 0
    )


@pytest.mark.parametrize("own_users", [True, False])
def test_device_files_of_the_host_stay_the_hosts(daemon: Live, own_users: bool) -> None:
    """Of the pod's init, of containers and of commands in them, whoever they run as."""
    before = list(census.devices())
    asked = options(pid=cri.POD) if own_users else cri.NamespaceOption(pid=cri.POD)
    made = daemon.pod("web", pid=cri.POD, **in_pod(asked))
    for tty in (False, True):
        who = in_container(asked, run_as_user=cri.Int64Value(value=1234))
        app = daemon.container(made, name=f"tty-{tty}", tty=tty, pid=cri.POD, **who)
        assert list(census.devices()) == before
        daemon.runtime.StartContainer(cri.StartContainerRequest(container_id=app))
        shell(daemon, app, "true")
        assert list(census.devices()) == before
    remove(daemon, made)
    assert list(census.devices()) == before


def test_a_user_that_the_namespace_lacks_is_refused(daemon: Live) -> None:
    made = pod(daemon)
    with pytest.raises(grpc.RpcError, match="does not exist in the pod's user namespace"):
        container(daemon, made, run_as_user=cri.Int64Value(value=70000))


def test_everything_goes_on_after_the_daemon_was_killed(daemon: Live) -> None:
    remove(daemon, pod(daemon))
    daemon.life()
    before = without_daemon(daemon.census())
    made = pod(daemon)
    app = container(daemon, made)
    daemon.kill()
    daemon.start()
    assert daemon.status(app).state == cri.CONTAINER_RUNNING
    assert shell(daemon, app, "cat /proc/self/uid_map").split()[1] == "300000"
    later = container(daemon, made, name="later")
    assert shell(daemon, later, "readlink /proc/self/ns/user") == shell(
        daemon, app, "readlink /proc/self/ns/user"
    )
    remove(daemon, made)
    assert settled(daemon, before) == ""


@pytest.mark.parametrize("step", ["pod.userns", "pod.namespaces.user", "rootfs.layers", "rootfs.mount"])
def test_a_kill_in_the_middle_leaves_nothing(daemon: Live, step: str) -> None:
    remove(daemon, pod(daemon))
    daemon.life()
    before = without_daemon(daemon.census())
    daemon.faults.write_text(f'[{{"step": "{step}", "action": "kill"}}]')
    with pytest.raises(grpc.RpcError):
        container(daemon, pod(daemon))
    daemon.ended()
    daemon.start()
    for left in daemon.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items:
        remove(daemon, left.id)
    assert settled(daemon, before) == ""
    waiting = [path for path in Path("/proc").glob("[0-9]*/cmdline") if userns.WAIT[2] in said(path)]
    assert waiting == []


def said(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
