"""What `run` asks for, as pod and container."""

from dataclasses import replace

import pytest

from sampan.api import cri_pb2 as cri
from sampan.cli import arguments, run_config
from sampan.cli.naming import RUN_LABEL
from sampan.cli.run_config import Wish


def test_a_plain_run_is_confined() -> None:
    wish = Wish(image="busybox", command=("echo", "hi"))
    pod = run_config.pod(wish, "box", "uid-1", "/var/lib/sampan/logs/box-uid-1")
    container = run_config.container(wish, "box", "sha256:" + "1" * 64)
    assert pod.metadata == cri.PodSandboxMetadata(name="box", uid="uid-1", namespace="default")
    assert (pod.hostname, pod.log_directory) == ("box", "/var/lib/sampan/logs/box-uid-1")
    assert dict(pod.labels) == dict(container.labels) == {RUN_LABEL: "box"}
    assert (list(container.command), list(container.args)) == ([], ["echo", "hi"])
    assert (container.image.image, container.image.user_specified_image) == ("sha256:" + "1" * 64, "busybox")
    assert container.log_path == "box.log"
    for context in (pod.linux.security_context, container.linux.security_context):
        assert context.seccomp.profile_type == cri.SecurityProfile.RuntimeDefault
        assert not context.privileged
        assert context.namespace_options == cri.NamespaceOption(
            network=cri.POD, pid=cri.CONTAINER, ipc=cri.POD
        )
    assert container.linux.resources == cri.LinuxContainerResources()


def test_every_option_arrives() -> None:
    wish = Wish(
        image="busybox",
        command=("-c", "true"),
        entrypoint="/bin/sh",
        publish=(arguments.port("8080:80"),),
        env=(arguments.variable("A=b", {}),),
        volume=(arguments.mount("/a:/b:ro", "/"),),
        memory=1 << 30,
        cpus=50_000,
        user="7:8",
        workdir="/srv",
    )
    pod = run_config.pod(wish, "n", "u", "/l/x")
    container = run_config.container(wish, "n", "i")
    assert list(pod.port_mappings) == list(wish.publish)
    assert (list(container.command), list(container.args)) == (["/bin/sh"], ["-c", "true"])
    assert (list(container.envs), list(container.mounts)) == (list(wish.env), list(wish.volume))
    assert container.working_dir == "/srv"
    assert container.linux.resources == cri.LinuxContainerResources(
        memory_limit_in_bytes=1 << 30, cpu_period=100_000, cpu_quota=50_000
    )
    assert container.linux.security_context.run_as_user.value == 7
    assert container.linux.security_context.run_as_group.value == 8


@pytest.mark.parametrize(
    ("asked", "stdin", "once", "tty"),
    [
        ({}, False, False, False),
        ({"interactive": True}, True, True, False),
        ({"tty": True}, False, False, True),
        ({"interactive": True, "tty": True}, True, False, True),
        ({"interactive": True, "detach": True}, True, False, False),
    ],
)
def test_only_a_pipe_s_end_ends_the_container_s_input(
    asked: dict[str, bool], stdin: bool, once: bool, tty: bool
) -> None:
    container = run_config.container(replace(Wish(image="x"), **asked), "n", "i")  # type: ignore[arg-type]
    assert (container.stdin, container.stdin_once, container.tty) == (stdin, once, tty)


def test_the_host_network_takes_the_host_name_too() -> None:
    pod = run_config.pod(Wish(image="x", net="host"), "n", "u", "/l/x")
    assert pod.hostname == ""
    assert pod.linux.security_context.namespace_options.network == cri.NODE


def test_privileged_means_no_profile_in_pod_and_container() -> None:
    wish = Wish(image="x", privileged=True)
    contexts = (
        run_config.pod(wish, "n", "u", "/l/x").linux.security_context,
        run_config.container(wish, "n", "i").linux.security_context,
    )
    for context in contexts:
        assert context.privileged
        assert not context.HasField("seccomp")
