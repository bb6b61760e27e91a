"""AppArmor as a container meets it, on a kernel that has it; on one that has not, what is refused."""

from pathlib import Path

import grpc
import pytest

from sampan.api import cri_pb2 as cri
from tests.daemon.conftest import Live
from tests.security.conftest import Containers, code_of, linux

pytestmark = pytest.mark.root

Profile = cri.SecurityProfile
LOADED = Path("/sys/kernel/security/apparmor/profiles")
with_apparmor = pytest.mark.skipif(not LOADED.exists(), reason="this kernel runs without AppArmor")
without = pytest.mark.skipif(LOADED.exists(), reason="this kernel runs AppArmor")


def confinement(daemon: Live, id: str) -> list[str]:
    """Of the first process and of an exec."""
    files = ("/proc/1/attr/current", "/proc/self/attr/current")
    return [daemon.exec(id, "cat", file).stdout.decode().strip("\0\n") for file in files]


@with_apparmor
@pytest.mark.parametrize("no_new_privs", [False, True])
def test_every_container_has_our_profile_unless_it_asks_for_none(
    containers: Containers, daemon: Live, no_new_privs: bool
) -> None:
    """Where the OCI runtime has a profile of its own (Debian 13: crun), that of no_new_privs is stacked on it."""
    stacked = ["crun//&sampan-default (mixed)"] * 2
    ours = [["sampan-default (enforce)"] * 2, *([stacked] if no_new_privs else [])]
    default, none = Profile(), Profile(profile_type=Profile.Unconfined)
    id = containers.secured(no_new_privs=no_new_privs)
    assert confinement(daemon, id) in ours
    assert daemon.exec(id, "kill", "-0", "1").exit_code == 0
    assert confinement(daemon, containers.secured(apparmor=default, no_new_privs=no_new_privs)) in ours
    assert confinement(daemon, containers.secured(apparmor_profile="runtime/default")) in ours
    assert all(
        one.endswith("unconfined") or "(unconfined)" in one
        for one in confinement(daemon, containers.secured(apparmor=none))
    )
    named = Profile(profile_type=Profile.Localhost, localhost_ref="sampan-default")
    assert confinement(daemon, containers.secured(apparmor=named)) in ours


@with_apparmor
def test_the_profile_holds_where_paths_are_not_masked(containers: Containers, daemon: Live) -> None:
    able = cri.Capability(add_capabilities=["SYS_ADMIN"])
    id = containers.secured(capabilities=able)
    for command in (
        "mount -t tmpfs none /tmp",
        "echo 1 >/proc/sys/kernel/panic",
        "echo h >/proc/sysrq-trigger",
        "head -c 1 /proc/kcore",
    ):
        refused = daemon.exec(id, "sh", "-c", command)
        assert refused.exit_code != 0 and b"enied" in refused.stderr + refused.stdout, command
    assert (
        daemon.exec(
            id, "sh", "-c", "kill -0 1 && echo x >/tmp/x && echo 5 >/proc/self/oom_score_adj"
        ).exit_code
        == 0
    )


@with_apparmor
def test_a_stop_reaches_a_confined_container(containers: Containers, daemon: Live) -> None:
    id = containers("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done")
    daemon.exec(id, "true")
    daemon.runtime.StopContainer(cri.StopContainerRequest(container_id=id, timeout=20), timeout=60)
    assert daemon.until_exited(id).exit_code == 7


def test_a_profile_that_is_not_loaded_is_refused_by_name(daemon: Live, pod: str) -> None:
    absent = Profile(profile_type=Profile.Localhost, localhost_ref="localhost/nobody-loaded-this")
    code, words = code_of(daemon.container, pod, name="confined", linux=linux(apparmor=absent))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "nobody-loaded-this" in words


@without
def test_a_profile_cannot_be_had_on_a_host_without_apparmor(daemon: Live, pod: str) -> None:
    for context in (linux(apparmor=Profile()), linux(apparmor_profile="runtime/default")):
        code, words = code_of(daemon.container, pod, name="confined", linux=context)
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "no AppArmor" in words
