"""A pod's resolv.conf (resolv.conf(5)) from CRI's DNSConfig."""

import ipaddress
import re

from sampan.api import cri_pb2 as cri
from sampan.model.errors import Invalid
from sampan.spec.text import shown

MAX_ENTRIES = 32  # of each list; Kubernetes allows 3 servers and 32 search domains
MAX_NAME = 253  # bytes, RFC 1035

_WORD = re.compile(r"[!-~]{1,256}")
# Labels may have underscores, as in _ldap._tcp; "." alone is the root and stops the search.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?|\.")


def check(config: cri.DNSConfig) -> None:
    """Raise Invalid for anything that would add a line or a directive to resolv.conf."""
    for name, entries in (
        ("servers", config.servers),
        ("searches", config.searches),
        ("options", config.options),
    ):
        if len(entries) > MAX_ENTRIES:
            raise Invalid(f"dns_config.{name} has {len(entries)} entries; the limit is {MAX_ENTRIES}")
    for server in config.servers:
        _check_server(server)
    for domain in config.searches:
        if len(domain) > MAX_NAME + 1 or not _DOMAIN.fullmatch(domain):
            raise Invalid(f"dns_config.searches: {shown(domain)} is not a domain name")
    for option in config.options:
        if not _WORD.fullmatch(option):
            raise Invalid(f"dns_config.options: {shown(option)} is not one printable word")


def resolv_conf(config: cri.DNSConfig) -> bytes:
    """The file; b"" for an empty config, where the host's own file is what the pod gets. Raises Invalid."""
    check(config)
    lines = []
    if config.searches:
        lines.append(f"search {' '.join(config.searches)}")
    lines += [f"nameserver {server}" for server in config.servers]
    if config.options:
        lines.append(f"options {' '.join(config.options)}")
    return "".join(f"{line}\n" for line in lines).encode()


def _check_server(server: str) -> None:
    """An address; of IPv6 with a zone too (fe80::1%eth0), which ipaddress does not look into."""
    try:
        if not _WORD.fullmatch(server):
            raise ValueError
        ipaddress.ip_address(server)
    except ValueError:
        raise Invalid(f"dns_config.servers: {shown(server)} is not an IP address") from None
