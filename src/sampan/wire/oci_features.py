"""What the tools say of themselves: `crun features` (runtime-spec features.md) and `--version` lines.
Pure."""

import re

import msgspec

_NAME = re.compile(r"([A-Za-z0-9_.-]+) version ")
_VERSION = re.compile(r"version (\d+(?:\.\d+){0,3})", re.ASCII)
_BUILT_WITH = re.compile(r"(?<!\S)\+([A-Z]+)(?!\S)", re.ASCII)


class _Switch(msgspec.Struct, frozen=True):
    enabled: bool | None = None


class _MountExtensions(msgspec.Struct, frozen=True):
    idmap: _Switch = _Switch()


class _Linux(msgspec.Struct, frozen=True, rename="camel"):
    namespaces: tuple[str, ...] = ()
    mount_extensions: _MountExtensions = _MountExtensions()
    seccomp: _Switch = _Switch()
    apparmor: _Switch = _Switch()
    selinux: _Switch = _Switch()


class _Features(msgspec.Struct, frozen=True, rename="camel"):
    mount_options: tuple[str, ...] = ()
    linux: _Linux = _Linux()


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What an OCI runtime can do. `name` is what it calls itself; `told` whether it has listed its features, or they
    are known from its version."""

    name: str = ""
    version: tuple[int, ...] = ()
    told: bool = False
    seccomp: bool = False
    apparmor: bool = False
    selinux: bool = False
    recursive_read_only: bool = False
    idmapped_mounts: bool = False
    user_namespaces: bool = False


def version(output: bytes) -> tuple[int, ...]:
    """The number of `crun version 1.8.1`, `conmon version 2.1.12`, `tini version 0.1.7_catatonit`; () if
    none."""
    found = _VERSION.search(output.decode("utf-8", "replace"))
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def features(version_output: bytes, features_output: bytes | None) -> Features:
    """From a runtime's `--version` and its `features`, None for one without that command: a crun before
    1.8.6, a runc before 1.1.

    Such a crun lists what it was built with beside its version, and understands `rro` from 1.4 on (its NEWS). That
    1.8 maps the ids of mounts was measured; of older ones it is not claimed. Of other runtimes nothing is known
    without their word. Words we cannot read promise nothing.
    """
    number, name = version(version_output), _name(version_output)
    crun = number if name == "crun" and features_output is None else ()
    built_with = frozenset(_BUILT_WITH.findall(version_output.decode("utf-8", "replace")))
    said = _parsed(features_output)
    linux = said.linux
    return Features(
        name=name,
        version=number,
        told=features_output is not None,
        seccomp=_either(linux.seccomp, "SECCOMP" in built_with),
        apparmor=_either(linux.apparmor, "APPARMOR" in built_with),
        selinux=_either(linux.selinux, "SELINUX" in built_with),
        recursive_read_only=crun >= (1, 4) or "rro" in said.mount_options,
        idmapped_mounts=_either(linux.mount_extensions.idmap, crun >= (1, 8)),
        user_namespaces=crun >= (1, 0) or "user" in linux.namespaces,
    )


def _name(output: bytes) -> str:
    found = _NAME.match(output.decode("utf-8", "replace"))
    return found[1] if found else ""


def _parsed(output: bytes | None) -> _Features:
    try:
        return msgspec.json.decode(output or b"{}", type=_Features)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Features()


def _either(switch: _Switch, otherwise: bool) -> bool:
    return otherwise if switch.enabled is None else switch.enabled
