"""What every `CdiRegistry` and `IoClasses` does, the real ones and the fakes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.host.device.cdi import CdiDirectories
from sampan.host.device.io_classes import HostIoClasses
from sampan.host.sources import HostFacts
from sampan.model.cdi import Index, Source
from sampan.model.errors import Invalid, NotFound
from sampan.model.io_classes import DeviceLimits, Limits
from sampan.runtime.device_ports import CdiRegistry, IoClasses
from sampan.runtime.ports import Facts
from sampan.spec.facts import DeviceNode
from sampan.wire import cdi
from tests.fake_devices import FakeCdi, FakeIoClasses
from tests.fakes import FakeFacts, World

FILE = b"""
cdiVersion: 0.6.0
kind: v.com/toy
containerEdits: {env: [ALL=1]}
devices:
  - {name: x, containerEdits: {env: [X=1]}}
  - {name: y, containerEdits: {env: [Y=1]}}
"""
TWIN = b"{cdiVersion: 0.6.0, kind: v.com/toy, devices: [{name: y}]}"


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., CdiRegistry]:
    """A registry of files with these contents, all in one directory."""

    def make(*files: bytes) -> CdiRegistry:
        if request.param == "fake":
            return FakeCdi(Index(Source(f"/{n}", 0, cdi.parse(file, "/x")) for n, file in enumerate(files)))
        for number, file in enumerate(files):
            (tmp_path / f"{number}.yaml").write_bytes(file)
        return CdiDirectories([tmp_path])

    return make


async def test_the_edits_of_devices_in_order(registry: Callable[..., CdiRegistry]) -> None:
    given = await registry(FILE).edits(["v.com/toy=y", "v.com/toy=x"])
    assert [each.edits.env for each in given] == [("ALL=1",), ("Y=1",), ("X=1",)]
    assert len({each.origin for each in given}) == 1


async def test_a_device_that_no_file_has(registry: Callable[..., CdiRegistry]) -> None:
    for files in ((), (FILE,)):
        with pytest.raises(NotFound, match=r"v\.com/toy=z"):
            await registry(*files).edits(["v.com/toy=z"])


async def test_a_device_that_two_files_have(registry: Callable[..., CdiRegistry]) -> None:
    both = registry(FILE, TWIN)
    assert len(await both.edits(["v.com/toy=x"])) == 2
    with pytest.raises(Invalid, match=r"v\.com/toy=y is ambiguous"):
        await both.edits(["v.com/toy=y"])


@pytest.fixture(params=["fake", "real"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[bool, bool], IoClasses]:
    """Classes `slow` and `gold`, or none of any kind; the absence passed over or not."""

    def make(there: bool, ignored: bool) -> IoClasses:
        slow = (DeviceLimits(Limits(weight=50)),)
        if request.param == "fake":
            return (
                FakeIoClasses({"slow": slow}, {"gold"}, ignored) if there else FakeIoClasses(ignored=ignored)
            )
        if there:
            (tmp_path / "gold").mkdir()
            for folder in (tmp_path, tmp_path / "gold"):
                (folder / "schemata").write_text("L3:0=f\n")
            (tmp_path / "classes.yaml").write_text("Classes: {slow: [{Weight: 50}]}")
        config = str(tmp_path / "classes.yaml") if there else ""
        return HostIoClasses(config, ignore_blockio=ignored, ignore_rdt=ignored, resctrl=tmp_path)

    return make


@pytest.mark.parametrize("ignored", [False, True])
async def test_classes_that_are_there(made: Callable[[bool, bool], IoClasses], ignored: bool) -> None:
    classes = made(True, ignored)
    assert await classes.block_io("slow") == (DeviceLimits(Limits(weight=50)),)
    assert await classes.rdt("gold") == "gold"
    assert await classes.has_rdt()
    for ask in (classes.block_io, classes.rdt):
        with pytest.raises(NotFound, match="'absent'"):
            await ask("absent")


async def test_a_node_without_classes(made: Callable[[bool, bool], IoClasses]) -> None:
    classes = made(False, False)
    assert not await classes.has_rdt()
    for ask in (classes.block_io, classes.rdt):
        with pytest.raises(Invalid, match="'slow'"):
            await ask("slow")


async def test_a_node_without_classes_that_passes_over_them(made: Callable[[bool, bool], IoClasses]) -> None:
    classes = made(False, True)
    assert await classes.block_io("slow") == ()
    assert await classes.rdt("slow") == ""


@pytest.fixture(params=["fake", "real"])
def looking(request: pytest.FixtureRequest) -> Facts:
    if request.param == "real":
        return HostFacts()
    world = World()
    world.devices["/dev/full"] = (DeviceNode("/dev/full", "c", 1, 7, 0o666),)
    return FakeFacts(world)


async def test_all_devices_are_those_that_can_be_asked_for(looking: Facts) -> None:
    every = {node.path: node for node in await looking.all_devices()}
    (asked,) = (await looking.device_nodes(["/dev/full"]))["/dev/full"]
    assert every["/dev/full"] == asked
    assert (asked.kind, asked.major, asked.minor) == ("c", 1, 7)
    assert not [path for path in every if path.startswith("/dev/pts/")]
