import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sampan.config import Streaming
from sampan.model.errors import Unavailable
from sampan.server.streaming.tls import Certificates
from sampan.wire.remotecommand.status import Status
from sampan.wire.upgrade import Refused
from tests.sessions import ALL, lab
from tests.stream_clients import CARRIERS, Client


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, name: str, directory: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.directory = directory
        self.certificate = self._sign(name, self.key, self.key, name, authority=True)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.certificate.subject.rfc4514_string().removeprefix("CN=")
        made = self._sign(name, key, self.key, issuer)
        cert, secret = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert, secret

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        signer: ec.EllipticCurvePrivateKey,
        issuer: str,
        *,
        authority: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(addresses, critical=False)
            .sign(signer, hashes.SHA256())
        )


class Files:
    def __init__(self, directory: Path) -> None:
        self.ours, self.strangers = Authority("ours", directory), Authority("strangers", directory)
        self.cert, self.key = self.ours.issue("server")

    def keys(self, *, clients: bool = False) -> dict[str, Any]:
        keys: dict[str, Any] = {"tls_cert": str(self.cert), "tls_key": str(self.key)}
        return {**keys, "tls_client_ca": str(self.ours.file)} if clients else keys

    def client(self, authority: Authority | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ours.file))
        if authority is not None:
            context.load_cert_chain(*authority.issue("client"))
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_session_over_tls_is_like_any_other(files: Files, carrier: str) -> None:
    async with lab(**files.keys()) as it:
        url = await it.url("cat")
        assert url.startswith("https://127.0.0.1:")
        client = await Client.connect(carrier, url, ALL, tls=files.client())
        data = bytes(range(256)) * 4096
        await client.say(data)
        await client.end()
        assert await client.finished() == Status(code=0)
        assert client.stdout == data


async def test_a_client_needs_a_certificate_of_the_authority(files: Files) -> None:
    async with lab(**files.keys(clients=True)) as it:
        for authority in (None, files.strangers):
            with pytest.raises((OSError, Refused)):  # reset, an alert of TLS, or just the end
                await Client.connect("spdy", await it.url("echo"), ALL, tls=files.client(authority))
        assert not it.commands.ran
        client = await Client.connect("spdy", await it.url("echo"), ALL, tls=files.client(files.ours))
        assert await client.finished() == Status(code=0)


async def test_old_versions_of_tls_are_refused(files: Files) -> None:
    async with lab(**files.keys()) as it:
        context = files.client()
        assert (await Certificates(it.system.config.streaming).context()).minimum_version is (  # type: ignore[union-attr]
            ssl.TLSVersion.TLSv1_2
        )
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        client = await Client.connect("spdy", await it.url("echo"), ALL, tls=context)
        assert await client.finished() == Status(code=0)


async def test_a_new_certificate_is_used_when_it_is_there(files: Files) -> None:
    certificates = Certificates(Streaming(**files.keys()))
    first = await certificates.context()
    assert await certificates.context() is first
    files.ours.issue("server")
    second = await certificates.context()
    assert second is not first and await certificates.context() is second


async def test_while_files_do_not_fit_each_other_the_last_good_ones_are_used(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates(Streaming(**files.keys()))
    first = await certificates.context()
    good = files.key.read_bytes()
    files.key.write_bytes(files.ours.issue("other")[1].read_bytes())
    for _ in range(3):
        assert await certificates.context() is first
    assert len(caplog.records) == 1 and "cannot be used" in caplog.text
    files.key.unlink()
    assert await certificates.context() is first
    files.key.write_bytes(good)
    assert await certificates.context() is not first
    assert good.decode() not in caplog.text


async def test_files_that_never_were_any_good_are_said_at_the_start(files: Files) -> None:
    files.key.write_text("no key")
    with pytest.raises(Unavailable, match=r"server\.key\) cannot be used"):
        async with lab(**files.keys()):
            pass


async def test_a_key_with_a_password_is_refused_and_nobody_is_asked(files: Files) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(Unavailable, match="the key is encrypted"):
        await Certificates(Streaming(**files.keys())).context()


async def test_without_a_certificate_there_is_no_tls() -> None:
    assert await Certificates(Streaming()).context() is None
