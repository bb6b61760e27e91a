"""Where everything of ours is on disk: names only; whether it is there is for others to see."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """Every place on disk that is ours. `root` survives a reboot, `state` does not. `images` is where image layers
    lie instead of in `root`: a disk of their own."""

    root: Path
    state: Path
    images: Path | None = None

    @property
    def database(self) -> Path:
        return self.root / "state.db"

    @property
    def layers(self) -> Path:
        """Unpacked image layers."""
        return (self.images or self.root) / "layers"

    @property
    def blobs(self) -> Path:
        """What is on its way in: image archives, and `spool`."""
        return (self.images or self.root) / "blobs"

    @property
    def spool(self) -> Path:
        """Parts of downloads that take long."""
        return self.blobs / "parts"

    def writable(self, container_id: str) -> Path:
        """A container's own layer: `upper` and `work`."""
        return self.root / "containers" / container_id

    def volumes(self, container_id: str) -> Path:
        """The directories of a container for the VOLUMEs of its image, by number."""
        return self.writable(container_id) / "volumes"

    def image_mounts(self, container_id: str) -> Path:
        """Images that a container's mounts show, by the number of the mount."""
        return self.bundle(container_id) / "images"

    def bundle(self, container_id: str) -> Path:
        """A container's bundle: config.json and the mounted `rootfs`. Pod inits have one as well."""
        return self.state / "containers" / container_id

    def rootfs(self, container_id: str) -> Path:
        return self.bundle(container_id) / "rootfs"

    def pod(self, pod_id: str) -> Path:
        """A pod's directory: ns/{net,ipc,uts}, shm, resolv.conf, hostname, hosts."""
        return self.state / "pods" / pod_id

    def namespace(self, pod_id: str, kind: str) -> Path:
        """The pinned namespace file; kind is net, ipc or uts."""
        return self.pod(pod_id) / "ns" / kind

    def shm(self, pod_id: str) -> Path:
        return self.pod(pod_id) / "shm"

    @property
    def exits(self) -> Path:
        """conmon writes a container's exit code here, in a file named by its id."""
        return self.state / "exits"

    @property
    def attach(self) -> Path:
        """conmon's socket directory."""
        return self.state / "attach"
