"""The host's own device files stay its own, whatever OCI runtimes do with their stdio."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sampan.runtime.ports import Launch, Launched
from tests import census, oci_runtimes
from tests.host.containers import NAMESPACES, Lab

pytestmark = pytest.mark.root
FIRST = 310_000  # of the ids of the host that a pod has


@pytest.fixture(params=oci_runtimes.RUNTIMES)
async def lab(short_tmp: Path, request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    oci_runtimes.require(request.param)
    short_tmp.chmod(0o711)
    lab = Lab(short_tmp, runtime=request.param)
    try:
        yield lab
    finally:
        await lab.close()
    assert lab.leftovers() == []


def of_user(lab: Lab, uid: int, *args: str) -> dict[str, Any]:
    return {**lab.process(*args), "user": {"uid": uid, "gid": uid}}


async def started(
    lab: Lab, *args: str, uid: int = 0, own_users: bool = False, **options: Any
) -> tuple[Launch, Launched]:
    """A container of this user, after its creation and its start the device files were looked at."""
    config: dict[str, Any] = {"process": {"user": {"uid": uid, "gid": uid}}}
    if own_users:
        ids = [{"containerID": 0, "hostID": FIRST, "size": 65536}]
        kinds = [{"type": kind} for kind in (*NAMESPACES, "user")]
        config["linux"] = {"uidMappings": ids, "gidMappings": ids, "namespaces": kinds}
    launch = lab.launch(*args, config=config, own_users=own_users, **options)
    lab.handler.root.mkdir(parents=True, exist_ok=True)
    for place in (*launch.bundle.parents, launch.bundle, lab.handler.root, lab.handler.root.parent):
        if place.is_relative_to(lab.paths.state):
            place.chmod(0o711)
    before = list(census.devices())
    launched = await lab.oci.create(launch)
    created = list(census.devices())
    await lab.oci.start(lab.handler, launch.id)
    assert (created, list(census.devices())) == (before, before)
    return launch, launched


@pytest.mark.parametrize("terminal", [False, True], ids=["pipes", "terminal"])
@pytest.mark.parametrize("stdin", [False, True], ids=["no-stdin", "stdin"])
@pytest.mark.parametrize("uid", [0, 1234])
@pytest.mark.parametrize("own_users", [False, True], ids=["host-users", "own-users"])
async def test_no_container_and_no_command_in_it_ever_owns_them(
    lab: Lab, own_users: bool, uid: int, stdin: bool, terminal: bool
) -> None:
    launch, _ = await started(
        lab, "sleep", "100000", own_users=own_users, uid=uid, stdin=stdin, terminal=terminal
    )
    before = list(census.devices())
    for user in (0, 1234):
        done = await lab.oci.exec_sync(lab.handler, launch.id, of_user(lab, user, "true"), 10)
        assert (done.code, list(census.devices())) == (0, before)


async def test_root_of_a_user_namespace_may_use_them_but_not_change_them(lab: Lab) -> None:
    launch, _ = await started(lab, "sleep", "100000", own_users=True)
    change = (
        "for name in null zero full random urandom tty; do busybox chmod 600 /dev/$name && echo $name; done"
    )
    process = of_user(lab, 0, "sh", "-c", f"{change}; echo x >/dev/null && head -c 3 /dev/zero | tr '\\0' z")
    done = await lab.oci.exec_sync(lab.handler, launch.id, process, 10)
    assert done.stdout == b"zzz"


@pytest.mark.parametrize("terminal", [False, True])
async def test_stdin_of_a_user_namespace_is_empty_and_not_a_device_of_the_host(
    lab: Lab, terminal: bool
) -> None:
    """With a terminal it is that, with the container's own as its owner."""
    script = "cat; cat /dev/stdin; echo end; sleep 100000" if not terminal else "sleep 100000"
    launch, launched = await started(lab, "sh", "-c", script, own_users=True, terminal=terminal)
    for number in range(3):
        target = os.readlink(f"/proc/{launched.init.pid}/fd/{number}")  # noqa: PTH115 - no path
        assert target.startswith("/dev/pts/" if terminal else "pipe:"), target
    if not terminal:
        done = await lab.oci.exec_sync(lab.handler, launch.id, lab.process("true"), 10)
        assert done.code == 0
        assert b"stdout F end" in lab.log(launch.id).read_bytes()
