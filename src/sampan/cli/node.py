"""What `sampan info` shows: conditions, handlers, places and disk use."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.cli import json_text, tables
from sampan.cli.client import Client


def text(client: Client, as_json: bool) -> str:
    """All of it, for people or as JSON."""
    version = client.call(client.runtime.Version, cri.VersionRequest())
    status = client.call(client.runtime.Status, cri.StatusRequest(verbose=True))
    disk = client.call(client.images.ImageFsInfo, cri.ImageFsInfoRequest())
    if as_json:
        found = {
            "version": json_text.fields(version),
            "status": json_text.fields(status),
            "disk": json_text.fields(disk),
            "config": config_of(status),
        }
        found["status"].pop("info", None)
        return json_text.text(found) + "\n"
    return tables.facts(
        [*_versions(version), *_conditions(status), *_handlers(status), *_places(status), *_disk(disk)]
    )


def config_of(status: cri.StatusResponse) -> dict[str, Any]:
    """The daemon's configuration, as its verbose status has it; empty if it has none."""
    return _entry(status, "config")


def _entry(status: cri.StatusResponse, name: str) -> dict[str, Any]:
    """A JSON object of the verbose status; empty if it has none of this name."""
    try:
        found = json.loads(status.info[name])
    except (KeyError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _versions(version: cri.VersionResponse) -> Iterator[tuple[str, str]]:
    yield "daemon", f"{version.runtime_name} {version.runtime_version}"
    yield "CRI", version.runtime_api_version


def _conditions(status: cri.StatusResponse) -> Iterator[tuple[str, str]]:
    for each in status.status.conditions:
        why = ": ".join(part for part in (each.reason, each.message) if part)
        yield each.type, ("yes" if each.status else "no") + (f", {why}" if why else "")


def _handlers(status: cri.StatusResponse) -> Iterator[tuple[str, str]]:
    """A line for each handler: its runtime and what its pods may ask for, or why there can be none."""
    details = _entry(status, "handlers")
    for each in status.runtime_handlers:
        if each.name:
            yield f"handler {each.name}", "; ".join(_about_handler(each, details.get(each.name) or {}))


def _about_handler(handler: cri.RuntimeHandler, details: Mapping[str, Any]) -> Iterator[str]:
    if details.get("problem"):
        yield f"cannot be used: {details['problem']}"
        return
    if details.get("path"):
        yield " ".join(filter(None, (details.get("runtime"), details.get("version"), "at", details["path"])))
    can = {
        "recursive read-only mounts": handler.features.recursive_read_only_mounts,
        "user namespaces": handler.features.user_namespaces,
    }
    yield from (name if able else f"no {name}" for name, able in can.items())


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
