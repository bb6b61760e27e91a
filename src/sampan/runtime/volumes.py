"""What a container mounts beside its root: finds the images of its image volumes, and has everything made ready.

All of it goes with the container's teardown: image volumes are unmounted there, and the directories of VOLUMEs are
part of the container's writable layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sampan.api import cri_pb2 as cri
from sampan.config import Config
from sampan.model.container import Container
from sampan.model.errors import ImageVolumeMountFailed
from sampan.model.image import Image
from sampan.runtime.image_ports import IdMapped, ImageMount
from sampan.runtime.images import Images
from sampan.runtime.machine import Machine
from sampan.runtime.state import State
from sampan.spec import security, text, volumes
from sampan.spec.facts import ContainerFacts
from sampan.tasks import bounded

LOOK_SECONDS = 30.0  # for a probe of the host's file systems, one of which may be dead
RELABEL_SECONDS = 100.0  # below the kubelet's two minutes for a request: it shall read why, not time out


def images_of(config: cri.ContainerConfig, images: Images) -> tuple[str, ...]:
    """The ids of the images that the mounts show, in their order. Raises ImageVolumeMountFailed for one that is not
    on this node."""
    return tuple(_found(number, mount, images) for number, mount in volumes.of_images(config))


def _found(number: int, mount: cri.Mount, images: Images) -> str:
    wanted = volumes.reference(mount)
    image = images.find(wanted)
    if image is None:
        raise ImageVolumeMountFailed(
            f"mounts[{number}].image: image {text.shown(wanted)} is not on this node; pull it first"
        )
    return image.id


@dataclass(frozen=True, slots=True)
class Made:
    """What was made ready: see `ContainerFacts`."""

    image_mounts: Mapping[int, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)


class VolumeWork:
    """Makes a container's volumes ready, before anything of it runs."""

    def __init__(self, config: Config, state: State, machine: Machine) -> None:
        self._config = config
        self._state = state
        self._machine = machine

    async def make(
        self, container: Container, image: Image, root: Path, owners: IdMapped | None, label: str
    ) -> Made:
        """Mount the images, with this SELinux label, and make the directories of VOLUMEs; `root` is the container's,
        just prepared for the same `owners`."""
        shown = await self._show(container, owners, label)
        return Made(shown, await self._declared(container, image, root, owners))

    async def _show(self, container: Container, owners: IdMapped | None, label: str) -> dict[int, str]:
        shown = {}
        mounts = volumes.of_images(container.config)
        for (number, mount), image_id in zip(mounts, container.volume_images, strict=True):
            image = self._state.images.get(image_id)
            if image is None:  # its removal was under way before we held it
                raise ImageVolumeMountFailed(f"mounts[{number}].image: image {image_id} was removed just now")
            wanted = ImageMount(number, image.layers, mount.image_sub_path)
            shown[number] = await self._machine.volumes.show(container.id, wanted, owners, label)
        return shown

    async def _declared(
        self, container: Container, image: Image, root: Path, owners: IdMapped | None
    ) -> dict[str, str]:
        if self._config.images.ignore_volumes:
            return {}
        places = volumes.declared(image.config, container.config)
        return await self._machine.volumes.make(container.id, root, places, owners) if places else {}

    async def fit(self, facts: ContainerFacts, owners: IdMapped | None) -> None:
        """See to it that the host's directories can be mounted as asked: ids mapped, labels given. Raises Invalid,
        Unavailable."""
        mapped = [mount.host_path for mount in facts.config.mounts if mount.uidMappings]
        paths = sorted({facts.sources[path].path for path in mapped if path in facts.sources})
        if paths and owners is not None:
            async with bounded(LOOK_SECONDS, f"trying to map the ids of {', '.join(paths[:5])}"):
                await self._machine.volumes.check_idmaps(paths, owners)
        await self._relabel(facts)

    async def _relabel(self, facts: ContainerFacts) -> None:
        labels = security.selinux_labels(facts)
        paths = volumes.to_relabel(facts)
        if labels is not None and paths:
            async with bounded(RELABEL_SECONDS + 5, f"relabelling {', '.join(paths[:5])} for SELinux"):
                await self._machine.volumes.relabel(paths, labels.mount, RELABEL_SECONDS)
