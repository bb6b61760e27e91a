"""What a CDI device is: its name, the edits to a container that give it, and which of several of one name counts.

The structs are the format of the container-device-interface SPEC.md, by its names. Reading files is `wire.cdi`,
what edits do to a config.json `spec.cdi`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from sampan.model.errors import Invalid, NotFound

_VENDOR = r"[A-Za-z](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?"
_CLASS = r"[A-Za-z](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DEVICE = r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]{0,1021}[A-Za-z0-9])?"
_KIND = re.compile(f"{_VENDOR}/{_CLASS}")
_NAME = re.compile(_DEVICE)
_QUALIFIED = re.compile(f"{_VENDOR}/{_CLASS}={_DEVICE}")
_SHOWN_PROBLEMS = 5

Id = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
Number = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A device file. `type` is b, c, u (c) or p (a FIFO); what is left out is read from the file on the host."""

    path: str
    host_path: str = ""
    type: str = ""
    major: Number | None = None
    minor: Number | None = None
    file_mode: Annotated[int, Meta(ge=0, le=0o7777)] | None = None
    permissions: str = ""
    uid: Id | None = None
    gid: Id | None = None


class Mount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A mount; without a type, or with options bind or rbind, a file or directory of the host."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Hook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A program of the host that the OCI runtime runs at `hook_name`. `timeout` in seconds."""

    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: Annotated[int, Meta(ge=1, le=86400)] | None = None


class NetDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A network interface of the host that is to be moved into the container."""

    host_interface_name: str
    name: str


class Rdt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of Resource Director Technology (runtime-spec config-linux.md#intelrdt)."""

    clos_id: str = msgspec.field(default="", name="closID")
    l3_cache_schema: str = msgspec.field(default="", name="l3CacheSchema")
    mem_bw_schema: str = msgspec.field(default="", name="memBwSchema")
    schemata: tuple[str, ...] = ()
    enable_monitoring: bool = msgspec.field(default=False, name="enableMonitoring")
    # Until CDI 1.0; no OCI runtime does anything about them.
    enable_cmt: bool = msgspec.field(default=False, name="enableCMT")
    enable_mbm: bool = msgspec.field(default=False, name="enableMBM")


class Edits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Changes to a container's config.json."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[Node, ...] = ()
    net_devices: tuple[NetDevice, ...] = ()
    hooks: tuple[Hook, ...] = ()
    mounts: tuple[Mount, ...] = ()
    intel_rdt: Rdt | None = None
    additional_gids: tuple[Id, ...] = ()


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One device of a file, and what it takes to have it."""

    name: str
    annotations: dict[str, str] = {}
    container_edits: Edits = Edits()


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One CDI file. `container_edits` are made if any of its devices is asked for."""

    cdi_version: str
    kind: str
    devices: tuple[Device, ...]
    annotations: dict[str, str] = {}
    container_edits: Edits = Edits()


@dataclass(frozen=True, slots=True)
class Source:
    """Where a spec was found. Of two devices of one name the one of the higher `priority` counts."""

    path: str
    priority: int
    spec: Spec


@dataclass(frozen=True, slots=True)
class Given:
    """Edits to make, and the file that asks for them."""

    origin: str
    edits: Edits


class Index:
    """The devices of all files, and what was wrong with files (`problems`: a sentence each)."""

    def __init__(self, sources: Iterable[Source], problems: Iterable[str] = ()) -> None:
        self._devices: dict[str, list[tuple[Source, Device]]] = {}
        self._problems = tuple(problems)
        for source in sources:
            for device in source.spec.devices:
                self._add(f"{source.spec.kind}={device.name}", source, device)

    def _add(self, name: str, source: Source, device: Device) -> None:
        known = self._devices.setdefault(name, [])
        if known and known[0][0].priority < source.priority:
            known.clear()
        if not known or known[0][0].priority == source.priority:
            known.append((source, device))

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """Every device, and the files that it comes from: more than one is a conflict."""
        return {name: tuple(source.path for source, _ in found) for name, found in self._devices.items()}

    def resolve(self, names: Sequence[str], directories: Sequence[str]) -> tuple[Given, ...]:
        """The edits of these devices in order, each file's own before those of its first device. Raises NotFound
        naming device, `directories` and damaged files; Invalid where two files of one directory both have a device."""
        given: list[Given] = []
        seen: set[str] = set()
        for name in names:
            source, device = self._one(name, directories)
            if source.path not in seen:
                seen.add(source.path)
                given.append(Given(source.path, source.spec.container_edits))
            given.append(Given(source.path, device.container_edits))
        return tuple(given)

    def _one(self, name: str, directories: Sequence[str]) -> tuple[Source, Device]:
        found = self._devices.get(name, [])
        if len(found) == 1:
            return found[0]
        if found:
            paths = " and ".join(source.path for source, _ in found)
            raise Invalid(f"CDI device {name} is ambiguous: {paths} both have it, with the same priority")
        kind = name.partition("=")[0]
        known = sorted(other.partition("=")[2] for other in self._devices if other.startswith(f"{kind}="))
        of_kind = f"of {kind} there is {', '.join(known[:10])}" if known else f"nothing is known of {kind}"
        where = ", ".join(directories) or "no directory: runtime.cdi_dirs is empty"
        damaged = "".join(f"; {problem}" for problem in self._problems[:_SHOWN_PROBLEMS])
        raise NotFound(f"CDI device {name} is not in {where} ({of_kind}){damaged}")


def qualified(name: str) -> bool:
    """Whether this is a device's full name, `vendor.com/class=name`."""
    return _QUALIFIED.fullmatch(name) is not None


def is_kind(kind: str) -> bool:
    """Whether this is `vendor.com/class`."""
    return _KIND.fullmatch(kind) is not None


def is_device(name: str) -> bool:
    """Whether this is the last part of a device's full name."""
    return _NAME.fullmatch(name) is not None
