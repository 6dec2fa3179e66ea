"""A certificate of one's own, for browsers that give a camera to nothing less.

It is made at the first need and kept, so that a browser asks only once whether to
trust it.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mirage_jax.errors import MirageError

_DAYS = 365
_RENEW_BEFORE = datetime.timedelta(days=14)


def state_folder() -> Path:
    """Where this user's programs keep what they made: XDG_STATE_HOME or its default."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "mirage-jax"


def own_certificate(names: Iterable[str], folder: Path) -> tuple[Path, Path]:
    """(certificate, key) for these names; made if absent, for others, or nearly over.

    Args:
      names: host names and IP addresses beside localhost and this host's name.
      folder: made with access for its owner alone.

    Raises:
      MirageError: the folder cannot be written.
    """
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    wanted = {"localhost", "127.0.0.1", "::1", socket.gethostname(), *names}
    try:
        if not _still_good(certificate, key, wanted):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made, secret = _make(sorted(wanted))
            _write(key, secret)
            _write(certificate, made)
    except OSError as error:
        raise MirageError(
            f"cannot keep a certificate in {folder} ({error.strerror}): set "
            "XDG_STATE_HOME, or give --config.certificate and --config.key"
        ) from error
    return certificate, key


def tls_context(certificate: str | Path, key: str | Path) -> ssl.SSLContext:
    """A server's TLS with this certificate.

    Raises:
      MirageError: the files are missing or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        raise MirageError(
            f"cannot use certificate {certificate} with key {key} ({error}): give PEM "
            "files that belong together"
        ) from error
    return context


def fingerprint(certificate: Path) -> str:
    """SHA-256 of a certificate, as browsers show it."""
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    return loaded.fingerprint(hashes.SHA256()).hex(":").upper()


def _still_good(certificate: Path, key: Path, wanted: set[str]) -> bool:
    if not (certificate.is_file() and key.is_file()):
        return False
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound):
        return False
    known = {str(name.value) for name in names.value}
    now = datetime.datetime.now(datetime.UTC)
    return wanted <= known and loaded.not_valid_after_utc - now > _RENEW_BEFORE


def _make(names: list[str]) -> tuple[bytes, bytes]:
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Mirage JAX")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([_general(name) for name in names]), False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(secret, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, data: bytes) -> None:
    """For the owner's eyes from the first moment on."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)
