"""Tests of host.exec_sync: commands in real containers."""

import asyncio
import errno
import fcntl
import os
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sampan.host import process
from sampan.host.cgroup import exec_cgroup, exec_places
from sampan.host.cgroup.container_cgroup import machine_layout
from sampan.host.oci import exec_child, exec_sync, runtime_state
from sampan.host.processes import send
from sampan.model.errors import Invalid, ToolFailed
from sampan.runtime.ports import ExecResult
from tests import oci_runtimes
from tests.host.containers import Lab, until

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture
async def lab(short_tmp: Path) -> AsyncIterator[Lab]:
    lab = Lab(short_tmp)
    try:
        yield lab
    finally:
        await lab.close()
    assert lab.leftovers() == []


@pytest.fixture
async def box(lab: Lab) -> str:
    """The id of a container that runs."""
    launch, _ = await lab.run("sleep", "100000")
    return launch.id


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def execute(lab: Lab, id: str, *args: str, seconds: float = 30) -> ExecResult:
    return await lab.oci.exec_sync(lab.handler, id, lab.process(*args), seconds)


def inside(lab: Lab) -> list[str]:
    """What runs in the lab's containers but their init and conmon."""
    return [words for _, words in lab.processes() if "100000" not in words and "conmon" not in words]


async def nothing_inside(lab: Lab) -> None:
    await until(lambda: not inside(lab))


async def test_output_and_code(lab: Lab, box: str) -> None:
    result = await execute(lab, box, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert result == ExecResult(3, b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 127", 127), ("exit 255", 255), ("kill -9 $$", 137)]
)
async def test_codes_of_a_command_are_its_own(lab: Lab, box: str, script: str, code: int) -> None:
    assert (await execute(lab, box, "sh", "-c", script)).code == code


async def test_a_command_that_is_not_there_is_an_error_not_a_code(lab: Lab, box: str) -> None:
    with pytest.raises(ToolFailed, match=r"executable file.*no-such-command.*not found"):
        await execute(lab, box, "no-such-command")


@pytest.mark.parametrize("command", ["/bin/plain", "/tmp"])
async def test_a_command_that_cannot_be_run_is_an_error(lab: Lab, box: str, command: str) -> None:
    with pytest.raises(ToolFailed):
        await execute(lab, box, command)


async def test_a_working_directory_that_is_not_there_is_an_error(lab: Lab, box: str) -> None:
    with pytest.raises(ToolFailed, match="no/such"):
        await lab.oci.exec_sync(lab.handler, box, {**lab.process("true"), "cwd": "/no/such"}, 5)


@pytest.mark.parametrize(
    "words", [["--help"], ["-u", "0"], ["--", "x"], ["$(reboot)"], ["'", '"', "\n", "é"]]
)
async def test_words_of_a_command_are_only_words(lab: Lab, box: str, words: list[str]) -> None:
    assert (await execute(lab, box, "echo", "-n", "x", *words)).stdout == " ".join(["x", *words]).encode()


async def test_a_command_sees_none_of_our_descriptors_and_environment(lab: Lab, box: str) -> None:
    result = await execute(lab, box, "sh", "-c", "ls /proc/self/fd; cat /proc/self/environ | tr '\\0' '\\n'")
    words = result.stdout.split()
    assert words[:4] == [b"0", b"1", b"2", b"3"]  # 3 is the directory that ls reads
    assert {word.partition(b"=")[0] for word in words[4:]} <= {b"PATH", b"HOME", b"SHLVL", b"PWD"}


async def test_a_command_has_the_containers_oom_score_and_not_ours(lab: Lab, box: str) -> None:
    process = {**lab.process("cat", "/proc/self/oom_score_adj"), "oomScoreAdj": 678}
    assert (await lab.oci.exec_sync(lab.handler, box, process, 5)).stdout == b"678\n"


@pytest.mark.parametrize("runtime", oci_runtimes.RUNTIMES)
async def test_a_daemon_that_gets_no_cpu_gives_the_score_in_time_all_the_same(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    oci_runtimes.require(runtime)
    give = exec_child._give_oom_score

    def late(pid: int, process: dict[str, Any]) -> None:
        time.sleep(0.2)  # the runtime would have started the command ten times over
        give(pid, process)

    monkeypatch.setattr(exec_child, "_give_oom_score", late)
    lab = Lab(short_tmp, runtime=runtime)
    try:
        launch, _ = await lab.run("sleep", "100000")
        process = {**lab.process("cat", "/proc/self/oom_score_adj"), "oomScoreAdj": 678}
        assert (await lab.oci.exec_sync(lab.handler, launch.id, process, 5)).stdout == b"678\n"
    finally:
        await lab.close()


@pytest.mark.parametrize("kibibytes", [1, 63, 200, 800])
async def test_a_large_environment_gets_there(lab: Lab, box: str, kibibytes: int) -> None:
    env = [f"V{number}={'x' * 1020}" for number in range(kibibytes)]
    process = {**lab.process("sh", "-c", "echo ${#V0}"), "env": ["PATH=/bin", *env]}
    assert (await lab.oci.exec_sync(lab.handler, box, process, 20)).stdout == b"1020\n"


async def test_what_no_pipe_takes_is_refused(lab: Lab, box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    before = descriptors()
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(Invalid, match="take 1100141 bytes"):
        await lab.oci.exec_sync(lab.handler, box, {"args": ["x" * 1_100_128]}, 5)
    assert descriptors() == before


async def test_stdin_is_empty(lab: Lab, box: str) -> None:
    assert await execute(lab, box, "cat") == ExecResult(0, b"", b"")


async def test_a_timeout_kills_the_command_and_all_it_started(lab: Lab, box: str) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"sh did not end within 0.3 s"):
        await execute(lab, box, "sh", "-c", "sleep 991 & (sleep 992 &) ; sleep 993", seconds=0.3)
    assert time.monotonic() - began < 5
    await nothing_inside(lab)
    assert (await execute(lab, box, "echo", "fine")).stdout == b"fine\n"


async def test_a_timeout_kills_what_has_left_the_commands_family_and_session(lab: Lab, box: str) -> None:
    if machine_layout().unified:
        pytest.skip("a command would notice its group on cgroup v2")
    script = "(setsid sh -c 'setsid sleep 1011 & exit' &); (setsid sleep 1012 &); exec sleep 1013"
    with pytest.raises(TimeoutError):
        await execute(lab, box, "sh", "-c", script, seconds=0.7)
    assert inside(lab) == []


async def test_where_a_command_would_notice_its_group_it_has_none(
    lab: Lab, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = runtime_state.of(lab.handler, box, lab.paths.bundle(box))
    monkeypatch.setattr(exec_places, "nested", lambda: True)
    group = await exec_cgroup.exec_group(box, state, unseen=True)
    assert (group.tracks, group.options) == (False, [])
    await group.close()


async def test_no_time_at_all_is_a_timeout_and_not_a_leak(lab: Lab, box: str) -> None:
    for milliseconds in range(1, 12, 2):
        with pytest.raises(TimeoutError):
            await execute(lab, box, "sleep", "994", seconds=milliseconds / 1000)
    await nothing_inside(lab)


async def test_a_cancelled_exec_leaves_nothing(lab: Lab, box: str) -> None:
    running = asyncio.ensure_future(execute(lab, box, "sh", "-c", "sleep 995; sleep 996"))
    await until(lambda: any("sleep 995" in words for words in inside(lab)))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await nothing_inside(lab)


async def test_a_flood_is_capped_and_drained(lab: Lab, box: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    script = "head -c 60000000 /dev/zero; head -c 60000000 /dev/zero >&2; exit 5"
    result = await execute(lab, box, "sh", "-c", script)
    assert (result.code, len(result.stdout) + len(result.stderr)) == (5, 15 * MIB)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 120 * 1024


async def test_what_both_outputs_say_fits_a_response(lab: Lab, box: str) -> None:
    """The kubelet's gRPC client takes no more than 16 MiB."""
    script = "head -c 10000000 /dev/zero; head -c 10000000 /dev/zero >&2"
    result = await execute(lab, box, "sh", "-c", script)
    assert (len(result.stdout), len(result.stderr)) == (10_000_000, 15 * MIB - 10_000_000)


@pytest.mark.parametrize(("flood", "word"), [(1, 2), (2, 1)])
async def test_a_flood_of_one_output_does_not_silence_the_other(
    lab: Lab, box: str, flood: int, word: int
) -> None:
    script = f"head -c 30000000 /dev/zero >&{flood}; echo why it failed >&{word}; exit 1"
    result = await execute(lab, box, "sh", "-c", script)
    outputs = {1: result.stdout, 2: result.stderr}
    assert outputs[word] == b"why it failed\n"
    assert len(outputs[flood]) == exec_sync.OUTPUT_LIMIT - exec_sync._OWN


async def test_a_flood_of_many_commands_is_capped_too(
    lab: Lab, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = process.Budget(2 * MIB)
    monkeypatch.setattr(exec_sync, "_shared", shared)
    script = "head -c 5000000 /dev/zero"
    results = await asyncio.gather(*(execute(lab, box, "sh", "-c", script) for _ in range(4)))
    sizes = [len(result.stdout) for result in results]
    assert min(sizes) >= exec_sync._OWN  # nobody is silenced by the others
    assert sum(sizes) <= 4 * (2 * MIB + exec_sync._OWN)
    assert max(sizes) <= 2 * MIB + exec_sync._OWN
    assert shared.left == 2 * MIB  # given back


async def test_what_a_command_borrowed_is_given_back_when_it_fails() -> None:
    shared = exec_sync._shared.left
    flood = ["sh", "-c", "head -c 3000000 /dev/zero; sleep 1000"]
    with pytest.raises(TimeoutError):
        await exec_sync.exec_sync(flood, {"args": flood}, 0.5)
    assert exec_sync._shared.left == shared


def test_a_share_gives_its_own_bytes_first_and_never_more_than_a_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = process.Budget(100 * MIB)
    monkeypatch.setattr(exec_sync, "_shared", shared)
    share = exec_sync._Share()
    out, err = share.outputs
    assert out.draw(exec_sync._OWN) == exec_sync._OWN
    assert shared.left == 100 * MIB
    assert exec_sync._OWN + out.draw(20 * MIB) + exec_sync._OWN == 15 * MIB
    assert out.draw(1) == 0
    assert err.draw(MIB) == exec_sync._OWN
    shared.left = 10
    other, _ = exec_sync._Share().outputs
    assert other.draw(MIB) == exec_sync._OWN + 10
    share.close()
    assert other.draw(MIB) == MIB


async def test_an_endless_flood_ends_with_its_time(lab: Lab, box: str) -> None:
    with pytest.raises(TimeoutError):
        await execute(lab, box, "yes", seconds=0.5)
    await nothing_inside(lab)


async def test_an_orphan_that_holds_the_output_does_not_hold_us(
    lab: Lab, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert process.DRAIN_SECONDS == 2.0
    began = time.monotonic()
    result = await execute(lab, box, "sh", "-c", "sleep 997 & echo said")
    assert result == ExecResult(0, b"said\n", b"")
    assert 1 < time.monotonic() - began < 5


async def test_an_exec_in_a_container_that_has_ended_is_refused(lab: Lab) -> None:
    launch, launched = await lab.run("sleep", "100000")
    await send(launched.init, 9)
    await lab.oci.wait(launch.id, launched)
    with pytest.raises(ToolFailed, match="not running"):
        await execute(lab, launch.id, "true")
    await lab.oci.delete(lab.handler, launch.id)
    with pytest.raises(ToolFailed):
        await execute(lab, launch.id, "true")


async def test_a_big_process_object_is_passed(lab: Lab, box: str) -> None:
    big = "x" * 100_000
    request = {**lab.process("sh", "-c", "echo ${#BIG}"), "env": ["PATH=/bin", f"BIG={big}"]}
    assert (await lab.oci.exec_sync(lab.handler, box, request, 5)).stdout == b"100000\n"


async def test_many_at_once_do_not_mix(lab: Lab, box: str) -> None:
    results = await asyncio.gather(*(execute(lab, box, "sh", "-c", f"echo {n}; exit {n}") for n in range(8)))
    assert [(r.code, r.stdout) for r in results] == [(n, b"%d\n" % n) for n in range(8)]


async def test_no_descriptor_is_left(lab: Lab, box: str) -> None:
    await execute(lab, box, "true")
    before = descriptors()
    for command in ("true", "no-such-command"):
        try:
            await execute(lab, box, command)
        except ToolFailed:
            continue
    assert descriptors() == before
