"""Everything the use cases may do to the machine, in one value: the ports, and what does not change about the host."""

from dataclasses import dataclass

from sampan.runtime.image_ports import Rootfs
from sampan.runtime.ports import Bundles, Cgroups, Facts, Network, Oci, Sandboxes
from sampan.spec.facts import Host


@dataclass(frozen=True, slots=True)
class Machine:
    """The ports. `node` is the host's own name, `host` what the spec builders need to know of it."""

    oci: Oci
    sandboxes: Sandboxes
    cgroups: Cgroups
    network: Network
    rootfs: Rootfs
    bundles: Bundles
    facts: Facts
    host: Host
    node: str
    pod_init: str = "/usr/bin/catatonit"
