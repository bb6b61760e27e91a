"""CDI directories on a real file system."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.host.device.cdi import CdiDirectories
from sampan.model.cdi import Spec
from sampan.model.errors import Invalid, NotFound
from sampan.wire import cdi as wire_cdi

pytestmark = pytest.mark.root  # the files must be root's

NAME = "v.com/toy=x"


def text(value: str = "1", name: str = "x") -> str:
    device = {"name": name, "containerEdits": {"env": [f"TOY={value}"]}}
    return json.dumps({"cdiVersion": "0.6.0", "kind": "v.com/toy", "devices": [device]})


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


async def variables(registry: CdiDirectories, *names: str) -> list[str]:
    given = await registry.edits(names or [NAME])
    return [variable for each in given for variable in each.edits.env]


async def test_json_and_yaml_files_are_read(etc: Path) -> None:
    (etc / "a.json").write_text(text("json"))
    (etc / "b.yaml").write_text(
        "cdiVersion: 0.6.0\nkind: v.com/tool\ndevices: [{name: y, containerEdits: {env: [TOOL=yaml]}}]\n"
    )
    (etc / "c.txt").write_text("nothing of ours")
    (etc / "d.json").mkdir()
    registry = CdiDirectories([etc])
    assert await variables(registry, NAME, "v.com/tool=y") == ["TOY=json", "TOOL=yaml"]


async def test_a_later_directory_goes_first(etc: Path, run: Path) -> None:
    (etc / "a.json").write_text(text("etc"))
    (run / "a.json").write_text(text("run"))
    assert await variables(CdiDirectories([etc, run])) == ["TOY=run"]
    assert await variables(CdiDirectories([run, etc])) == ["TOY=etc"]


async def test_two_files_of_one_directory_conflict(etc: Path) -> None:
    for name in ("a.json", "b.json"):
        (etc / name).write_text(text())
    with pytest.raises(Invalid, match=r"a\.json and .*b\.json"):
        await variables(CdiDirectories([etc]))


async def test_a_new_changed_or_removed_file_counts_at_once(etc: Path) -> None:
    registry = CdiDirectories([etc])
    with pytest.raises(NotFound, match=str(etc)):
        await variables(registry)
    (etc / "a.json").write_text(text("1"))
    assert await variables(registry) == ["TOY=1"]
    (etc / "new").write_text(text("2"))
    (etc / "new").rename(etc / "a.json")
    assert await variables(registry) == ["TOY=2"]
    (etc / "a.json").unlink()
    with pytest.raises(NotFound):
        await variables(registry)


async def test_only_what_has_changed_is_read_again(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = wire_cdi.parse

    def counting(data: bytes, path: str) -> Spec:
        parsed.append(Path(path).name)
        return parse(data, path)

    monkeypatch.setattr(wire_cdi, "parse", counting)
    (etc / "a.json").write_text(text("1"))
    (etc / "b.json").write_text(text("1", "y"))
    registry = CdiDirectories([etc])
    for _ in range(3):
        await variables(registry)
    assert parsed == ["a.json", "b.json"]
    (etc / "b.json").write_text(text("22", "y"))
    await variables(registry)
    assert parsed == ["a.json", "b.json", "b.json"]


async def test_a_file_that_changed_without_a_trace_is_found_on_a_miss(etc: Path) -> None:
    """Same size, same inode, times set back: what a copy within the resolution of a clock looks like."""
    file = etc / "a.json"
    file.write_text(text("1", "y"))
    registry = CdiDirectories([etc])
    with pytest.raises(NotFound):
        await variables(registry)
    known = registry._seen.files[0][2]
    file.write_text(text("1", "x"))
    found = file.stat()
    same = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    owner = (found.st_mode, found.st_uid, found.st_gid)
    object.__setattr__(known, "identity", same + owner)
    assert await variables(registry) == ["TOY=1"]


async def test_a_damaged_file_spoils_only_itself(etc: Path) -> None:
    (etc / "a.json").write_text(text())
    (etc / "broken.yaml").write_text("kind: [")
    registry = CdiDirectories([etc])
    assert await variables(registry) == ["TOY=1"]
    with pytest.raises(NotFound) as error:
        await variables(registry, "v.com/toy=absent")
    assert f"{etc}/broken.yaml is not usable YAML" in str(error.value)
    assert str(error.value).startswith(f"CDI device v.com/toy=absent is not in {etc}")


def given_away(file: Path) -> None:
    os.chown(file, 1000, 0)


def writable(file: Path) -> None:
    file.chmod(0o646)


def writable_by_a_group(file: Path) -> None:
    os.chown(file, 0, 1000)
    file.chmod(0o664)


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def link_to(target: str) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        file.unlink()
        file.symlink_to(target)

    return spoil


def too_large(file: Path) -> None:
    file.write_bytes(b" " * (wire_cdi.LIMIT + 1))


def folder_given_away(file: Path) -> None:
    os.chown(file.parent, 1000, 0)


def folder_for_all(file: Path) -> None:
    file.parent.chmod(0o1777)


SPOILED = [
    (given_away, "belongs to user 1000"),
    (writable, "others than root may write it"),
    (writable_by_a_group, "others than root may write it"),
    (pipe, "not a regular file"),
    (link_to("absent"), "No such file"),
    (link_to("/dev/zero"), "not a regular file"),
    (too_large, "larger than"),
    (folder_given_away, "belongs to user 1000"),
    (folder_for_all, "others than root may write it"),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILED)
async def test_c12_only_what_root_alone_can_write_counts(
    etc: Path, spoil: Callable[[Path], None], words: str
) -> None:
    file = etc / "a.json"
    file.write_text(text())
    registry = CdiDirectories([etc])
    assert await variables(registry)
    spoil(file)
    with pytest.raises(NotFound, match=words):
        await variables(registry)


async def test_a_link_that_root_made_is_followed(etc: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(text("linked"))
    (etc / "a.json").symlink_to(tmp_path / "elsewhere")
    assert await variables(CdiDirectories([etc])) == ["TOY=linked"]


async def test_directories_need_not_be_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotFound, match=r"absent, .*file.*cannot be read: Not a directory"):
        await variables(CdiDirectories([tmp_path / "absent", tmp_path / "file"]))
