"""Everything the use cases may do to the machine, in one value: the ports, and what does not change about the host."""

from dataclasses import dataclass, replace

from sampan.model.errors import Unavailable
from sampan.runtime.device_ports import CdiRegistry, IoClasses
from sampan.runtime.handler_ports import Handlers
from sampan.runtime.image_ports import Rootfs, Volumes
from sampan.runtime.ports import Bundles, Cgroups, Facts, Network, Oci, Sandboxes
from sampan.runtime.stream_ports import Attachments, Commands, Dialer
from sampan.spec.facts import Host

_CRUN_KEEPS_SUBMOUNTS = (1, 21)  # the first that was seen to; 1.8 was seen to drop them


@dataclass(frozen=True, slots=True)
class Machine:
    """The ports. `node` is the host's own name, `host` what the spec builders need to know of it."""

    oci: Oci
    sandboxes: Sandboxes
    cgroups: Cgroups
    network: Network
    rootfs: Rootfs
    volumes: Volumes
    bundles: Bundles
    facts: Facts
    cdi: CdiRegistry
    io_classes: IoClasses
    handlers: Handlers
    commands: Commands
    attachments: Attachments
    dialer: Dialer
    host: Host
    node: str
    pod_init: str = "/usr/bin/catatonit"

    def host_of(self, handler: str) -> Host:
        """The machine as pods of this handler have it: what their OCI runtime cannot do is not there.

        Raises Unavailable for a handler that cannot be used: nothing is known of its runtime, and no spec may do
        without seccomp for that."""
        found = self.handlers.of(handler)
        if found.problem:
            raise Unavailable(f"runtime handler {handler} cannot be used: {found.problem}")
        can, host = found.features, self.host
        return replace(
            host,
            seccomp=host.seccomp and can.seccomp,
            apparmor=host.apparmor and can.apparmor,
            selinux=host.selinux and can.selinux,
            recursive_read_only=host.recursive_read_only and can.recursive_read_only,
            user_namespaces=host.user_namespaces and can.user_namespaces and can.idmapped_mounts,
            binds_devices=can.name == "runc",  # measured; crun makes what it is told
            keeps_submounts=can.name != "crun" or can.version >= _CRUN_KEEPS_SUBMOUNTS,
            privileged_devices=found.privileged_devices,
        )
