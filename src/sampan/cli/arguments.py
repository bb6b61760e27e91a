"""The values of `sampan run`'s options → CRI messages. Pure; each raises ValueError saying what would be
right.
"""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from sampan.api import cri_pb2 as cri

CPU_PERIOD = 100_000  # us
_PROTOCOLS = {"tcp": cri.TCP, "udp": cri.UDP, "sctp": cri.SCTP}
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_PORT = re.compile(
    r"(?:(?P<ip>\[[0-9a-fA-F:.]+\]|[0-9.]+):)?"
    r"(?P<host>[0-9]{1,5}):(?P<inner>[0-9]{1,5})(?:/(?P<protocol>[A-Za-z]+))?",
    re.ASCII,
)
_PROPAGATION = {
    "rprivate": cri.PROPAGATION_PRIVATE,
    "rslave": cri.PROPAGATION_HOST_TO_CONTAINER,
    "rshared": cri.PROPAGATION_BIDIRECTIONAL,
}
_LARGEST_ID = 2**31 - 1


def words(given: tuple[str, ...]) -> tuple[str, ...]:
    """A command without the `--` that people set before it, as for kubectl exec."""
    return given[1:] if given[:1] == ("--",) else given


def port(text: str) -> cri.PortMapping:
    """[IP:]HOST:CONTAINER[/tcp|udp|sctp]; IPv6 addresses in brackets."""
    found = _PORT.fullmatch(text)
    protocol = (found["protocol"] or "tcp").lower() if found else ""
    if found is None or protocol not in _PROTOCOLS:
        raise ValueError("must be [IP:]HOST_PORT:CONTAINER_PORT[/tcp|udp|sctp], such as 8080:80")
    host, inner = int(found["host"]), int(found["inner"])
    if not (0 < host < 65536 and 0 < inner < 65536):
        raise ValueError("ports are from 1 to 65535")
    address = (found["ip"] or "").strip("[]")
    if address:
        ipaddress.ip_address(address)  # raises ValueError
    return cri.PortMapping(
        protocol=_PROTOCOLS[protocol], host_port=host, container_port=inner, host_ip=address
    )


def mount(text: str, here: str) -> cri.Mount:
    """HOST:CONTAINER[:ro,rw,rprivate,rslave,rshared]; a relative HOST is taken from `here`."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts) or not parts[1].startswith("/"):
        raise ValueError("must be HOST_PATH:/CONTAINER/PATH[:ro]")
    made = cri.Mount(host_path=str(PurePosixPath(here) / parts[0]), container_path=parts[1])
    for option in parts[2].split(",") if len(parts) == 3 else ():
        if option in ("ro", "rw"):
            made.readonly = option == "ro"
        elif option in _PROPAGATION:
            made.propagation = _PROPAGATION[option]
        else:
            raise ValueError(f"knows no option {option!r}; there is ro, rw, {', '.join(_PROPAGATION)}")
    return made


def variable(text: str, environment: Mapping[str, str]) -> cri.KeyValue:
    """NAME=VALUE, or NAME alone: with the value it has here."""
    name, equals, value = text.partition("=")
    if not name:
        raise ValueError("must be NAME=VALUE, or NAME to pass on the value it has here")
    if not equals and name not in environment:
        raise ValueError("is not set here: give it a value")
    value = value if equals else environment[name]
    return cri.KeyValue(key=name, value=value.encode(errors="surrogateescape"))


def memory(text: str) -> int:
    """Bytes of 512m, 1.5g, 100MiB or a plain number; units are of 1024."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([bkmgt]?)(?:i?b)?", text.lower(), re.ASCII)
    count = int(float(found[1]) * _SIZES[found[2]]) if found else 0
    if count <= 0:
        raise ValueError("must be a size such as 512m or 1.5g")
    return count


def cpu_quota(text: str) -> int:
    """us in each CPU_PERIOD of a number of processors such as 0.5 or 2."""
    if not re.fullmatch(r"[0-9]{1,4}(?:\.[0-9]{1,3})?", text, re.ASCII) or float(text) < 0.01:
        raise ValueError("must be a number of processors such as 0.5 or 2, at least 0.01")
    return round(float(text) * CPU_PERIOD)


def user(text: str, context: cri.LinuxContainerSecurityContext) -> None:
    """Fill in USER, UID or UID:GID."""
    found = re.fullmatch(r"([0-9]{1,10})(?::([0-9]{1,10}))?", text, re.ASCII)
    if found is None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", text):
            raise ValueError("must be a user's name, UID or UID:GID")
        context.run_as_username = text
        return
    ids = [int(each) for each in found.groups() if each is not None]
    if max(ids) > _LARGEST_ID:
        raise ValueError(f"ids are at most {_LARGEST_ID}")
    context.run_as_user.value = ids[0]
    if len(ids) == 2:
        context.run_as_group.value = ids[1]


def name(text: str) -> str:
    """A name that may be a host name and part of a path."""
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", text):
        raise ValueError("must be up to 63 lower case letters, digits and dashes, as a host name is")
    return text


def name_from(image: str, suffix: str) -> str:
    """A name for what runs an image: its last word and `suffix`."""
    last = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    word = re.sub(r"[^a-z0-9]+", "-", last.lower())[:40].strip("-")
    return f"{word or 'run'}-{suffix}"
