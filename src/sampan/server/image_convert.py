"""Image records to CRI messages. Pure."""

import msgspec

from sampan.api import cri_pb2 as cri
from sampan.model.image import ARTIFACT_TYPE, Image
from sampan.runtime.image_ports import Usage
from sampan.wire.passwd import image_identity


def image(record: Image) -> cri.Image:
    """The image as ListImages and ImageStatus tell of it. Its labels are data for people, and stay out of
    this. Of an artifact, the CRI has no word: an annotation says that it is one."""
    uid, username = image_identity(record.config.user)
    return cri.Image(
        id=record.id,
        repo_tags=record.tags,
        repo_digests=record.digests,
        size=record.size,
        uid=None if uid is None else cri.Int64Value(value=uid),
        username=username,
        spec=cri.ImageSpec(
            image=record.name,
            annotations={ARTIFACT_TYPE: record.artifact} if record.artifact else {},
        ),
        pinned=record.pinned,
    )


def image_info(record: Image) -> dict[str, str]:
    """What ImageStatus adds when asked to be verbose, under the key names that containerd made known."""
    spec = msgspec.Raw(record.raw_config) if record.raw_config else msgspec.Raw(b"{}")
    chain = record.layers[-1] if record.layers else ""
    info = {"chainID": chain, "layers": record.layers, "labels": record.config.labels, "imageSpec": spec}
    if record.artifact:
        info |= {"artifactType": record.artifact, "manifest": msgspec.Raw(record.manifest)}
    return {"info": msgspec.json.encode(info).decode()}


def filesystem(usage: Usage, mountpoint: str, at: int) -> cri.FilesystemUsage:
    """Disk use; `at` in ns since the epoch."""
    return cri.FilesystemUsage(
        timestamp=at,
        fs_id=cri.FilesystemIdentifier(mountpoint=mountpoint),
        used_bytes=cri.UInt64Value(value=usage.bytes),
        inodes_used=cri.UInt64Value(value=usage.inodes),
    )
