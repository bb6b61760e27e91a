"""The ports of `runtime.device_ports` in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sampan.model.cdi import Given, Index
from sampan.model.errors import Invalid, NotFound
from sampan.model.io_classes import DeviceLimits


@dataclass
class FakeCdi:
    """The CDI devices of an index."""

    index: Index = field(default_factory=lambda: Index(()))

    async def edits(self, names: Sequence[str]) -> tuple[Given, ...]:
        return self.index.resolve(names, ["/etc/cdi"])


@dataclass
class FakeIoClasses:
    """Classes by name; None: the node has none of the kind."""

    limits: dict[str, tuple[DeviceLimits, ...]] | None = None
    resctrl: set[str] | None = None
    ignored: bool = False

    async def block_io(self, name: str) -> tuple[DeviceLimits, ...]:
        if self.limits is None:
            if self.ignored:
                return ()
            raise Invalid(f"block I/O class {name!r} is asked for, and this node has no classes")
        if name not in self.limits:
            raise NotFound(f"block I/O class {name!r} is not in the file")
        return self.limits[name]

    async def rdt(self, name: str) -> str:
        if self.resctrl is None:
            if self.ignored:
                return ""
            raise Invalid(f"RDT class {name!r} is asked for, and this node has none")
        if name not in self.resctrl:
            raise NotFound(f"RDT class {name!r} is not in resctrl")
        return name

    async def has_rdt(self) -> bool:
        return self.resctrl is not None
