"""The proxy for a request, by the variables HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the daemon, read as Go's programs
read them (golang.org/x/net/http/httpproxy), so that a node's settings mean the same to every runtime.
"""

import ipaddress
from contextlib import suppress
from urllib.request import getproxies

from yarl import URL


def of(url: URL) -> str | None:
    """The proxy by which `url` is asked; None: none. Never one for this machine itself."""
    proxies = getproxies()
    proxy = proxies.get(url.scheme)
    return None if not proxy or _direct(url, proxies.get("no", "")) else _whole(proxy)


def hosts() -> frozenset[str]:
    """The names of all proxies."""
    found: set[str] = set()
    for proxy in getproxies().values():
        with suppress(ValueError):
            found.add(URL(_whole(proxy)).host or "")
    return frozenset(found)


def _whole(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def _direct(url: URL, exceptions: str) -> bool:
    host = (url.host or "").lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_excepted(host, address, url.port, each.strip().lower()) for each in exceptions.split(","))


def _excepted(host: str, address: "_Address | None", port: int | None, exception: str) -> bool:
    """Whether one entry of NO_PROXY means this host: "*", a network, an address, or a name, with all below it; a name
    after a dot means only what is below it. The latter two may have a port."""
    if exception == "*":
        return True
    if "/" in exception:
        return address is not None and _within(address, exception)
    name, colon, wanted = exception.rpartition(":")
    if colon and wanted.isdigit() and (name.endswith("]") or ":" not in name):
        exception = name if wanted == str(port) else ""
    exception = exception.strip("[]").removeprefix("*")
    if address is not None or not exception:
        return address is not None and address == _address(exception)
    return host == exception or host.endswith(exception if exception.startswith(".") else f".{exception}")


def _within(address: "_Address", network: str) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
