"""Tests of host.syscalls."""

import errno
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.host import syscalls
from sampan.host.threads import in_own_thread


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "root/file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "root/escape").symlink_to("../secret")
    (tmp_path / "root/absolute").symlink_to("/file")
    return tmp_path


def read(fd: int) -> str:
    with os.fdopen(fd) as file:
        return file.read()


@pytest.mark.parametrize(
    ("path", "resolve", "outcome"),
    [
        ("file", syscalls.RESOLVE_BENEATH, "inside"),
        ("sub/../file", syscalls.RESOLVE_BENEATH, "inside"),
        ("../secret", syscalls.RESOLVE_BENEATH, errno.EXDEV),
        ("escape", syscalls.RESOLVE_BENEATH, errno.EXDEV),
        ("absolute", syscalls.RESOLVE_BENEATH, errno.EXDEV),
        ("absolute", syscalls.RESOLVE_IN_ROOT, "inside"),
        ("../../file", syscalls.RESOLVE_IN_ROOT, "inside"),
        ("escape", syscalls.RESOLVE_IN_ROOT, errno.ENOENT),
        ("absolute", syscalls.RESOLVE_NO_SYMLINKS, errno.ELOOP),
        ("missing", syscalls.RESOLVE_IN_ROOT, errno.ENOENT),
    ],
)
def test_openat2_stays_where_it_is_told(tree: Path, path: str, resolve: int, outcome: str | int) -> None:
    root = os.open(tree / "root", os.O_PATH)
    try:
        if isinstance(outcome, str):
            fd = syscalls.openat2(root, path, os.O_RDONLY, resolve=resolve)
            assert not os.get_inheritable(fd)
            assert read(fd) == outcome
        else:
            with pytest.raises(OSError) as raised:
                syscalls.openat2(root, path, os.O_RDONLY, resolve=resolve)
            assert raised.value.errno == outcome
            assert raised.value.filename == path
    finally:
        os.close(root)


def test_openat2_creates_with_a_mode_and_refuses_a_null_byte(tree: Path) -> None:
    root = os.open(tree / "root", os.O_PATH)
    try:
        os.close(syscalls.openat2(root, "new", os.O_CREAT | os.O_WRONLY, 0o600))
        assert (tree / "root/new").stat().st_mode & 0o777 == 0o600
        with pytest.raises(ValueError, match="null"):
            syscalls.openat2(root, b"fi\0le", os.O_RDONLY)
    finally:
        os.close(root)


def test_a_failed_call_names_its_subject() -> None:
    with pytest.raises(OSError) as raised:
        syscalls.umount("/no/such/place")
    assert raised.value.errno in (errno.ENOENT, errno.EPERM)
    assert raised.value.filename == "/no/such/place"


def test_the_module_is_light_enough_for_a_child() -> None:
    code = "import sys, sampan.host.syscalls; print([m for m in ('asyncio', 'pathlib') if m in sys.modules])"
    sources = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    output = subprocess.check_output([sys.executable, "-S", "-c", code], env=sources, text=True)
    assert output == "[]\n"


@pytest.mark.root
async def test_mounts_come_and_go_in_a_thread_of_their_own(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").touch()

    def work() -> None:
        syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount(source, target, "", syscalls.MS_BIND)
        assert (target / "file").exists()
        syscalls.umount(target)
        syscalls.mount("tmpfs", target, "tmpfs", syscalls.MS_NOSUID, "size=1m")
        assert not (target / "file").exists()
        syscalls.umount(target, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        detached = syscalls.open_tree(
            syscalls.AT_FDCWD, str(source), syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
        )
        syscalls.mount_setattr(detached, set_attr=syscalls.MOUNT_ATTR_RDONLY)
        syscalls.move_mount(detached, target)
        os.close(detached)
        with pytest.raises(OSError, match="Read-only"):
            (target / "other").touch()
        syscalls.umount(target)

    await in_own_thread(work)
    assert not any(target.iterdir())


@pytest.mark.root
async def test_a_file_system_is_configured_by_calls(tmp_path: Path) -> None:
    def work() -> None:
        syscalls.unshare(syscalls.CLONE_FS | syscalls.CLONE_NEWNS)
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        context = syscalls.fsopen("tmpfs")
        syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "size", "1m")
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        mounted = syscalls.fsmount(context, syscalls.MOUNT_ATTR_NOEXEC)
        syscalls.move_mount(mounted, tmp_path)
        assert os.statvfs(tmp_path).f_flag & os.ST_NOEXEC
        os.close(context)
        os.close(mounted)

    await in_own_thread(work)


@pytest.mark.root
async def test_capabilities_are_given_up_for_good() -> None:
    def work() -> dict[str, str]:
        syscalls.keep_capabilities([syscalls.CAP_CHOWN, syscalls.CAP_SETFCAP])
        syscalls.no_new_privileges()
        lines = Path("/proc/thread-self/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    status = await in_own_thread(work)
    wanted = f"{1 << 31 | 1:016x}"
    assert status["CapEff"] == status["CapPrm"] == status["CapBnd"] == wanted
    assert status["CapInh"] == status["CapAmb"] == "0" * 16
    assert status["NoNewPrivs"] == "1"


def test_a_program_is_started_in_a_directory_and_an_environment(tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_CREAT | os.O_RDWR)
    try:
        pid = syscalls.posix_spawn(["sh", "-c", "pwd; echo $A"], {"A": "b c"}, [(out, 1)], str(tmp_path))
        assert os.waitpid(pid, 0)[1] == 0
        assert os.pread(out, 1000, 0).decode() == f"{tmp_path}\nb c\n"
    finally:
        os.close(out)


def test_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        syscalls.posix_spawn(["no-such-program"], {}, [])


def test_options_of_a_mount_that_the_kernel_would_cut_off_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mount: ") as caught:
        syscalls.mount("x", tmp_path, "tmpfs", 0, "size=4096," + "x" * os.sysconf("SC_PAGESIZE"))
    assert caught.value.errno == errno.E2BIG and caught.value.filename == str(tmp_path)


@pytest.mark.parametrize(
    ("machine", "number"),
    [("x86_64", 117), ("aarch64", 147), ("riscv64", 147), ("ppc64le", 164), ("s390x", 208)],
)
def test_setresuid_has_the_number_of_the_machine(
    machine: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux, arch/*/kernel/syscalls/syscall.tbl and include/uapi/asm-generic/unistd.h."""
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*real[:4], machine)))
    spec = importlib.util.spec_from_file_location("other_machine", syscalls.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert number == module._SETRESUID
