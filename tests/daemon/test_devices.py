"""Devices, CDI and I/O classes through a whole daemon: what is asked for is there, and nothing else can be opened."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests.daemon.conftest import Live

pytestmark = pytest.mark.root

NAME = "vendor.example/toy=0"
HOOKS = ("createRuntime", "createContainer", "startContainer", "poststart", "poststop")
DUMP = 'echo "$PWD:$(pwd)" > {out}; env >> {out}'


class Node:
    """A daemon with CDI directories and block I/O classes of its own."""

    def __init__(self, daemon: Live) -> None:
        self.daemon = daemon
        self.cdi = daemon.own.directory / "cdi"
        self.cdi.mkdir()
        self.classes = daemon.own.directory / "blockio.yaml"
        self.classes.write_text(f"Classes:\n  slow:\n    - Devices: [{disk()}]\n      ThrottleReadBps: 50M\n")
        with daemon.own.config.open("a") as config:
            config.write(f'blockio_config = "{self.classes}"\n[runtime]\ncdi_dirs = ["{self.cdi}"]\n')
        daemon.kill()
        daemon.start()

    def describe(self, edits: dict[str, Any]) -> None:
        """One vendor's file with one device."""
        spec = {"cdiVersion": "0.6.0", "kind": "vendor.example/toy"}
        devices = [{"name": "0", "containerEdits": edits}]
        (self.cdi / "vendor.json").write_text(json.dumps({**spec, "devices": devices}))

    def hook(self, name: str) -> tuple[dict[str, Any], Path]:
        """A hook that writes down its working directory and environment, and where."""
        out = self.daemon.own.directory / f"hook-{name}"
        where = "/tmp/hook" if name == "startContainer" else str(out)  # that one runs in the container
        return {
            "hookName": name,
            "path": "/bin/sh",
            "args": ["sh", "-c", DUMP.format(out=where)],
            "env": [f"ONLY={name}", "PATH=/bin:/usr/bin"],
        }, out


def disk() -> str:
    return next(f"/dev/{path.name}" for path in sorted(Path("/sys/block").iterdir()))


@pytest.fixture
def node(daemon: Live) -> Node:
    return Node(daemon)


def test_a_cdi_device_brings_its_node_environment_and_mounts(node: Node) -> None:
    given = node.daemon.own.directory / "lib"
    given.write_text("a library")
    edits = {
        "env": ["TOY=0", "LANG=toy"],
        "deviceNodes": [{"path": "/dev/toy", "hostPath": "/dev/full", "permissions": "rw"}],
        "mounts": [{"hostPath": str(given), "containerPath": "/usr/lib/toy", "options": ["ro", "bind"]}],
    }
    node.describe(edits)
    pod = node.daemon.pod()
    by_field = node.daemon.started(pod, CDI_devices=[cri.CDIDevice(name=NAME)], name="field")
    by_note = node.daemon.started(pod, annotations={"cdi.k8s.io/plugin_0": NAME}, name="note")
    for id in (by_field, by_note):
        # What /dev/full alone does: reads are zeros, writes fail for want of space.
        done = node.daemon.exec(id, "sh", "-c", "head -c 3 /dev/toy | wc -c; echo x > /dev/toy")
        assert done.stdout == b"3\n"
        assert b"No space left" in done.stderr
        words = node.daemon.exec(id, "sh", "-c", "echo $TOY $LANG; cat /usr/lib/toy; echo x > /usr/lib/toy")
        assert words.stdout == b"0 toy\na library"
        assert b"Read-only" in words.stderr


def test_c12_a_hook_sees_nothing_of_the_container(node: Node) -> None:
    hooks = {name: node.hook(name) for name in HOOKS}
    node.describe({"hooks": [hook for hook, _ in hooks.values()]})
    pod = node.daemon.pod()
    secret = [cri.KeyValue(key="LD_PRELOAD", value=b"/evil.so"), cri.KeyValue(key="SECRET", value=b"s3cr3t")]
    id = node.daemon.started(pod, CDI_devices=[cri.CDIDevice(name=NAME)], envs=secret, working_dir="/tmp")
    inside = node.daemon.exec(id, "cat", "/tmp/hook").stdout.decode()
    node.daemon.runtime.StopContainer(cri.StopContainerRequest(container_id=id))
    node.daemon.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=id))
    for name, (_, out) in hooks.items():
        dumped = inside if name == "startContainer" else out.read_text()
        directory, *environment = dumped.splitlines()
        kept = {line.partition("=")[0] for line in environment}
        assert f"ONLY={name}" in environment
        assert kept <= {"ONLY", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}, name
        assert "evil" not in dumped
        assert "s3cr3t" not in dumped
        # All run at the OCI runtime's own place, but for the one that is a program of the container itself.
        bundle = str(node.daemon.own.state / "containers" / id)
        assert directory == ("/tmp:/tmp" if name == "startContainer" else f"{bundle}:{bundle}"), name


def test_c12_a_hook_without_an_environment_gets_none_of_the_daemons(node: Node) -> None:
    hook, out = node.hook("createContainer")
    del hook["env"]
    node.describe({"hooks": [hook]})
    secret = [cri.KeyValue(key="LD_PRELOAD", value=b"/evil.so")]
    node.daemon.container(node.daemon.pod(), CDI_devices=[cri.CDIDevice(name=NAME)], envs=secret)
    kept = {line.partition("=")[0] for line in out.read_text().splitlines()[1:]}
    assert kept <= {"PATH", "PWD", "OLDPWD", "SHLVL", "_"}


def test_c12_a_device_that_was_not_given_cannot_be_opened(node: Node) -> None:
    block = "b 254 0"
    id = node.daemon.started(
        node.daemon.pod(),
        linux=cri.LinuxContainerConfig(
            security_context=cri.LinuxContainerSecurityContext(
                capabilities=cri.Capability(add_capabilities=["MKNOD"])
            )
        ),
    )
    done = node.daemon.exec(id, "sh", "-c", f"mknod /tmp/disk {block} && head -c 1 /tmp/disk")
    assert b"Operation not permitted" in done.stderr
    assert done.stdout == b""


def test_a_device_may_be_read_where_it_may_not_be_written(node: Node) -> None:
    only_read = cri.Device(host_path="/dev/loop-control", container_path="/dev/given", permissions="r")
    id = node.daemon.started(node.daemon.pod(), devices=[only_read])
    assert node.daemon.exec(id, "sh", "-c", ": < /dev/given").exit_code == 0
    refused = node.daemon.exec(id, "sh", "-c", ": > /dev/given")
    assert b"Operation not permitted" in refused.stderr


def test_an_absent_device_is_told_of_with_the_damaged_files(node: Node) -> None:
    (node.cdi / "broken.yaml").write_text("kind: [")
    pod = node.daemon.pod()
    with pytest.raises(grpc.RpcError) as refused:
        node.daemon.container(pod, CDI_devices=[cri.CDIDevice(name=NAME)])
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    for word in (NAME, str(node.cdi), "broken.yaml"):
        assert word in str(refused.value.details())
    node.describe({"env": ["NOW=there"]})
    assert node.daemon.container(pod, CDI_devices=[cri.CDIDevice(name=NAME)])


def test_a_block_io_class_reaches_the_cgroup(node: Node) -> None:
    pod = node.daemon.pod(annotations={"blockio.resources.beta.kubernetes.io/pod": "slow"})
    id = node.daemon.started(pod)
    pattern = f"**/*{id}*/**/io.max" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else ""
    found = [
        path.read_text()
        for path in Path("/sys/fs/cgroup").glob(pattern or f"blkio/**/*{id}*/blkio.throttle.read_bps_device")
    ]
    assert any("50000000" in limits for limits in found), found


def test_an_unknown_class_is_refused(node: Node) -> None:
    for prefix, status in (("blockio", grpc.StatusCode.NOT_FOUND), ("rdt", None)):
        pod = node.daemon.pod(
            f"{prefix}-pod", annotations={f"{prefix}.resources.beta.kubernetes.io/pod": "absent"}
        )
        with pytest.raises(grpc.RpcError) as refused:
            node.daemon.container(pod)
        assert "'absent'" in str(refused.value.details())
        assert status is None or refused.value.code() == status


def test_a_privileged_container_gets_the_devices_of_now(node: Node) -> None:
    """One that came after the daemon's start, as a hot-plugged disk does."""
    privileged = cri.LinuxSandboxSecurityContext(privileged=True)
    late = Path("/dev") / f"sampan-late-{os.getpid()}"
    os.mknod(late, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    try:
        pod = node.daemon.pod(linux=cri.LinuxPodSandboxConfig(security_context=privileged))
        context = cri.LinuxContainerSecurityContext(privileged=True)
        id = node.daemon.started(pod, linux=cri.LinuxContainerConfig(security_context=context))
        assert node.daemon.exec(id, "head", "-c", "1", str(late)).stdout == b"\0"
    finally:
        late.unlink()


def test_a_device_has_its_place_in_a_user_namespace_too(node: Node) -> None:
    """And is the pod's own there, as what a request names has to be."""
    maps = [cri.IDMapping(host_id=1_000_000, length=65536)]
    options = cri.NamespaceOption(
        pid=cri.CONTAINER, userns_options=cri.UserNamespace(mode=cri.POD, uids=maps, gids=maps)
    )
    pod_context = cri.LinuxSandboxSecurityContext(namespace_options=options)
    context = cri.LinuxContainerSecurityContext(namespace_options=options)
    node.describe({"deviceNodes": [{"path": "/dev/zero-by-cdi", "hostPath": "/dev/zero"}]})
    pod = node.daemon.pod(linux=cri.LinuxPodSandboxConfig(security_context=pod_context))
    id = node.daemon.started(
        pod,
        devices=[cri.Device(host_path="/dev/full", container_path="/dev/kvm", permissions="rw")],
        CDI_devices=[cri.CDIDevice(name=NAME)],
        linux=cri.LinuxContainerConfig(security_context=context),
    )
    done = node.daemon.exec(id, "sh", "-c", "head -c 3 /dev/kvm /dev/zero-by-cdi | wc -c; echo x > /dev/kvm")
    assert b"No space left" in done.stderr
    assert int(done.stdout) >= 6
    owners = node.daemon.exec(id, "stat", "-c", "%u:%g", "/dev/kvm", "/dev/zero-by-cdi").stdout.split()
    assert owners == [b"0:0", b"0:0"]


def test_privileged_in_a_user_namespace_opens_what_everybody_may_and_no_more(node: Node) -> None:
    """Root of the pod is nobody on the host: a device that is only its root's must not open for it."""
    maps = [cri.IDMapping(host_id=1_000_000, length=65536)]
    options = cri.NamespaceOption(
        pid=cri.CONTAINER, userns_options=cri.UserNamespace(mode=cri.POD, uids=maps, gids=maps)
    )
    names = {mode: Path("/dev") / f"sampan-{mode:o}-{os.getpid()}" for mode in (0o600, 0o606, 0o604)}
    try:
        for mode, path in names.items():
            os.mknod(path, stat.S_IFCHR | mode, os.makedev(1, 5 if mode == 0o604 else 7))
            path.chmod(mode)
        pod_context = cri.LinuxSandboxSecurityContext(namespace_options=options, privileged=True)
        context = cri.LinuxContainerSecurityContext(namespace_options=options, privileged=True)
        pod = node.daemon.pod(linux=cri.LinuxPodSandboxConfig(security_context=pod_context))
        id = node.daemon.started(pod, linux=cri.LinuxContainerConfig(security_context=context))
        for mode, read, written in ((0o600, False, False), (0o606, True, True), (0o604, True, False)):
            seen = node.daemon.exec(id, "sh", "-c", f"head -c 1 {names[mode]} | wc -c").stdout
            assert (seen == b"1\n") is read, oct(mode)
            opened = (
                node.daemon.exec(id, "sh", "-c", f": >>{names[mode]} && [ -c {names[mode]} ]").exit_code == 0
            )
            assert opened is written, oct(mode)
        assert node.daemon.exec(id, "chmod", "666", str(names[0o604])).exit_code != 0
    finally:
        for path in names.values():
            path.unlink(missing_ok=True)
