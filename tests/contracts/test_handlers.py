"""What every `Handlers` does, the real one and the fake."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sampan.host.oci.handlers import HostHandlers
from sampan.model.errors import Unavailable
from sampan.model.handler import Handler
from sampan.runtime.handler_ports import Handlers, HandlerStatus
from tests.fakes import ABLE, FakeHandlers, World


@dataclass
class Subject:
    """An implementation with the handlers crun, which can be used, and absent, which cannot."""

    handlers: Handlers


@pytest.fixture(params=["fake", "real"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "fake":
        absent = HandlerStatus("absent", problem="absent is not installed")
        yield Subject(FakeHandlers(World(handlers={"crun": ABLE, "absent": absent})))
        return
    crun = tmp_path / "crun"
    crun.write_text("#!/bin/sh\necho crun version 1.28\n")
    crun.chmod(0o755)
    known = {
        name: Handler(name, str(tmp_path / name), str(crun), tmp_path / "state")
        for name in ("crun", "absent")
    }
    handlers = HostHandlers(known, "crun", [tmp_path])
    await handlers.open()
    yield Subject(handlers)
    await handlers.close()


async def test_one_that_works_can_be_required(subject: Subject) -> None:
    found = await subject.handlers.require("crun")
    assert found == subject.handlers.of("crun")
    assert (found.name, found.problem, found.features.name, found.features.version) == (
        "crun",
        "",
        "crun",
        (1, 28),
    )
    assert Path(found.path).name == "crun"


@pytest.mark.parametrize("name", ["absent", "never-heard-of"])
async def test_one_that_does_not_work_says_why(subject: Subject, name: str) -> None:
    problem = subject.handlers.of(name).problem
    assert name in problem and subject.handlers.of(name).name == name
    with pytest.raises(Unavailable, match=f"runtime handler {name} cannot be used: .*{name}"):
        await subject.handlers.require(name)


async def test_a_handler_that_is_not_the_default_is_no_trouble_of_the_node(subject: Subject) -> None:
    assert subject.handlers.trouble() is None
