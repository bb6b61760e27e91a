"""The runtime handlers of this machine: programs that are there, vanish, come back; directories that fail."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.host.oci import handlers as subject
from sampan.host.oci.handlers import HostHandlers
from sampan.host.syscalls import MS_RDONLY, MS_REMOUNT, mount, umount
from sampan.host.threads import in_slow_thread
from sampan.model.errors import Unavailable
from sampan.model.handler import Handler
from tests import oci_runtimes


def program(path: Path, *lines: str) -> str:
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(0o755)
    return str(path)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Handlers made of scripts, a place to write to, and a clock that a test moves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.place = directory / "place"
        self.place.mkdir()
        self.monitor = program(directory / "conmon", "echo conmon version 2.1.12")
        self.handlers: dict[str, Handler] = {}
        self.made: list[HostHandlers] = []

    def handler(self, name: str, path: str, **more: object) -> Handler:
        made = Handler(name, path, self.monitor, self.directory / "state" / name)
        self.handlers[name] = replace(made, **more)  # type: ignore[arg-type]
        return self.handlers[name]

    def runtime(self, name: str, version: str = "crun version 1.28", features: object = None) -> str:
        said = f"echo '{json.dumps(features)}'" if features is not None else "exit 1"
        return program(
            self.directory / name,
            f'echo "$1" >> {self.directory}/{name}.calls',
            f'if [ "$1" = --version ]; then echo "{version}"; else {said}; fi',
        )

    def calls(self, name: str) -> int:
        return len((self.directory / f"{name}.calls").read_text().split())

    async def opened(self, default: str) -> HostHandlers:
        made = HostHandlers(self.handlers, default, [self.place], self.clock)
        self.made.append(made)
        await made.open()
        return made

    async def looked(self, handlers: HostHandlers) -> None:
        """Ask once the last look is old, and let the look in the background end."""
        self.clock.now += subject.LOOK_SECONDS
        handlers.trouble()
        async with asyncio.timeout(10):
            while handlers._looking:  # noqa: ASYNC110
                await asyncio.sleep(0.002)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for each in made.made:
        await each.close()


async def test_a_handler_is_what_its_runtime_says(bench: Bench) -> None:
    bench.handler("one", bench.runtime("crun", features={"mountOptions": ["rro"]}), privileged_devices=False)
    handlers = await bench.opened("one")
    found = handlers.of("one")
    assert (found.problem, found.path) == ("", str(bench.directory / "crun"))
    assert (found.features.name, found.features.version, found.features.told) == ("crun", (1, 28), True)
    assert found.features.recursive_read_only and not found.privileged_devices
    assert await handlers.require("one") == found
    assert handlers.trouble() is None


async def test_a_program_is_asked_once_though_two_handlers_use_it(bench: Bench) -> None:
    path = bench.runtime("crun")
    bench.handler("one", path)
    bench.handler("two", path)
    await bench.opened("one")
    assert bench.calls("crun") == 2  # --version and features


async def test_a_missing_runtime_stops_nobody_but_its_own_pods(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.handler("good", bench.runtime("crun"))
    bench.handler("bad", str(bench.directory / "runsc"))
    handlers = await bench.opened("good")
    assert handlers.trouble() is None
    with pytest.raises(Unavailable, match=r"runtime handler bad cannot be used: .*runsc is not installed"):
        await handlers.require("bad")
    assert "runtime handler bad cannot be used" in caplog.text
    bench.runtime("runsc", "runsc version release-1")  # as soon as it is there
    assert (await handlers.require("bad")).features.name == "runsc"


async def test_without_the_default_handler_nothing_starts(bench: Bench) -> None:
    bench.handler("good", bench.runtime("crun"))
    bench.handler("bad", str(bench.directory / "crun2"))
    with pytest.raises(Unavailable, match="crun2 is not installed"):
        await bench.opened("bad")


async def test_a_missing_monitor_is_a_problem_too(bench: Bench) -> None:
    bench.handler("good", bench.runtime("crun"))
    bench.handler("blind", bench.runtime("crun"), monitor="/opt/none/conmon")
    handlers = await bench.opened("good")
    assert "/opt/none/conmon is not installed" in handlers.of("blind").problem


async def test_a_runtime_that_vanishes_and_comes_back_is_noticed(bench: Bench) -> None:
    path = Path(bench.runtime("crun"))
    bench.handler("one", str(path))
    handlers = await bench.opened("one")
    path.rename(path.with_suffix(".away"))
    assert handlers.trouble() is None  # nobody has looked again
    await bench.looked(handlers)
    trouble = handlers.trouble()
    assert trouble is not None and trouble.fatal
    assert (trouble.reason, "crun is not installed" in trouble.message) == ("RuntimeHandlerUnusable", True)
    path.with_suffix(".away").rename(path)
    await bench.looked(handlers)
    assert handlers.trouble() is None


async def test_an_upgraded_runtime_is_asked_anew_and_an_unchanged_one_is_not(bench: Bench) -> None:
    bench.handler("one", bench.runtime("crun"))
    handlers = await bench.opened("one")
    await bench.looked(handlers)
    assert bench.calls("crun") == 2
    bench.runtime("crun.new", "crun version 1.29")
    (bench.directory / "crun.new").rename(bench.directory / "crun")
    await bench.looked(handlers)
    assert handlers.of("one").features.version == (1, 29)


async def test_looks_are_far_between_and_never_two_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.handler("one", bench.runtime("crun"))
    handlers = await bench.opened("one")
    looks: list[int] = []
    release = asyncio.Event()

    async def look() -> None:
        looks.append(1)
        await release.wait()

    monkeypatch.setattr(handlers, "_look", look)
    for seconds, expected in ((subject.LOOK_SECONDS - 1, 0), (1, 1), (subject.STUCK_SECONDS, 1)):
        bench.clock.now += seconds
        assert handlers.trouble() is None
        await asyncio.sleep(0)
        assert len(looks) == expected
    bench.clock.now += 1
    stuck = handlers.trouble()
    assert stuck is not None and stuck.fatal and stuck.reason == "CheckStuck"
    release.set()
    async with asyncio.timeout(5):
        while handlers.trouble() is not None:  # noqa: ASYNC110 - it is asked, and tells nobody by itself
            await asyncio.sleep(0)


@pytest.fixture
async def busy() -> AsyncIterator[None]:
    """All that works on archives, layers and the like has work for as long as the test goes on."""
    release = threading.Event()
    work = [asyncio.ensure_future(in_slow_thread(release.wait)) for _ in range(8)]
    yield
    release.set()
    await asyncio.gather(*work)


async def test_a_look_does_not_queue_behind_long_work(bench: Bench, busy: None) -> None:
    bench.handler("good", bench.runtime("crun"))
    bench.handler("bad", str(bench.directory / "runsc"))
    async with asyncio.timeout(10):
        handlers = await bench.opened("good")
    await bench.looked(handlers)
    bench.clock.now += subject.STUCK_SECONDS + 1
    assert handlers.trouble() is None
    bench.runtime("runsc", "runsc version release-1")
    async with asyncio.timeout(10):
        assert (await handlers.require("bad")).features.name == "runsc"


async def test_a_file_system_that_is_stuck_holds_one_thread_and_is_trouble(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often pods of a handler are asked for whose programs lie there."""
    bench.handler("good", bench.runtime("crun"))
    bench.handler("bad", str(bench.directory / "runsc"))
    bench.handler("worse", str(bench.directory / "runsc"))
    handlers = await bench.opened("good")
    release, threads, marks = threading.Event(), set(), subject._marks

    def stuck(handler: Handler) -> object:
        threads.add(threading.get_ident())
        release.wait()
        return marks(handler)

    monkeypatch.setattr(subject, "_marks", stuck)
    for name in ("bad", "worse") * 3:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await handlers.require(name)
    try:
        bench.clock.now += subject.STUCK_SECONDS
        assert handlers.trouble() is None  # which wants a look, too
        await asyncio.sleep(0.01)
        assert len(threads) == 1
        bench.clock.now += 1
        trouble = handlers.trouble()
        assert trouble is not None and trouble.reason == "CheckStuck"
    finally:
        release.set()
    async with asyncio.timeout(10):
        while handlers._looking or handlers.trouble():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_a_look_that_waits_for_another_is_not_stuck(bench: Bench) -> None:
    bench.handler("one", bench.runtime("crun"))
    handlers = await bench.opened("one")
    async with handlers._turn():
        bench.clock.now += subject.LOOK_SECONDS
        assert handlers.trouble() is None
        bench.clock.now += subject.STUCK_SECONDS - subject.LOOK_SECONDS
        assert handlers.trouble() is None
    await bench.looked(handlers)
    assert handlers.trouble() is None


async def test_a_directory_that_is_gone_is_trouble(bench: Bench) -> None:
    bench.handler("one", bench.runtime("crun"))
    handlers = await bench.opened("one")
    bench.place.rmdir()
    await bench.looked(handlers)
    trouble = handlers.trouble()
    assert trouble is not None and trouble.fatal and trouble.reason == "DirectoryNotWritable"
    assert str(bench.place) in trouble.message


@pytest.mark.root
@pytest.mark.parametrize("fault", ["read-only", "full"])
async def test_a_directory_that_takes_no_bytes_is_trouble(bench: Bench, fault: str) -> None:
    bench.handler("one", bench.runtime("crun"))
    handlers = await bench.opened("one")
    mount("tmpfs", str(bench.place), "tmpfs", 0, "size=64k")
    try:
        if fault == "read-only":
            mount("tmpfs", str(bench.place), "tmpfs", MS_REMOUNT | MS_RDONLY, "")
        else:
            (bench.place / "all").write_bytes(b"x" * (64 << 10))
        await bench.looked(handlers)
        trouble = handlers.trouble()
        assert trouble is not None
        expected = {"read-only": ("DirectoryNotWritable", True), "full": ("DirectoryFull", False)}
        assert (trouble.reason, trouble.fatal) == expected[fault]
        assert os.listdir(bench.place) == ([] if fault == "read-only" else ["all"])  # noqa: PTH208
    finally:
        umount(str(bench.place), 0)


async def test_a_base_spec_is_read_and_a_broken_one_is_a_problem(bench: Bench) -> None:
    base = bench.directory / "base.json"
    base.write_text('{"annotations": {"a": "b"}, "root": {}}')
    bench.handler("one", bench.runtime("crun"), base_spec=str(base))
    handlers = await bench.opened("one")
    assert handlers.of("one").base_spec["annotations"] == {"a": "b"}
    base.rename(base.with_suffix(".old"))
    await bench.looked(handlers)
    assert "base.json No such file" in handlers.of("one").problem
    base.write_text("{")
    with pytest.raises(Unavailable, match=r"base\.json is no usable OCI config\.json"):
        await handlers.require("one")


async def test_an_unknown_handler_is_a_problem_and_no_error(bench: Bench) -> None:
    bench.handler("one", bench.runtime("crun"))
    handlers = await bench.opened("one")
    assert "no runtime handler 'x'" in handlers.of("x").problem
    with pytest.raises(Unavailable, match="no runtime handler 'x'"):
        await handlers.require("x")


@pytest.mark.root
@pytest.mark.parametrize("runtime", oci_runtimes.RUNTIMES)
async def test_the_runtimes_of_this_machine(bench: Bench, runtime: str) -> None:
    oci_runtimes.require(runtime)
    bench.handler(runtime, runtime, monitor="conmon")
    found = (await bench.opened(runtime)).of(runtime)
    assert found.features.name == runtime and found.features.version
    assert found.features.seccomp and found.features.recursive_read_only and found.features.user_namespaces
