"""Seccomp profiles → the OCI `linux.seccomp` object of one container (runtime-spec config-linux.md#seccomp).

Two sources, one form: `seccomp.json`, our RuntimeDefault, and files of the node that a Localhost profile
names. The form is the OCI's plus what container engines add to it: `archMap`, and per rule
`includes`/`excludes` by capability, architecture and kernel.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from sampan.model.errors import Invalid

LIMIT = 1 << 20  # bytes of a profile

ACTIONS = frozenset(
    f"SCMP_ACT_{name}"
    for name in "KILL KILL_PROCESS KILL_THREAD TRAP ERRNO TRACE ALLOW LOG NOTIFY".split()  # noqa: SIM905 - reads better
)
WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")  # the only ones that may carry a number
OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
ARCHITECTURES = {  # uname -m → (the name in `includes`, the name in archMap)
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
}
FLAGS = frozenset(
    f"SECCOMP_FILTER_FLAG_{name}"
    for name in ("TSYNC", "LOG", "SPEC_ALLOW", "NEW_LISTENER", "WAIT_KILLABLE_RECV")
)
_SYSCALL = re.compile(r"[a-z0-9_]{1,64}", re.IGNORECASE)
_ARCH = re.compile(r"SCMP_ARCH_[A-Z0-9_]{1,32}")
_KERNEL = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?:\.[0-9]+)?")


class Condition(msgspec.Struct, frozen=True):
    """When a rule counts, or does not."""

    arches: tuple[str, ...] = ()
    caps: tuple[str, ...] = ()
    minKernel: str = ""


class Argument(msgspec.Struct, frozen=True):
    index: int
    value: int
    op: str
    valueTwo: int = 0


class Rule(msgspec.Struct, frozen=True):
    """`args` must all hold. A rule of an old form names one syscall in `name`."""

    action: str
    names: tuple[str, ...] = ()
    name: str = ""
    args: tuple[Argument, ...] | None = None
    errnoRet: int | None = None
    includes: Condition | None = None
    excludes: Condition | None = None


class ArchMap(msgspec.Struct, frozen=True):
    architecture: str
    subArchitectures: tuple[str, ...] | None = None


class Profile(msgspec.Struct, frozen=True):
    """A profile file. `deniedErrno` is ours: what every syscall gets that a rule with unmet conditions would
    allow."""

    defaultAction: str
    defaultErrnoRet: int | None = None
    architectures: tuple[str, ...] | None = None
    archMap: tuple[ArchMap, ...] | None = None
    flags: tuple[str, ...] | None = None
    listenerPath: str = ""
    listenerMetadata: str = ""
    syscalls: tuple[Rule, ...] | None = None
    deniedErrno: int | None = None


# Read with the module: nothing waits for a file later.
_RUNTIME_DEFAULT = msgspec.json.decode(
    files("sampan.spec").joinpath("seccomp.json").read_bytes(), type=Profile
)


def default(capabilities: Collection[str], architecture: str) -> dict[str, Any]:
    """RuntimeDefault for a process bounded by these capabilities on this architecture (`uname -m`).

    A syscall that we know and refuse gives EPERM; one that we do not know, because it is newer, gives ENOSYS,
    which is what lets a C library fall back to an older one.
    """
    cached = _default(frozenset(capabilities), architecture)
    rules = [{**rule, "names": [*rule["names"]]} for rule in cached["syscalls"]]
    return {**cached, "syscalls": rules}


def fingerprint(seccomp: Mapping[str, Any]) -> str:
    """What names the compiled form of a `linux.seccomp` object, on one host and one OCI runtime."""
    return hashlib.sha256(msgspec.json.encode(seccomp)).hexdigest()


@cache
def _default(capabilities: frozenset[str], architecture: str) -> dict[str, Any]:
    """Few combinations exist on a node."""
    return _resolve(_RUNTIME_DEFAULT, capabilities, architecture, (5, 10))


def localhost(
    profile: bytes, capabilities: Collection[str], architecture: str, kernel: tuple[int, int]
) -> dict[str, Any]:
    """A profile of the node. Raises Invalid for one that could not be enforced as it is written."""
    if len(profile) > LIMIT:
        raise Invalid(f"it has {len(profile)} bytes; the limit is {LIMIT}")
    try:
        parsed = msgspec.json.decode(profile, type=Profile)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Invalid(f"it is not a seccomp profile: {error}") from None
    _check(parsed)
    return _resolve(parsed, frozenset(capabilities), architecture, kernel)


def _resolve(
    profile: Profile, capabilities: frozenset[str], architecture: str, kernel: tuple[int, int]
) -> dict[str, Any]:
    """The profile without conditions."""
    here = ARCHITECTURES.get(architecture, (architecture, ""))[0]
    counting: list[Rule] = []
    unmet: list[Rule] = []
    for rule in profile.syscalls or ():
        met = _meets(rule, capabilities, here, kernel)
        (counting if met else unmet).append(rule)
    syscalls = [_rule(rule) for rule in counting]
    if profile.deniedErrno is not None:
        syscalls += _denied(profile.deniedErrno, counting, unmet)
    result: dict[str, Any] = {"defaultAction": profile.defaultAction, "syscalls": syscalls}
    if profile.defaultErrnoRet is not None and profile.defaultAction in WITH_ERRNO:
        result["defaultErrnoRet"] = profile.defaultErrnoRet
    if architectures := _architectures(profile, architecture):
        result["architectures"] = architectures
    for name in ("flags", "listenerPath", "listenerMetadata"):
        if value := getattr(profile, name):
            result[name] = value
    return result


def _meets(rule: Rule, capabilities: frozenset[str], architecture: str, kernel: tuple[int, int]) -> bool:
    """All of `includes`, none of `excludes`."""
    if (wanted := rule.includes) is not None:
        if wanted.arches and architecture not in wanted.arches:
            return False
        if not capabilities.issuperset(wanted.caps):
            return False
        if wanted.minKernel and kernel < _kernel(wanted.minKernel):
            return False
    if (barred := rule.excludes) is not None:
        if architecture in barred.arches or not capabilities.isdisjoint(barred.caps):
            return False
        if barred.minKernel and kernel >= _kernel(barred.minKernel):
            return False
    return True


def _rule(rule: Rule) -> dict[str, Any]:
    result: dict[str, Any] = {"names": [*_names(rule)], "action": rule.action}
    if rule.args:
        result["args"] = [msgspec.to_builtins(argument) for argument in rule.args]
    if rule.errnoRet is not None and rule.action in WITH_ERRNO:
        result["errnoRet"] = rule.errnoRet
    return result


def _denied(errno: int, counting: Iterable[Rule], unmet: Iterable[Rule]) -> list[dict[str, Any]]:
    """One rule for what only another capability would have allowed."""
    settled = {name for rule in counting for name in _names(rule)}
    names = sorted(
        {name for rule in unmet if rule.action == "SCMP_ACT_ALLOW" for name in _names(rule)} - settled
    )
    return [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno}] if names else []


def _names(rule: Rule) -> tuple[str, ...]:
    return rule.names or (rule.name,)


def _architectures(profile: Profile, architecture: str) -> list[str]:
    if profile.architectures:
        return list(profile.architectures)
    native = ARCHITECTURES.get(architecture, ("", ""))[1]
    for entry in profile.archMap or ():
        if entry.architecture == native:
            return [native, *(entry.subArchitectures or ())]
    return []


def _kernel(version: str) -> tuple[int, int]:
    match = _KERNEL.fullmatch(version)
    if match is None:
        raise Invalid(f"minKernel {version[:32]!r} is not a kernel version")
    return int(match[1]), int(match[2])


def _check(profile: Profile) -> None:
    """What the OCI runtime would refuse with fewer words, or take for something else."""
    architectures = [*(profile.architectures or ())]
    architectures += [sub for entry in profile.archMap or () for sub in entry.subArchitectures or ()]
    for bad in (name for name in architectures if not _ARCH.fullmatch(name)):
        raise Invalid(f"{bad[:64]!r} is not an architecture of seccomp")
    for bad in (name for name in profile.flags or () if name not in FLAGS):
        raise Invalid(f"{bad[:64]!r} is not a flag of seccomp")
    if profile.defaultAction not in ACTIONS:
        raise Invalid(f"defaultAction {profile.defaultAction[:64]!r} is unknown")
    if profile.deniedErrno is not None:
        raise Invalid("deniedErrno is not for files of the node")
    if profile.listenerPath and not profile.listenerPath.startswith("/"):
        raise Invalid("listenerPath is not absolute")
    for number, rule in enumerate(profile.syscalls or ()):
        _check_rule(rule, f"syscalls[{number}]")


def _check_rule(rule: Rule, where: str) -> None:
    if rule.action not in ACTIONS:
        raise Invalid(f"{where}.action {rule.action[:64]!r} is unknown")
    for bad in (name for name in _names(rule) if not _SYSCALL.fullmatch(name)):
        raise Invalid(f"{where}: {bad[:64]!r} is not the name of a syscall")
    for argument in rule.args or ():
        if argument.op not in OPERATORS or not 0 <= argument.index <= 5:
            raise Invalid(
                f"{where}.args: op {argument.op[:64]!r} on argument {argument.index} is not possible"
            )
        if not (0 <= argument.value < 1 << 64 and 0 <= argument.valueTwo < 1 << 64):
            raise Invalid(f"{where}.args: a value is not an unsigned 64-bit number")
