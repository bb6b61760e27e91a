"""What the tools say of themselves: `crun features` (runtime-spec features.md) and `--version` lines.
Pure."""

import re

import msgspec

_VERSION = re.compile(r"version (\d+(?:\.\d+){0,3})", re.ASCII)
_BUILT_WITH = re.compile(r"(?<!\S)\+([A-Z]+)(?!\S)", re.ASCII)


class _Switch(msgspec.Struct, frozen=True):
    enabled: bool | None = None


class _MountExtensions(msgspec.Struct, frozen=True):
    idmap: _Switch = _Switch()


class _Linux(msgspec.Struct, frozen=True, rename="camel"):
    mount_extensions: _MountExtensions = _MountExtensions()


class _Features(msgspec.Struct, frozen=True, rename="camel"):
    mount_options: tuple[str, ...] = ()
    linux: _Linux = _Linux()


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What an OCI runtime can do. `built_with` holds SYSTEMD, SELINUX, APPARMOR, SECCOMP, …"""

    version: tuple[int, ...] = ()
    built_with: frozenset[str] = frozenset()
    recursive_read_only: bool = False
    idmapped_mounts: bool = False


def version(output: bytes) -> tuple[int, ...]:
    """The number of `crun version 1.8.1`, `conmon version 2.1.12`, `tini version 0.1.7_catatonit`; () if
    there is none."""
    found = _VERSION.search(output.decode("utf-8", "replace"))
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def features(version_output: bytes, features_output: bytes | None) -> Features:
    """From crun's `--version` and its `features`, None for a crun older than 1.8.6, which has no such
    command.

    Such a crun understands `rro` from 1.4 on; its idmapped mounts know one mapping only, so they do not count
    (its NEWS).
    """
    number = version(version_output)
    built_with = frozenset(_BUILT_WITH.findall(version_output.decode("utf-8", "replace")))
    if features_output is None:
        rro, idmap = number >= (1, 4), False
    else:
        said = msgspec.json.decode(features_output, type=_Features)
        rro, idmap = "rro" in said.mount_options, said.linux.mount_extensions.idmap.enabled is True
    return Features(version=number, built_with=built_with, recursive_read_only=rro, idmapped_mounts=idmap)
