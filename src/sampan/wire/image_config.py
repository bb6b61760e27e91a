"""The config of an image (OCI image-spec config.md, Docker's image.json): what it promises, and its chain of
layers.

All of it is untrusted. What no container could use is refused or dropped here; what depends on the container
(the user's number, the working directory) is kept raw and judged when one is made.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sampan.model.errors import Invalid
from sampan.model.image import ImageConfig
from sampan.wire import strict_json
from sampan.wire.manifest import LAYERS_LIMIT, Platform
from sampan.wire.reference import digest_of

CONFIG_LIMIT = 8 << 20  # bytes
LABEL_LIMIT = 4096  # bytes of a label's key and value together
_DIFF_ID = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ParsedConfig:
    """A config and what it says of the layers: their uncompressed digests, lowest first."""

    config: ImageConfig
    diff_ids: tuple[str, ...]
    platform: Platform


class _Rootfs(msgspec.Struct, kw_only=True):
    type: str = "layers"
    diff_ids: tuple[str, ...] | None = None


class _Config(msgspec.Struct, kw_only=True, rename="pascal"):
    user: str | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str | None = None
    volumes: dict[str, Any] | None = None
    exposed_ports: dict[str, Any] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None


class _Image(msgspec.Struct, kw_only=True):
    architecture: str = ""
    variant: str | None = None
    os: str = ""
    config: _Config | None = None
    rootfs: _Rootfs


def parse(data: bytes, what: str) -> ParsedConfig:
    """Read an image config. Raises Invalid."""
    image = strict_json.decode(data, _Image, what, CONFIG_LIMIT)
    diff_ids = image.rootfs.diff_ids or ()
    if image.rootfs.type != "layers":
        raise Invalid(f"{what}: a root file system of type {image.rootfs.type[:80]!r} is not made of layers")
    if len(diff_ids) > LAYERS_LIMIT:
        raise Invalid(f"{what} has {len(diff_ids)} layers; the limit is {LAYERS_LIMIT}")
    for diff_id in diff_ids:
        if not _DIFF_ID.fullmatch(diff_id):
            raise Invalid(f"{what} names a malformed diff id {diff_id[:80]!r}")
    platform = Platform(image.os, image.architecture, image.variant or "")
    return ParsedConfig(_config(image.config or _Config(), what), diff_ids, platform)


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The chain id of each layer: a name for it and everything below (image-spec config.md, "Layer
    ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        below = chain[-1] if chain else ""
        chain.append(digest_of(f"{below} {diff_id}".encode()) if below else diff_id)
    return tuple(chain)


def _config(raw: _Config, what: str) -> ImageConfig:
    for word in (*(raw.entrypoint or ()), *(raw.cmd or ()), raw.user or "", raw.working_dir or ""):
        if "\0" in word:
            raise Invalid(f"{what} has a NUL character in its command, user or working directory")
    return ImageConfig(
        entrypoint=raw.entrypoint or (),
        cmd=raw.cmd or (),
        env=tuple(entry for entry in raw.env or () if _usable(entry)),
        working_dir=raw.working_dir or "",
        user=raw.user or "",
        volumes=tuple(raw.volumes or ()),
        stop_signal=raw.stop_signal or "",
        labels={key: value for key, value in (raw.labels or {}).items() if _small(key, value)},
        exposed_ports=tuple(raw.exposed_ports or ()),
    )


def _usable(entry: str) -> bool:
    """KEY=VALUE. An entry without "=" would mean "copy the host's" to some programs (CVE-2026-57231)."""
    key, equals, _ = entry.partition("=")
    return bool(key and equals) and "\0" not in entry


def _small(key: str, value: str) -> bool:
    return len(key.encode()) + len(value.encode()) <= LABEL_LIMIT
