from typing import Any

import pytest

from sampan.config import ConfigInvalid, loads
from sampan.wire.streaming_settings import Streaming, problems

TLS: dict[str, Any] = {"tls_cert": "/tls/cert", "tls_key": "/tls/key", "tls_client_ca": "/tls/ca"}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_a_loopback_address_needs_nothing(address: str) -> None:
    assert problems(Streaming(address=address)) == []


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "169.254.1.1", "10.0.0.1"])
@pytest.mark.parametrize("missing", [[], ["tls_cert"], ["tls_key"], ["tls_client_ca"], list(TLS)])
def test_any_other_needs_tls_and_clients_with_certificates(address: str, missing: list[str]) -> None:
    given = {name: path for name, path in TLS.items() if name not in missing}
    found = problems(Streaming(address=address, **given))
    assert bool(found) is bool(missing)
    assert all(f"streaming.{name}" in found[0] for name in missing)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tls_cert"}, ['streaming.tls_cert = "/tls/cert": needs streaming.tls_key too']),
        ({"tls_key"}, ['streaming.tls_key = "/tls/key": needs streaming.tls_cert too']),
        ({"tls_client_ca"}, ['streaming.tls_client_ca = "/tls/ca": needs streaming.tls_cert too']),
        ({"tls_cert", "tls_key"}, []),
        (set(TLS), []),
    ],
)
def test_the_files_of_tls_come_together(given: set[str], words: list[str]) -> None:
    assert problems(Streaming(**{name: TLS[name] for name in given})) == words


def test_everything_that_is_wrong_is_in_one_message() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        loads('log_level = "loud"\n[streaming]\naddress = "0.0.0.0"\ntls_cert = "/tls/cert"\n')
    assert len(caught.value.problems) == 3


def test_an_address_is_one_of_ip() -> None:
    for wrong in ("", "localhost", "example.com", "127.0.0.1:80", "[::1]"):
        with pytest.raises(ConfigInvalid, match="must be an IP address"):
            loads(f'[streaming]\naddress = "{wrong}"')
