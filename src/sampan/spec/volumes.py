"""Volumes that come from images: those a request mounts, and the VOLUMEs that the container's own image declares.

Which there are and what they may be; how they look in config.json is `spec.mounts`' business.
"""

from collections.abc import Iterator, Sequence

from sampan.api import cri_pb2 as cri
from sampan.model.errors import ImageVolumeMountFailed, Invalid
from sampan.model.image import ImageConfig
from sampan.spec import text
from sampan.spec.facts import ContainerFacts

LIMIT = 256  # VOLUMEs of one image: each is a mount
KERNELS = ("/proc", "/sys", "/dev")  # an image's word never covers what the kernel, or we, mount there
POD_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")

# Relabelling these would take them from the host's own programs. Places that hold volumes are not to be relabelled
# as a whole, what lies in them may be; of the others nothing may.
_NEVER_WHOLE = frozenset(
    {"/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var"}
    | {f"/var/{name}" for name in ("cache", "lib", "log", "run", "spool", "tmp")}
)
_NEVER = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr")


# --- images that the request mounts -----------------------------------------------------------------------


def is_image(mount: cri.Mount) -> bool:
    """Whether the mount shows an image instead of a host path."""
    return bool(reference(mount))


def reference(mount: cri.Mount) -> str:
    """What names the image; "" for a mount of a host path."""
    return mount.image.image or mount.image.image_ref


def of_images(config: cri.ContainerConfig) -> Iterator[tuple[int, cri.Mount]]:
    """The mounts that show images, each with its number in the request."""
    return ((number, mount) for number, mount in enumerate(config.mounts) if is_image(mount))


def check_image(mount: cri.Mount, field: str) -> None:
    """Raise Invalid for what no image volume can be, ImageVolumeMountFailed for a sub path that leads out."""
    shown = text.shown(mount.container_path)
    if mount.host_path:
        raise Invalid(f"{field} ({shown}) has both a host_path and an image; it can only be one")
    if not mount.readonly:
        raise Invalid(f"{field}.image ({shown}): an image can only be mounted with readonly set")
    if mount.propagation != cri.PROPAGATION_PRIVATE:
        raise Invalid(f"{field}.image ({shown}): an image can only be mounted with PROPAGATION_PRIVATE")
    text.word(reference(mount), f"{field}.image.image")
    text.word(mount.image_sub_path, f"{field}.image_sub_path")
    if ".." in mount.image_sub_path.split("/"):
        raise ImageVolumeMountFailed(
            f"{field}.image_sub_path {text.shown(mount.image_sub_path)} goes up with '..'"
        )


# --- what the container's own image declares --------------------------------------------------------------


def declared(image: ImageConfig, config: cri.ContainerConfig) -> tuple[str, ...]:
    """The VOLUMEs to be made, as canonical paths, the shallow ones first.

    The request's mounts win, also over what would come to lie within them: data that a user keeps in a volume
    must not be hidden by an empty directory. What an image says about the kernel's directories is without
    effect (images for systemd name /sys/fs/cgroup). Raises Invalid for what is no path of a directory.
    """
    if len(image.volumes) > LIMIT:
        raise Invalid(f"the image declares {len(image.volumes)} VOLUMEs; {LIMIT} are possible")
    wanted = {text.path(volume, "the image's VOLUME") for volume in image.volumes}
    if "/" in wanted:
        raise Invalid("the image's VOLUME '/' is its root itself, which no volume can be")
    covered = (*KERNELS, *POD_FILES, *(_lexical(mount.container_path) for mount in config.mounts))
    left = (path for path in wanted if not any(_at_or_in(path, each) for each in covered))
    return tuple(sorted(left, key=lambda path: (path.count("/"), path)))


def check_destination(path: str) -> None:
    """Raise Invalid if a VOLUME's links led to where no volume may be; `path` is where they ended."""
    if path == "/" or any(_at_or_in(path, kernel) for kernel in KERNELS):
        raise Invalid(f"a VOLUME of the image leads through links to {path}, which no volume can be")


# --- labels ---------------------------------------------------------------------------------------------


def to_relabel(facts: ContainerFacts) -> Sequence[str]:
    """The host paths whose trees shall have the container's SELinux label. None where the host runs no SELinux:
    there is nothing to relabel then. Raises Invalid for paths of the host's own system."""
    if not facts.host.selinux:
        return ()
    found = []
    for number, mount in enumerate(facts.config.mounts):
        source = facts.sources.get(mount.host_path)
        if not mount.selinux_relabel or source is None:
            continue
        if source.path in _NEVER_WHOLE or any(_at_or_in(source.path, each) for each in _NEVER):
            raise Invalid(
                f"mounts[{number}].selinux_relabel: {text.shown(source.path)} is part of the host's system and "
                "is never relabelled; mount it without selinux_relabel"
            )
        found.append(source.path)
    return (*found, *facts.volumes.values())


def _at_or_in(path: str, place: str) -> bool:
    return path == place or text.beneath(path, place)


def _lexical(path: str) -> str:
    """The canonical form of a target that was checked before."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
