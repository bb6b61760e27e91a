"""What went wrong with a request to a registry, in words for whoever reads the pod's events. Imports aiohttp.

The library's own texts are not passed on: some hold whole URLs, and a signed one is a secret.
"""

import ssl

import aiohttp
from yarl import URL

from sampan.host.registry.address import AddressRefused
from sampan.model.errors import Denied, Invalid, NotFound, RegistryUnavailable, SampanError
from sampan.wire import distribution

_PLAIN_HTTP = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


class Broken(Exception):
    """It may work if tried again; `after` is how many seconds the registry asks to wait, `stalled` whether it did
    not get on."""

    def __init__(self, what: str, after: float | None = None, *, stalled: bool = False) -> None:
        super().__init__(what)
        self.after = after
        self.stalled = stalled


def explain(error: Exception, url: URL, patience: float | None) -> Exception:
    """The error to raise for what a request to `url` ran into: Broken if trying again may help."""
    where = distribution.redact(str(url))
    if isinstance(error, aiohttp.ClientConnectorError | AddressRefused):
        return _unconnected(error, url, where)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return RegistryUnavailable(f"{where} cannot be reached: it does not take the connection")
    if isinstance(error, TimeoutError):
        return Broken(f"{where} let {patience or 0:g} s pass without getting on", stalled=True)
    if isinstance(error, aiohttp.ClientResponseError):
        odd = RegistryUnavailable(f"{where} does not speak HTTP as it should")
        return refusal(407, where, "", "") if error.status == 407 else odd  # 407: a proxy's answer to CONNECT
    if isinstance(error, ValueError):
        return Invalid(f"{where} is no address that can be asked")
    return Broken(f"{where} broke the connection")


def _unconnected(error: aiohttp.ClientConnectorError | AddressRefused, url: URL, where: str) -> SampanError:
    """Why there was no connection. It is not tried again: at once it would find the same, and the next host, or the
    kubelet in ten seconds, is the better attempt."""
    match error:
        case AddressRefused():
            return Invalid(f"{where} is not asked: {error}")
        case aiohttp.ClientConnectorCertificateError():
            return RegistryUnavailable(f"{where}: {_certificate(error.certificate_error)}")
        case aiohttp.ClientConnectorDNSError():
            return RegistryUnavailable(f"the name of {where} cannot be resolved: {error.os_error.strerror}")
        case aiohttp.ClientSSLError():
            return RegistryUnavailable(f"{where}: {_tls(error.os_error, url)}")
        case _:
            reason = error.os_error.strerror or "no connection"
            return RegistryUnavailable(f"{where} cannot be reached: {reason}")


def passes(status: int) -> bool:
    """Whether an answer with this status may be another one when asked again: too slow, too often, out of order (and
    not 501 and 505, which say what the host cannot do)."""
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))


def refusal(status: int, where: str, codes: str, hint: str) -> Exception:
    """The error for an answer that will not change by asking again. Only a host that is out of order is unavailable:
    the kubelet tells people so."""
    said = f" ({codes})" if codes else ""
    match status:
        case 404 | 410:
            return NotFound(f"{where} does not exist{said}")
        case 401 | 403 | 451:
            return Denied(f"{where} is refused with {status}{said}: {hint}")
        case 407:
            return Denied(
                f"{where} is behind a proxy that wants credentials: name them in the daemon's HTTPS_PROXY"
            )
        case _ if status >= 500:
            return RegistryUnavailable(f"{where} answered {status}{said}")
        case _:
            return Invalid(f"{where} answered {status}{said}, which no registry should")


def _certificate(error: Exception) -> str:
    reason = getattr(error, "verify_message", "") or "its certificate cannot be verified"
    return f"its TLS certificate is not trusted ({reason}); name its authority as ca in its hosts.toml"


def _tls(error: OSError, url: URL) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    if reason in _PLAIN_HTTP:
        return (
            "it does not answer in TLS. If it speaks plain HTTP and that is meant, say so in the registry's "
            f'hosts.toml: server = "http://{url.authority}"'
        )
    return f"no TLS connection ({reason or error.strerror})"
