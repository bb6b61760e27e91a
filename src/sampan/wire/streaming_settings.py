"""The configuration of sessions, and what makes it unsafe: a listener that strangers can reach needs to know its
clients, for a session is root's work in a container."""

import ipaddress
from dataclasses import dataclass

from sampan.wire import settings
from sampan.wire.settings import key


@dataclass(frozen=True, slots=True)
class Streaming:
    address: str = key(
        "127.0.0.1",
        settings.ip_address,
        "Where exec, attach and port-forward sessions are served: an IP address of this machine. Any but a loopback\n"
        "address needs the three tls keys: whoever can connect and knows a session's token has the session.",
    )
    port: int = key(0, settings.number(0, 65535), "0 takes a free port at each start.")
    idle_timeout: float = key(
        "4h", settings.duration, 'A session without traffic for this long is closed; "0" never.'
    )
    tls_cert: str = key(
        "",
        settings.optional_path,
        "A PEM file with the certificate to serve sessions with TLS, and those above it. Read anew when it changes.",
    )
    tls_key: str = key("", settings.optional_path, "A PEM file with the key of tls_cert.")
    tls_client_ca: str = key(
        "",
        settings.optional_path,
        "A PEM file with the authorities that a client's certificate must come from. Clients need none if empty.",
    )
    end_exec_with_client: bool = key(
        True,
        settings.flag,
        "End a command, and all that it started, when the client of its exec session goes away. false lets it run\n"
        "on without input.",
    )


def problems(streaming: Streaming) -> list[str]:
    """What is wrong with these keys together, all of it."""
    found = []
    given = {
        "tls_cert": streaming.tls_cert,
        "tls_key": streaming.tls_key,
        "tls_client_ca": streaming.tls_client_ca,
    }
    missing = [f"streaming.{name}" for name, path in given.items() if not path]
    if missing and not ipaddress.ip_address(streaming.address).is_loopback:
        address = settings.shown(streaming.address)
        found.append(
            f"streaming.address = {address}: not a loopback address, so that others than this machine could have"
            f" sessions; give {' and '.join(missing)} too, or 127.0.0.1"
        )
    for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")):
        if given[one] and not given[other]:
            shown = settings.shown(given[one])
            found.append(f"streaming.{one} = {shown}: needs streaming.{other} too")
    return found
