"""What the use cases may ask about devices and I/O classes that the node's administrator and vendors described."""

from collections.abc import Sequence
from typing import Protocol

from sampan.model.cdi import Given
from sampan.model.io_classes import DeviceLimits


class CdiRegistry(Protocol):
    """The CDI devices of this node, from the files in its directories."""

    async def edits(self, names: Sequence[str]) -> tuple[Given, ...]:
        """What it takes to have these devices, in the order of the edits. Raises NotFound naming the device, the
        directories and the damaged files among them; Invalid for a device that two files claim."""


class IoClasses(Protocol):
    """The classes of block I/O and of Resource Director Technology (resctrl) on this node."""

    async def block_io(self, name: str) -> tuple[DeviceLimits, ...]:
        """The limits of this class, for the devices there are now. Raises NotFound for an unknown class, Invalid where
        there are no classes, unless the configuration says to ignore that: then ()."""

    async def rdt(self, name: str) -> str:
        """The class's name, if there is one. Raises NotFound and Invalid like `block_io`; ignored, it is ""."""

    async def has_rdt(self) -> bool:
        """Whether resctrl is mounted."""
