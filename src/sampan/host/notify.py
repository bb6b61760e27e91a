"""systemd's readiness protocol (sd_notify(3)): one datagram to $NOTIFY_SOCKET, if there is one."""

import os
import socket


def notify(state: str) -> None:
    """Tell the service manager, such as "READY=1"; nothing where there is none. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(target)
            sock.send(state.encode())
    except OSError:
        pass  # the manager is gone or has another opinion; serving pods matters more
