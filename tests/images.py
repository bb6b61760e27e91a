"""Container images built in memory for tests, as a registry or an OCI layout would hold them.

Independent of the product's own parsers on purpose: what these bytes mean is fixed by the OCI image-spec and
distribution-spec, and a bug on one side must not hide behind the same bug on the other.
"""

import functools
import gzip
import hashlib
import http.client
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from scripts.private_daemon import platform_architecture

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURE = platform_architecture()
CREATED = "2024-01-01T00:00:00Z"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KINDS = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a layer, written as given: hostile names and links included."""

    path: str
    kind: str = "file"
    data: bytes = b""
    link: str = ""
    mode: int | None = None  # None: 0644 for a file, else 0755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    device: tuple[int, int] = (0, 0)
    pax: Mapping[str, str] = field(default_factory=dict)  # e.g. SCHILY.xattr.user.x


def layer(entries: Sequence[Entry]) -> bytes:
    """The entries as an uncompressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            tar.addfile(header(entry), io.BytesIO(entry.data))
    return buffer.getvalue()


def header(entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.path)
    info.type = KINDS[entry.kind]
    info.size = len(entry.data)
    info.linkname = entry.link
    info.mode = entry.mode if entry.mode is not None else (0o644 if entry.kind == "file" else 0o755)
    info.uid, info.gid, info.mtime = entry.uid, entry.gid, entry.mtime
    info.devmajor, info.devminor = entry.device
    info.pax_headers = dict(entry.pax)
    return info


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@functools.lru_cache(maxsize=8)  # large layers recur in several images
def compress(data: bytes, compression: str) -> tuple[bytes, str]:
    """The bytes and the suffix of their media type. `compression`: gzip (fast), gzip:6, zstd or none."""
    match compression:
        case "gzip" | "gzip:6":
            return gzip.compress(data, 6 if ":" in compression else 1, mtime=0), "+gzip"
        case "zstd":
            return zstandard.ZstdCompressor().compress(data), "+zstd"
        case "none":
            return data, ""
    raise ValueError(compression)


@dataclass(frozen=True, slots=True)
class Image:
    """An image: its blobs by digest (layers and config), and the bytes of its manifest."""

    blobs: Mapping[str, bytes]
    manifest: bytes

    @property
    def digest(self) -> str:
        return sha256(self.manifest)

    @property
    def id(self) -> str:
        """The digest of the config, which is what the CRI calls the image's id."""
        return str(json.loads(self.manifest)["config"]["digest"])

    @property
    def config(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.blobs[self.id])
        return value


def image(
    layers: Sequence[bytes],
    config: Mapping[str, Any] | None = None,
    *,
    compression: str = "gzip",
    architecture: str = ARCHITECTURE,
    annotations: Mapping[str, str] | None = None,
) -> Image:
    """An image of these tars; `config` is its process configuration (Cmd, Env, User, ...)."""
    blobs: dict[str, bytes] = {}
    described = [describe(blobs, *packed(tar, compression)) for tar in layers]
    whole = {
        "architecture": architecture,
        "os": "linux",
        "created": CREATED,
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in layers]},
        "history": [{"created": CREATED, "created_by": "test"} for _ in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe(blobs, dump(whole), CONFIG),
        "layers": described,
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    return Image(blobs, dump(manifest))


def artifact(
    files: Sequence[tuple[str, bytes]],
    *,
    kind: str = "application/vnd.test.thing",
    config: tuple[bytes, str] = (b"{}", "application/vnd.oci.empty.v1+json"),
    media_type: str = "application/octet-stream",
    naming: str = "org.opencontainers.image.title",
    **more: Any,
) -> Image:
    """An OCI artifact with a blob for each (title, content); one without a title has no annotation. `more` adds to
    the manifest or, being None, takes from it."""
    blobs: dict[str, bytes] = {}
    layers = [
        {**describe(blobs, data, media_type), **({"annotations": {naming: title}} if title else {})}
        for title, data in files
    ]
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": describe(blobs, *config),
        "layers": layers,
        **more,
    }
    return Image(blobs, dump({key: value for key, value in manifest.items() if value is not None}))


def referrers(manifests: Sequence[bytes]) -> bytes:
    """The index that lists these artifact manifests (distribution-spec, "Listing Referrers")."""
    entries = [
        {
            **{"mediaType": MANIFEST, "digest": sha256(data), "size": len(data)},
            **{
                key: value
                for key, value in json.loads(data).items()
                if key in ("artifactType", "annotations")
            },
        }
        for data in manifests
    ]
    return dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})


def packed(tar: bytes, compression: str) -> tuple[bytes, str]:
    data, suffix = compress(tar, compression)
    return data, LAYER + suffix


def describe(blobs: dict[str, bytes], data: bytes, media_type: str) -> dict[str, Any]:
    """Keep the blob; its descriptor."""
    blobs[sha256(data)] = data
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def dump(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def index(images: Mapping[str, Image]) -> bytes:
    """An index of images by architecture."""
    return dump(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {
                    "mediaType": MANIFEST,
                    "digest": one.digest,
                    "size": len(one.manifest),
                    "platform": {"os": "linux", "architecture": architecture},
                }
                for architecture, one in images.items()
            ],
        }
    )


# --- ready-made images --------------------------------------------------------------------------------------

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n"
GROUP = b"root:x:0:\nwww-data:x:33:\n"
APPLETS = (
    "sh cat echo env false grep head hostname httpd id ip kill ls mkdir mount nc printf ps sleep sync tail"
)
MORE_APPLETS = (
    "test touch true umount wc wget yes dd df rm chmod chown stat readlink seq stty tty usleep date nproc"
)


def busybox_entries() -> list[Entry]:
    """A root file system of Debian's static busybox with its commonest applets."""
    binary = Path("/bin/busybox").read_bytes()
    directories = ("bin", "dev", "etc", "home", "proc", "root", "sys", "var", "var/www")
    return [
        *(Entry(name, "dir") for name in directories),
        Entry("tmp", "dir", mode=0o1777),
        Entry("bin/busybox", data=binary, mode=0o755),
        *(
            Entry(f"bin/{name}", "hardlink", link="bin/busybox")
            for name in (APPLETS + " " + MORE_APPLETS).split()
        ),
        Entry("etc/passwd", data=PASSWD),
        Entry("etc/group", data=GROUP),
    ]


def busybox(extra: Sequence[Entry] = (), config: Mapping[str, Any] | None = None) -> Image:
    """A busybox image; `extra` entries make a second layer, `config` adds to its process configuration."""
    layers = [layer(busybox_entries()), *([layer(extra)] if extra else [])]
    return image(layers, {"Cmd": ["sh"], "Env": [PATH], **(config or {})})


# --- where images lie ---------------------------------------------------------------------------------------


def oci_layout(images: Mapping[str, Image]) -> bytes:
    """A tar with an OCI image layout (image-spec, image-layout.md) of images by reference name."""
    blobs = {digest: data for one in images.values() for digest, data in one.blobs.items()}
    blobs |= {one.digest: one.manifest for one in images.values()}
    manifests = [
        {
            "mediaType": MANIFEST,
            "digest": one.digest,
            "size": len(one.manifest),
            "annotations": {"org.opencontainers.image.ref.name": name},
        }
        for name, one in images.items()
    ]
    return layer(
        [
            Entry("oci-layout", data=dump({"imageLayoutVersion": "1.0.0"})),
            Entry("index.json", data=dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})),
            *(Entry(f"blobs/{d.replace(':', '/')}", data=data) for d, data in blobs.items()),
        ]
    )


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry speaking plain HTTP at `address` (host:port)."""

    address: str

    def request(
        self, method: str, path: str, body: bytes = b"", media_type: str = ""
    ) -> http.client.HTTPMessage:
        """One request; the headers of its answer. Raises for any status of 400 or more."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            headers = {"Accept": f"{MANIFEST}, {INDEX}, */*"}
            headers |= {"Content-Type": media_type} if media_type else {}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read()
            if response.status >= 400:
                raise RuntimeError(f"{method} {path}: {response.status} {text[:500]!r}")
            return response.headers
        finally:
            connection.close()

    def has_blob(self, repository: str, digest: str) -> bool:
        try:
            self.request("HEAD", f"/v2/{repository}/blobs/{digest}")
        except RuntimeError:
            return False
        return True

    def push_blob(self, repository: str, data: bytes) -> None:
        if self.has_blob(repository, sha256(data)):
            return
        place = self.request("POST", f"/v2/{repository}/blobs/uploads/")["Location"]
        place = place.removeprefix(f"http://{self.address}")
        joint = "&" if "?" in place else "?"
        self.request("PUT", f"{place}{joint}digest={sha256(data)}", data, "application/octet-stream")

    def push(self, repository: str, one: Image, *tags: str) -> str:
        """Push the image under its digest and these tags; returns `address/repository@digest`."""
        for data in one.blobs.values():
            self.push_blob(repository, data)
        for tag in (one.digest, *tags):
            self.push_manifest(repository, tag, one.manifest, MANIFEST)
        return f"{self.address}/{repository}@{one.digest}"

    def push_manifest(self, repository: str, tag: str, manifest: bytes, media_type: str) -> None:
        """Any manifest or index, as it is."""
        self.request("PUT", f"/v2/{repository}/manifests/{tag}", manifest, media_type)

    def hosts_directory(self, directory: Path, *hosts: str) -> Path:
        """`hosts.toml` files that send pulls from these registry hosts here; returns the directory."""
        for host in hosts:
            (directory / host).mkdir(parents=True, exist_ok=True)
            text = f'server = "http://{self.address}"\n\n[host."http://{self.address}"]\n'
            (directory / host / "hosts.toml").write_text(text + 'capabilities = ["pull", "resolve"]\n')
        return directory
