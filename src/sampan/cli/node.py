"""What `sampan info` shows: conditions, handlers, places and disk use."""

import json
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict

from sampan.api import cri_pb2 as cri
from sampan.cli import tables
from sampan.cli.client import Client


def text(client: Client, as_json: bool) -> str:
    """All of it, for people or as JSON."""
    version = client.call(client.runtime.Version, cri.VersionRequest())
    status = client.call(client.runtime.Status, cri.StatusRequest(verbose=True))
    disk = client.call(client.images.ImageFsInfo, cri.ImageFsInfoRequest())
    if as_json:
        found = {
            "version": _fields(version),
            "status": _fields(status),
            "disk": _fields(disk),
            "config": config_of(status),
        }
        found["status"].pop("info", None)
        return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    return tables.facts([*_versions(version), *_conditions(status), *_places(status), *_disk(disk)])


def config_of(status: cri.StatusResponse) -> dict[str, Any]:
    """The daemon's configuration, as its verbose status has it; empty if it has none."""
    try:
        found = json.loads(status.info["config"])
    except (KeyError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _versions(version: cri.VersionResponse) -> Iterator[tuple[str, str]]:
    yield "daemon", f"{version.runtime_name} {version.runtime_version}"
    yield "CRI", version.runtime_api_version


def _conditions(status: cri.StatusResponse) -> Iterator[tuple[str, str]]:
    for each in status.status.conditions:
        why = ": ".join(part for part in (each.reason, each.message) if part)
        yield each.type, "yes" if each.status else f"no{', ' if why else ''}{why}"
    yield "handlers", ", ".join(sorted(each.name or "(default)" for each in status.runtime_handlers)) or "-"


def _places(status: cri.StatusResponse) -> Iterator[tuple[str, str]]:
    config = config_of(status)
    for name in ("root", "state", "listen"):
        if name in config:
            yield name, str(config[name])


def _disk(info: cri.ImageFsInfoResponse) -> Iterator[tuple[str, str]]:
    for name, found in (("images", info.image_filesystems), ("containers", info.container_filesystems)):
        for each in found:
            used = tables.size(each.used_bytes.value)
            yield f"{name} on disk", f"{used} in {each.inodes_used.value} files at {each.fs_id.mountpoint}"


def _fields(message: Any) -> dict[str, Any]:  # noqa: ANN401 - any message
    return MessageToDict(message, always_print_fields_with_no_presence=True)
