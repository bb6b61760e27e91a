"""A pod's user namespace: which ids it maps, and what in a config.json depends on that (user_namespaces(7)).

The ids of the host come from the request alone: whoever sends it (the kubelet) gives each pod a range of its own. All
containers of a pod are in the pod's user namespace; a container that says nothing means the pod's, one that says
something else is refused. Privileged stays possible: all capabilities, over what the namespace owns.
"""

from collections.abc import Container, Sequence
from collections.abc import Mapping as Table
from dataclasses import dataclass
from typing import Any

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.model.user import User
from sampan.spec.facts import Host

FIELD = "namespace_options.userns_options"
MAX_ID = 2**32 - 2  # the last one: -1 means "no change" to setuid(2) and its kin
TERMINALS = 5  # the group of pseudo-terminals (tty)
PING_GROUPS = "net.ipv4.ping_group_range"


@dataclass(frozen=True, slots=True)
class Range:
    """Ids 0 to length-1 of the namespace are `host` to host+length-1 outside it."""

    host: int
    length: int

    def outside(self, id: int) -> int:
        """The host's number for an id of the namespace. Raises ValueError for one that is not mapped."""
        if not 0 <= id < self.length:
            raise ValueError(f"id {id} is not mapped; the last one is {self.length - 1}")
        return self.host + id


@dataclass(frozen=True, slots=True)
class Mappings:
    """The two maps of a user namespace."""

    uids: Range
    gids: Range

    @property
    def root(self) -> tuple[int, int]:
        """What owner and group of the namespace's root are on the host."""
        return self.uids.host, self.gids.host


# --- the request ------------------------------------------------------------------------------------------


def mappings(options: cri.NamespaceOption) -> Mappings | None:
    """The maps of a pod's own user namespace; None where it has the host's. Raises Invalid naming the field."""
    if not options.HasField("userns_options"):
        return None
    userns = options.userns_options
    if userns.mode == cri.NODE:
        if userns.uids or userns.gids:
            raise Invalid(f"{FIELD}: mode NODE takes no mappings")
        return None
    if userns.mode != cri.POD:
        known = {int(value): name for name, value in cri.NamespaceMode.items()}
        raise Invalid(
            f"{FIELD}.mode {known.get(userns.mode, str(userns.mode))} is not possible; POD and NODE are"
        )
    return Mappings(_range(userns.uids, f"{FIELD}.uids"), _range(userns.gids, f"{FIELD}.gids"))


def check_host(options: cri.NamespaceOption, host: Host) -> None:
    """Raise Invalid if a user namespace is asked for that the pod's handler, or this host, cannot give."""
    if mappings(options) and not host.user_namespaces:
        raise Invalid(
            f"{FIELD}: the pod's runtime handler or this host cannot make user namespaces; "
            "`sampan info` shows which handlers can"
        )


def check_container(container: cri.NamespaceOption, pod: cri.NamespaceOption) -> None:
    """Raise Invalid if a container asks for another user namespace than its pod's; nothing asked is the pod's."""
    if container.HasField("userns_options") and mappings(container) != mappings(pod):
        raise Invalid(
            f"{FIELD} differs from the pod's: a container is always in the user namespace of its pod"
        )


def _range(given: Sequence[cri.IDMapping], field: str) -> Range:
    if len(given) != 1:
        raise Invalid(f"{field} has {len(given)} mappings; exactly one is possible")
    mapping = given[0]
    if mapping.container_id != 0:
        raise Invalid(f"{field}[0].container_id is {mapping.container_id}; the mapping must begin with id 0")
    if mapping.length < 1:
        raise Invalid(f"{field}[0].length is 0; it maps nothing")
    if mapping.host_id == 0:
        raise Invalid(f"{field}[0].host_id is 0: root of the pod would be root of the host")
    if mapping.host_id + mapping.length - 1 > MAX_ID:
        raise Invalid(
            f"{field}[0]: host_id {mapping.host_id} and length {mapping.length} go beyond id {MAX_ID}"
        )
    return Range(mapping.host_id, mapping.length)


# --- what depends on it -----------------------------------------------------------------------------------


def linux(maps: Mappings | None) -> dict[str, Any]:
    """`linux.uidMappings` and `linux.gidMappings`; nothing without a user namespace."""
    if maps is None:
        return {}
    return {"uidMappings": [_oci(maps.uids)], "gidMappings": [_oci(maps.gids)]}


def _oci(ids: Range) -> dict[str, int]:
    return {"containerID": 0, "hostID": ids.host, "size": ids.length}


def check_user(user: User, maps: Mappings | None) -> None:
    """Raise Invalid for a process whose ids the namespace does not have."""
    groups = (("group", id) for id in (user.gid, *user.groups))
    for kind, id in (("user", user.uid), *groups):
        check_id(kind, id, maps, f"{kind} {id}")


def check_id(kind: str, id: int, maps: Mappings | None, subject: str) -> None:
    """Raise Invalid for the id of a "user" or "group" that the namespace does not have."""
    if maps is None:
        return
    length = (maps.uids if kind == "user" else maps.gids).length
    if id >= length:
        raise Invalid(
            f"{subject} does not exist in the pod's user namespace, which has ids 0 to {length - 1}"
        )


def mounts(built: list[dict[str, Any]], maps: Mappings | None, *, own_network: bool) -> list[dict[str, Any]]:
    """The default mounts as the kernel allows them in a user namespace.

    A new sysfs shows the network namespace, and only its owner may mount one (sysfs(5)); with the host's network it
    becomes a bind of the host's, read-only with all beneath it whoever asks. A devpts takes no group that is not
    mapped.
    """
    if maps is None:
        return built
    return [_allowed(mount, maps, own_network) for mount in built]


def _allowed(mount: dict[str, Any], maps: Mappings, own_network: bool) -> dict[str, Any]:
    if mount["type"] == "sysfs" and not own_network:
        options = ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"]
        return {**mount, "type": "bind", "source": "/sys", "options": options}
    if mount["type"] == "devpts" and maps.gids.length <= TERMINALS:
        return {**mount, "options": [option for option in mount["options"] if not option.startswith("gid=")]}
    return mount


def sysctls(values: Table[str, str], asked: Container[str], maps: Mappings | None) -> dict[str, str]:
    """The pod's sysctls as real root writes them: group ids are the host's then. Ours are cut to what is mapped; of
    those `asked` for, unmapped ids are Invalid."""
    if maps is None or PING_GROUPS not in values:
        return dict(values)
    return {**values, PING_GROUPS: _groups(values[PING_GROUPS], PING_GROUPS in asked, maps.gids)}


def _groups(value: str, asked: bool, gids: Range) -> str:
    if not asked:
        return f"{gids.host} {gids.host + gids.length - 1}"
    try:
        low, high = (int(part) for part in value.split())
        if low > high:  # how "nobody" is said
            return value
        return f"{gids.outside(low)} {gids.outside(high)}"
    except ValueError as error:
        raise Invalid(f"linux.sysctls: {PING_GROUPS} = {value!r} in a user namespace: {error}") from None
