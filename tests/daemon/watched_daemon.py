"""A private daemon that tells what it holds (`tests.watched`), a pod to attack, and one that must not notice."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sampan.api import cri_pb2 as cri
from sampan.wire.remotecommand.channels import Wanted
from scripts import private_daemon
from tests import cgroup_drivers
from tests.daemon.conftest import SECONDS, Live, clean_up, import_image
from tests.fuzzed_frames import PORT
from tests.stream_clients import Client

ROOT = Path(__file__).parents[2]
FULL = bool(os.environ.get("SAMPAN_BATTERY"))
"""Everything in full size: `scripts/battery.sh`."""


def size(short: int, full: int) -> int:
    return full if FULL else short


def tell(words: str) -> None:
    """Figures, which `pytest -s` shows."""
    print(f"\n{words}", flush=True)


class Watched(Live):
    """Live, with `tests.watched` in sampand's place and without a record of its steps."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(os.getpid() % 200 + 20, cgroup_drivers.DRIVERS[-1])
        self._environment = dict(environment)
        program = self.own.directory / "sampand"
        program.symlink_to(ROOT / "tests/watched.py")
        self.program = [sys.executable, "-P", program]
        self.own.config.write_text(self.own.config.read_text().replace('"debug"', '"info"'))

    def start(self) -> None:
        private_daemon.start(self.own, environment=self._environment, program=self.program)


@contextmanager
def watched(archive: Path, **environment: str) -> Iterator[Watched]:
    """Running, with the image; gone afterwards."""
    live = Watched(environment)
    try:
        live.start()
        import_image(live, archive)
        yield live
    finally:
        with private_daemon.uninterrupted():
            clean_up(live)


@pytest.fixture
def victim(archive: Path) -> Iterator["Victim"]:
    with watched(archive) as live:
        pod = live.pod("attacked")
        echo = live.started(pod, "nc", "-ll", "-p", str(PORT), "-e", "cat", name="echo")
        container = live.started(pod, "sh", "-c", "cat > /dev/null; sleep 100000", stdin=True)
        yield Victim(live, pod, container, echo, live.started(live.pod("bystander")))


@dataclass
class Victim:
    """`container` of `pod` is attacked; `bystander` is another pod's container."""

    live: Watched
    pod: str
    container: str
    echo: str
    bystander: str

    def attack(self, kind: str, count: int, seed: int = 1) -> "subprocess.Popen[str]":
        argv = ["-m", "tests.attacks", kind, self.live.own.endpoint, self.pod, self.container]
        return subprocess.Popen(
            [sys.executable, *argv, str(count), str(seed)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )


@dataclass
class Times:
    """Of what bystanders asked for, in ms."""

    echo: list[float] = field(default_factory=list)
    lists: list[float] = field(default_factory=list)
    execs: list[float] = field(default_factory=list)

    def words(self) -> str:
        return ", ".join(
            f"{name} p50 {at(values, 0.5):.1f} p99 {at(values, 0.99):.1f} max {max(values):.1f} ms (n={len(values)})"
            for name, values in vars(self).items()
            if values
        )


def at(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Bystanders:
    """A session that echoes, RPCs that list, and an exec now and then."""

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        self._runtime = victim.live.runtime

    async def watch(self, until: Callable[[], bool]) -> Times:
        times = Times()
        wanted = Wanted(stdin=True, stdout=True)
        asked = cri.ExecRequest(container_id=self._victim.bystander, cmd=["cat"], stdin=True, stdout=True)
        client = await Client.connect("spdy", self._runtime.Exec(asked, timeout=SECONDS).url, wanted)
        rounds = 0
        while not until() or rounds < 20:
            rounds += 1
            word = b"%d\n" % rounds
            times.echo.append(await timed(self._echo(client, word)))
            times.lists.append(await timed(self._in_thread(self._list)))
            if rounds % 20 == 0:
                times.execs.append(await timed(self._in_thread(self._exec)))
            await asyncio.sleep(0.02)
        await client.end()
        assert (await client.finished()).code == 0
        return times

    async def _echo(self, client: Client, word: bytes) -> None:
        await client.say(word)
        await client.until(lambda: client.stdout.endswith(word))
        client.heard.output[next(iter(client.heard.output))].clear()

    async def _in_thread(self, work: Callable[[], object]) -> None:
        await asyncio.to_thread(work)

    def _list(self) -> None:
        self._runtime.ListContainers(cri.ListContainersRequest(), timeout=SECONDS)

    def _exec(self) -> None:
        asked = cri.ExecSyncRequest(container_id=self._victim.bystander, cmd=["true"], timeout=20)
        assert self._runtime.ExecSync(asked, timeout=SECONDS).exit_code == 0


async def timed(work: Coroutine[Any, Any, None]) -> float:
    begin = time.perf_counter()
    await work
    return (time.perf_counter() - begin) * 1000


def outcome(process: "subprocess.Popen[str]", seconds: float) -> dict[str, int]:
    """What an attack did; one that failed, as by a server that does not answer, fails the test."""
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, said
    found: dict[str, int] = json.loads(said)
    return found
