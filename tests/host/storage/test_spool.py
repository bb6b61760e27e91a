"""Parts of blobs on disk: what is found again, what two readers may do, what goes, and no descriptor left open."""

import asyncio
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.host.storage import spool as spool_module
from sampan.host.storage.spool import Part, Parts, Spool

HEX = "ab" * 32
DIGEST = f"sha256:{HEX}"
BLOB = bytes(range(256)) * 4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs" / "parts"


@pytest.fixture
def spool(root: Path) -> Spool:
    return Spool(root)


@pytest.fixture(autouse=True)
def no_descriptor_is_left(root: Path) -> Iterator[None]:
    yield
    left = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert not [target for target in left if target.startswith(str(root.parent))]


def lay(root: Path, **parts: bytes) -> None:
    """Parts as an earlier daemon would have left them: `_OFFSET=content`."""
    (root / HEX).mkdir(parents=True)
    for name, data in parts.items():
        (root / HEX / name.removeprefix("_")).write_bytes(data)


async def kept(parts: Parts) -> dict[int, bytes]:
    """What there is, by where it begins; then let go of it."""
    found, offset = {}, 0
    while offset < parts.size:
        part = parts.at(offset)
        assert part is None or not part.growing
        if part is None:
            offset = parts.free(offset)
            continue
        found[part.start] = b""
        while data := await part.read(offset):
            found[part.start] += data
            offset += len(data)
    parts.close()
    return found


async def test_what_was_kept_is_found_by_the_next_daemon(spool: Spool, root: Path) -> None:
    parts = await spool.open(DIGEST, len(BLOB))
    first, second = parts.begin(100), parts.begin(500)
    assert await first.append(BLOB[100:150]) and await first.append(BLOB[150:200])
    assert await second.append(BLOB[500:600])
    parts.close()
    spool.close(DIGEST)
    assert await kept(await Spool(root).open(DIGEST, len(BLOB))) == {100: BLOB[100:200], 500: BLOB[500:600]}


async def test_nobody_else_may_look_at_parts(spool: Spool, root: Path) -> None:
    parts = await spool.open(DIGEST, 10)
    await parts.begin(0).append(b"secret")
    parts.close()
    for place, mode in ((root, 0o700), (root / HEX, 0o700), (root / HEX / "0", 0o600)):
        assert stat.S_IMODE(place.stat().st_mode) == mode
        assert place.stat().st_uid == os.geteuid()


@pytest.mark.parametrize(
    ("laid", "found"),
    [
        ({"_0": BLOB[:100], "_50": BLOB[50:200]}, {0: BLOB[:50], 50: BLOB[50:200]}),
        ({"_0": BLOB[:300], "_50": BLOB[50:200]}, {0: BLOB[:300]}),
        ({"_0": b"", "_7": BLOB[7:9]}, {7: BLOB[7:9]}),
        ({"_1000": BLOB[1000:] + b"too long"}, {1000: BLOB[1000:]}),
        ({"_5000": b"behind its end", "_1024": b"at its end"}, {}),
        ({"_x": b"no number", "_-3": b"", "_٣": b"no digit of ours", "_1e2": b"?"}, {}),
    ],
)
async def test_parts_are_made_to_fit(
    spool: Spool, root: Path, laid: dict[str, bytes], found: dict[int, bytes]
) -> None:
    lay(root, **laid)
    assert await kept(await spool.open(DIGEST, len(BLOB))) == found


async def test_a_blob_of_another_size_has_no_more_than_its_size(spool: Spool, root: Path) -> None:
    lay(root, _0=BLOB, _2000=b"?")
    assert await kept(await spool.open(DIGEST, 10)) == {0: BLOB[:10]}


@pytest.mark.parametrize("kind", ["directory", "link", "file in place of the directory"])
async def test_what_cannot_be_used_is_passed_over(
    spool: Spool, root: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "file in place of the directory":
        root.mkdir(parents=True)
        (root / HEX).write_bytes(b"?")
    else:
        lay(root, _0=BLOB[:100])
        odd = root / HEX / "200"
        odd.mkdir() if kind == "directory" else odd.symlink_to("/etc/passwd")
    assert await kept(await spool.open(DIGEST, len(BLOB))) == {}
    assert "cannot be used" in caplog.text


async def test_the_second_to_open_a_blob_finds_and_keeps_nothing(spool: Spool, root: Path) -> None:
    lay(root, _0=BLOB[:100])
    first, second = await asyncio.gather(spool.open(DIGEST, len(BLOB)), spool.open(DIGEST, len(BLOB)))
    assert (first.writable, second.writable) == (True, False)
    assert second.at(0) is None
    spool.close(DIGEST)
    third = await spool.open(DIGEST, len(BLOB))
    assert not third.writable  # one of them is still at it
    spool.close(DIGEST)
    spool.close(DIGEST)
    again = await spool.open(DIGEST, len(BLOB))
    assert again.writable
    again.close()
    first.close()


async def test_what_is_open_is_not_dropped_nor_tidied(spool: Spool, root: Path) -> None:
    lay(root, _0=BLOB[:100])
    parts = await spool.open(DIGEST, len(BLOB))
    await spool.drop(DIGEST)
    assert await spool.tidy(-10)  # something is left
    assert await kept(parts) == {0: BLOB[:100]}
    spool.close(DIGEST)
    await spool.drop(DIGEST)
    await spool.drop(DIGEST)
    assert not (root / HEX).exists()


async def test_what_nobody_adds_to_is_tidied(spool: Spool, root: Path) -> None:
    lay(root, _0=BLOB[:100])
    assert await spool.tidy(600)
    for place in (root / HEX / "0", root / HEX):
        os.utime(place, (1, 1))
    assert not await spool.tidy(600)
    assert not (root / HEX).exists()
    assert not await Spool(root.parent / "never made").tidy(600)


async def test_a_part_is_opened_after_it_is_dropped_or_before_but_not_meanwhile(
    spool: Spool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(root, _0=BLOB[:100])
    begun, go_on = threading.Event(), threading.Event()
    remove = spool_module._removed

    def slowly(directory: Path) -> None:
        begun.set()
        assert go_on.wait(10)
        remove(directory)

    monkeypatch.setattr(spool_module, "_removed", slowly)
    dropping = asyncio.create_task(spool.drop(DIGEST))
    await asyncio.to_thread(begun.wait, 10)
    opening = asyncio.create_task(spool.open(DIGEST, len(BLOB)))
    await asyncio.sleep(0)
    go_on.set()
    parts = await opening
    await dropping
    await parts.begin(0).append(BLOB[:5])
    assert (root / HEX / "0").read_bytes() == BLOB[:5]
    parts.close()


async def test_what_cannot_be_removed_fails_nobody(
    spool: Spool, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(5, "input/output error", str(path))

    lay(root, _0=BLOB)
    monkeypatch.setattr("sampan.host.storage.spool.shutil.rmtree", refuse)
    await spool.drop(DIGEST)
    assert "cannot be removed" in caplog.text


async def test_a_reader_waits_for_what_comes_and_ends_with_the_part(spool: Spool) -> None:
    parts = await spool.open(DIGEST, len(BLOB))
    part = parts.begin(10)
    reading = asyncio.create_task(part.read(10))
    await asyncio.sleep(0)
    assert parts.at(10) is part and parts.at(9) is None and parts.free(0) == 10
    await part.append(BLOB[10:20])
    assert await reading == BLOB[10:20]
    reading = asyncio.create_task(part.read(20))
    await asyncio.sleep(0)
    parts.end(part)
    assert await reading == b"" and parts.at(20) is None
    assert not await part.append(b"too late")
    parts.close()


async def test_a_reader_has_patience_and_then_ends_the_part(spool: Spool) -> None:
    parts = await spool.open(DIGEST, len(BLOB))
    part = parts.begin(0, 500)
    assert await part.read(0, 0.001) == b""
    assert not part.growing and not await part.append(b"too late")
    instead = parts.begin(0)  # whoever waited takes its place
    assert await instead.append(BLOB[:3])
    parts.end(part)  # and the other's end does not touch it
    assert parts.at(3) is instead
    parts.end(instead)
    assert await kept(parts) == {0: BLOB[:3]}


async def test_what_is_written_when_a_part_is_ended_is_not_of_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was tired of waiting goes on from where the part ended then."""
    go_on = threading.Event()
    write = spool_module._written

    def slowly(fd: int, data: bytes, offset: int) -> None:
        assert go_on.wait(10)
        write(fd, data, offset)

    monkeypatch.setattr(spool_module, "_written", slowly)
    parts = await spool.open(DIGEST, len(BLOB))
    part = parts.begin(0)
    writing = asyncio.create_task(part.append(BLOB[:100]))
    assert await part.read(0, 0.001) == b""
    go_on.set()
    assert not await writing
    assert (part.end, parts.at(0)) == (0, None)
    parts.close()


async def test_a_part_that_had_nothing_is_none(spool: Spool, root: Path) -> None:
    parts = await spool.open(DIGEST, len(BLOB))
    parts.end(parts.begin(500, 600))
    assert parts.free(0) == len(BLOB) and parts.gap(0) == (0, len(BLOB))
    parts.close()
    assert not root.exists()


async def test_gaps_are_what_nobody_has_or_fetches(spool: Spool, root: Path) -> None:
    lay(root, _100=BLOB[100:200])
    parts = await spool.open(DIGEST, 1000)
    growing = parts.begin(300, 400)
    assert [parts.gap(at) for at in (0, 100, 250, 300, 399, 400)] == [
        (0, 100), (200, 300), (250, 300), (400, 1000), (400, 1000), (400, 1000),
    ]  # fmt: skip
    await growing.append(BLOB[300:310])
    parts.end(growing)
    assert parts.gap(300) == (310, 1000)
    assert parts.gap(1000) == parts.gap(2000) == (1000, 1000)
    parts.close()


async def test_a_cancelled_writer_leaves_what_it_wrote_and_nothing_open(
    spool: Spool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    write = spool_module._written

    def slowly(fd: int, data: bytes, offset: int) -> None:
        assert go_on.wait(10)
        write(fd, data, offset)

    monkeypatch.setattr(spool_module, "_written", slowly)
    parts = await spool.open(DIGEST, len(BLOB))
    part = parts.begin(0)
    writing = asyncio.create_task(part.append(BLOB))
    await asyncio.sleep(0.01)
    writing.cancel()
    parts.close()  # while a thread still writes
    assert part._fd >= 0
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert part._fd == -1
    assert (root / HEX / "0").read_bytes() == BLOB


async def test_a_cancelled_open_leaves_nothing_open(
    spool: Spool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(root, _0=BLOB)
    go_on = threading.Event()
    find = spool_module._found

    def slowly(directory: Path, size: int) -> list[Part]:
        assert go_on.wait(10)
        return find(directory, size)

    monkeypatch.setattr(spool_module, "_found", slowly)
    opening = asyncio.create_task(spool.open(DIGEST, len(BLOB)))
    await asyncio.sleep(0.01)
    opening.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    again = await spool.open(DIGEST, len(BLOB))
    assert again.writable
    again.close()


async def test_a_part_that_shrank_ends_where_it_does(spool: Spool, root: Path) -> None:
    lay(root, _0=BLOB[:100])
    parts = await spool.open(DIGEST, len(BLOB))
    (root / HEX / "0").write_bytes(BLOB[:40])
    part = parts.at(0)
    assert part is not None
    assert await part.read(0) == BLOB[:40]
    assert await part.read(40) == b"" and parts.at(40) is None and parts.gap(0) == (40, len(BLOB))
    parts.close()


async def test_without_room_for_the_layer_nothing_is_kept(
    spool: Spool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "UNPACKED", 1 << 60)
    parts = await spool.open(DIGEST, len(BLOB))
    part = parts.begin(0)
    with pytest.raises(OSError, match="No space left"):
        await part.append(BLOB)
    assert (part.start, part.end) == (0, 0) and not list((root / HEX).iterdir())
    parts.close()


async def test_what_is_kept_never_takes_the_reserve(
    spool: Spool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = await spool.open(DIGEST, len(BLOB))
    part = parts.begin(0)
    assert await part.append(BLOB[:40])
    monkeypatch.setattr(spool_module, "reserve", lambda _: (1 << 62, 0))
    with pytest.raises(OSError, match="No space left"):
        await part.append(BLOB[40:])
    assert part.end == 40 and (root / HEX / "0").stat().st_size == 40
    parts.close()
