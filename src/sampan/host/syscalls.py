"""System calls that Python 3.11 has no function for, by ctypes; errno becomes OSError, and that is all.

The only file that uses ctypes. Imports nothing else of ours, so that stand-alone children may use it.
Namespace, capability and prctl calls act on the calling **thread** (man 2 of each).
"""

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache

# mount(2)
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
# umount2(2)
MNT_FORCE = 0x1
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8
# clone(2), setns(2), unshare(2)
CLONE_FS = 0x200
CLONE_FILES = 0x400
CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
# openat2(2)
RESOLVE_NO_XDEV = 0x1
RESOLVE_NO_MAGICLINKS = 0x2
RESOLVE_NO_SYMLINKS = 0x4
RESOLVE_BENEATH = 0x8
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20
# open_tree(2), move_mount(2), mount_setattr(2), fsopen(2)
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 0x1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000
FSOPEN_CLOEXEC = 0x1
FSMOUNT_CLOEXEC = 0x1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
# prctl(2)
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
# capabilities(7)
CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_FOWNER = 3
CAP_FSETID = 4
CAP_SETFCAP = 31
CAP_SYS_CHROOT = 18
CAP_SYS_ADMIN = 21
CAP_MKNOD = 27

# Numbers above 423 are the same on every architecture (linux/include/uapi/asm-generic/unistd.h).
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 436, 437, 442
_SETRESUID = {"x86_64": 117, "ppc64le": 164, "s390x": 208}.get(os.uname().machine, 147)
_KEYCTL = {"x86_64": 250, "ppc64le": 271, "s390x": 280}.get(os.uname().machine, 219)
_KEYCTL_JOIN_SESSION_KEYRING = 1

_libc = ctypes.CDLL(None, use_errno=True)  # functions are looked up when first called


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def mount(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    fstype: str = "",
    flags: int = 0,
    data: str = "",
) -> None:
    """mount(2). `source` and `data` may be empty where the kernel ignores them. E2BIG for more `data` than a page."""
    options = _c(data)
    if len(options) >= os.sysconf("SC_PAGESIZE"):  # the kernel would cut it off and mount something else
        raise OSError(errno.E2BIG, f"mount: {os.strerror(errno.E2BIG)}", os.fspath(target))
    kind = _c(fstype) or None
    _path_call("mount", target, _c(source), _c(target), kind, ctypes.c_ulong(flags), options or None)


def umount(target: str | os.PathLike[str], flags: int = UMOUNT_NOFOLLOW) -> None:
    """umount2(2). Never follows a symlink unless told to."""
    _path_call("umount2", target, _c(target), ctypes.c_int(flags))


def setns(fd: int, kind: int = 0) -> None:
    """setns(2): move the calling thread into the namespace behind `fd`; `kind` is a CLONE_NEW*, 0 for any."""
    _path_call("setns", f"fd {fd}", ctypes.c_int(fd), ctypes.c_int(kind))


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own. unshare(2)."""
    _path_call("unshare", f"flags {flags:#x}", ctypes.c_int(flags))


def pivot_root(new_root: str | os.PathLike[str], put_old: str | os.PathLike[str]) -> None:
    """pivot_root(2)."""
    _path_call("pivot_root", new_root, _c(new_root), _c(put_old))


def syncfs(fd: int) -> None:
    """Write everything of the file system that `fd` lies on to disk. syncfs(2)."""
    _path_call("syncfs", f"fd {fd}", ctypes.c_int(fd))


def openat2(
    dirfd: int,
    path: str | bytes | os.PathLike[str],
    flags: int,
    mode: int = 0,
    resolve: int = RESOLVE_IN_ROOT,
) -> int:
    """openat2(2): open `path` below `dirfd` under the RESOLVE_* rules. The descriptor is close-on-exec."""
    raw = _c(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return _syscall(_OPENAT2, path, ctypes.c_int(dirfd), raw, ctypes.byref(how), ctypes.c_size_t(24))


def open_tree(
    dirfd: int, path: str | os.PathLike[str], flags: int = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
) -> int:
    """open_tree(2): a descriptor for a mount or, with OPEN_TREE_CLONE, for a detached copy of it."""
    return _syscall(_OPEN_TREE, path, ctypes.c_int(dirfd), _c(path), ctypes.c_uint(flags))


def move_mount(from_fd: int, target: str | os.PathLike[str], to_dirfd: int = AT_FDCWD) -> None:
    """move_mount(2): attach the detached mount `from_fd` at `target`; "" attaches it on `to_dirfd` itself."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if os.fspath(target) else MOVE_MOUNT_T_EMPTY_PATH)
    _syscall(
        _MOVE_MOUNT,
        target,
        ctypes.c_int(from_fd),
        b"",
        ctypes.c_int(to_dirfd),
        _c(target),
        ctypes.c_uint(flags),
    )


def mount_setattr(
    fd: int,
    *,
    set_attr: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    """mount_setattr(2) on the mount that `fd` names: MOUNT_ATTR_* to set and clear, MS_PRIVATE etc."""
    attr = _MountAttr(set_attr, clear, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _syscall(
        _MOUNT_SETATTR,
        f"fd {fd}",
        ctypes.c_int(fd),
        b"",
        ctypes.c_uint(flags),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )


def fsopen(fstype: str) -> int:
    """fsopen(2): begin to configure a new file system instance."""
    return _syscall(_FSOPEN, fstype, _c(fstype), ctypes.c_uint(FSOPEN_CLOEXEC))


def fsconfig(fd: int, command: int, key: str = "", value: str = "") -> None:
    """fsconfig(2): a string value (FSCONFIG_SET_STRING), a flag, or a command (FSCONFIG_CMD_CREATE)."""
    _syscall(
        _FSCONFIG,
        f"{key}={value}" if key else "create",
        ctypes.c_int(fd),
        ctypes.c_uint(command),
        _c(key) or None,
        _c(value) if command == FSCONFIG_SET_STRING else None,
        ctypes.c_int(0),
    )


def fsmount(fd: int, attributes: int = 0) -> int:
    """fsmount(2): a descriptor of the detached mount of a configured instance, for `move_mount`."""
    return _syscall(
        _FSMOUNT, f"fd {fd}", ctypes.c_int(fd), ctypes.c_uint(FSMOUNT_CLOEXEC), ctypes.c_uint(attributes)
    )


def close_on_exec_from(lowest: int) -> None:
    """Mark every descriptor from `lowest` up close-on-exec. close_range(2), with its flag of Linux 5.11."""
    try:
        _syscall(_CLOSE_RANGE, "", ctypes.c_uint(lowest), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(4))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - pathlib is heavy for a child
            if int(name) >= lowest:
                with suppress(OSError):  # the listing's own descriptor is closed by now
                    os.set_inheritable(int(name), False)


def posix_spawn(
    argv: Sequence[str], env: Mapping[str, str], duplicates: Sequence[tuple[int, int]], directory: str = ""
) -> int:
    """posix_spawnp(3): start a program in a session of its own, with `duplicates` (ours, the child's) as its
    only descriptors besides those not close-on-exec, in `directory` if given; returns the pid.

    Python's own lacks the working directory. The child starts with no signal blocked, and with the signals
    that Python or its parent ignores at their defaults. Other threads run on meanwhile.
    """
    actions = _opaque()
    _spawn_call("posix_spawn_file_actions_init", argv[0], actions)
    try:
        for source, target in duplicates:
            _spawn_call("posix_spawn_file_actions_adddup2", argv[0], actions, source, target)
        if directory:
            _spawn_call("posix_spawn_file_actions_addchdir_np", argv[0], actions, _c(directory))
        pid = ctypes.c_int()
        words = (ctypes.c_char_p * (len(argv) + 1))(*map(os.fsencode, argv))
        variables = (ctypes.c_char_p * (len(env) + 1))(
            *(_c(f"{name}={value}") for name, value in env.items())
        )
        _spawn_call(
            "posix_spawnp",
            argv[0],
            ctypes.byref(pid),
            words[0],
            actions,
            _spawn_attributes(),
            words,
            variables,
        )
        return pid.value
    finally:
        _libc.posix_spawn_file_actions_destroy(actions)


@cache
def _spawn_attributes() -> "ctypes.Array[ctypes.c_uint64]":
    import signal  # brings enum, which the unpacking child can do without

    attributes, signals, flags = _opaque(), _opaque(), 0x04 | 0x08 | 0x80  # SETSIGDEF, SETSIGMASK, SETSID
    _spawn_call("posix_spawnattr_init", "", attributes)
    _libc.sigemptyset(signals)
    _spawn_call("posix_spawnattr_setsigmask", "", attributes, signals)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        _libc.sigaddset(signals, ctypes.c_int(number))
    _spawn_call("posix_spawnattr_setsigdefault", "", attributes, signals)
    _spawn_call("posix_spawnattr_setflags", "", attributes, ctypes.c_short(flags))
    return attributes


def _opaque() -> "ctypes.Array[ctypes.c_uint64]":
    """Room for a posix_spawn structure: none is larger than 336 bytes (glibc and musl, 64 bit)."""
    return (ctypes.c_uint64 * 64)()


def _spawn_call(name: str, program: str, *args: object) -> None:
    """A call of the posix_spawn family, which return the error instead of setting errno."""
    code: int = getattr(_libc, name)(*args)
    if code:
        raise OSError(code, os.strerror(code), program)


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """prctl(2) with up to two numbers."""
    return _path_call(
        "prctl",
        f"option {option}",
        ctypes.c_int(option),
        *(ctypes.c_ulong(number) for number in (argument, second, 0, 0)),
    )


def keep_capabilities(keep: Iterable[int]) -> None:
    """Reduce the calling thread to these capabilities for good: bounding, ambient and inheritable too."""
    kept = frozenset(keep)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(64):
        if number not in kept:
            try:
                prctl(PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                break  # beyond the last capability that this kernel knows
    sets = (_CapData * 2)()
    for number in kept:
        sets[number // 32].effective |= 1 << number % 32
        sets[number // 32].permitted |= 1 << number % 32
    header = _CapHeader(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    _path_call("capset", "self", ctypes.byref(header), sets)


def new_session_keyring() -> None:
    """keyctl(2): an empty session keyring for the calling thread, and for what it starts."""
    _syscall(_KEYCTL, "session keyring", ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), None)


@contextmanager
def effective_user(uid: int) -> Iterator[None]:
    """Let the calling thread, and no other as seteuid(3) would, act as this user; root before and after."""
    _syscall(_SETRESUID, f"uid {uid}", ctypes.c_int(-1), ctypes.c_uint(uid), ctypes.c_int(-1))
    try:
        yield
    finally:
        _syscall(_SETRESUID, "uid 0", ctypes.c_int(-1), ctypes.c_uint(0), ctypes.c_int(-1))


def no_new_privileges() -> None:
    """From here on no execve of the calling thread gains privileges."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def _c(text: str | bytes | os.PathLike[str]) -> bytes:
    return os.fsencode(text)


def _path_call(name: str, subject: object, *args: object) -> int:
    result: int = getattr(_libc, name)(*args)
    return _checked(result, name, subject)


def _syscall(number: int, subject: object, *args: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *args)
    return _checked(result, "", subject)


def _checked(result: int, name: str, subject: object) -> int:
    if result == -1:
        code = ctypes.get_errno()
        what = os.fsdecode(subject) if isinstance(subject, str | bytes | os.PathLike) else str(subject)
        raise OSError(code, f"{name}: {os.strerror(code)}" if name else os.strerror(code), what)
    return result
