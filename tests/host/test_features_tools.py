"""The programs we start."""

from pathlib import Path

import pytest

from sampan.host import features
from sampan.model.errors import ToolFailed, Unavailable


def program(path: Path, *lines: str) -> str:
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(0o755)
    return str(path)


async def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(Unavailable, match=r"/opt/none/conmon is not installed.*apt install conmon"):
        await features.tool("/opt/none/conmon")
    with pytest.raises(Unavailable, match="apt install crun"):
        await features.runtime("/opt/none/crun")


async def test_a_program_that_cannot_say_its_version_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match="libfoo is missing"):
        await features.tool(program(tmp_path / "conmon", "echo libfoo is missing >&2; exit 127"))


@pytest.mark.parametrize(
    ("version", "warned"),
    [
        ("crun version 1.8.1", True),
        ("crun version 1.27.1", True),
        ("crun version 1.28", False),
        ("crun version 2.0", False),
        ("runc version 1.1.5", False),
    ],
)
async def test_a_crun_that_follows_links_of_images_is_warned_of(
    tmp_path: Path, version: str, warned: bool
) -> None:
    tool = await features.runtime(program(tmp_path / "oci", f"echo {version}", "[ $1 = --version ]"))
    assert any("CVE-2026-47766" in warning for warning in tool.warnings) is warned


async def test_what_a_runtime_says_of_itself_is_believed(tmp_path: Path) -> None:
    said = (
        """if [ "$1" = features ]; then echo '{"mountOptions": ["rro"]}'; else echo crun version 1.28; fi"""
    )
    tool = await features.runtime(program(tmp_path / "crun", said))
    assert tool.features.recursive_read_only


async def test_the_version_of_other_tools(tmp_path: Path) -> None:
    path = program(tmp_path / "conmon", "echo conmon version 2.1.12")
    tool = await features.tool(path)
    assert (tool.version, tool.features.version) == ("2.1.12", (2, 1, 12))


async def test_a_program_that_does_not_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "ANSWER_SECONDS", 0.05)
    with pytest.raises(Unavailable, match=r"--version did not end within 0\.05 s"):
        await features.runtime(program(tmp_path / "crun", "exec sleep 1000"))


@pytest.mark.root
async def test_the_tools_of_this_machine() -> None:
    crun = await features.runtime("crun")
    assert crun.features.version >= (1, 4)
    assert crun.features.seccomp
    assert (await features.tool("conmon")).features.version >= (2, 0)
    assert Path((await features.tool("catatonit")).path).name == "catatonit"
