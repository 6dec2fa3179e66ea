"""Who may connect, the certificate of one's own, and settings that are checked."""

import asyncio
import os
import socket
import ssl

import pytest
from aiohttp import ClientConnectorCertificateError
from cryptography import x509
from live_server import running, settings

from mirage_jax.errors import MirageError
from mirage_jax.live.access import Access, content_policy
from mirage_jax.live.certificate import fingerprint, own_certificate, tls_context
from mirage_jax.live.protocol import State
from mirage_jax.live.run import public_address

HOST = socket.gethostname().lower()


@pytest.mark.parametrize(
    ("host", "address", "fits"),
    [
        ("127.0.0.1:8765", "127.0.0.1", True),
        ("localhost:8765", "127.0.0.1", True),
        ("LOCALHOST:8765", "127.0.0.1", True),
        ("[::1]:8765", "::1", True),
        ("[0:0:0:0:0:0:0:1]:8765", "::1", True),
        ("192.168.1.5:8765", "192.168.1.5", True),
        ("192.168.1.5:8765", "::ffff:192.168.1.5", True),
        (f"{HOST}.local:8765", "192.168.1.5", True),
        ("studio.lan:8765", "192.168.1.5", True),
        ("studio.lan", "192.168.1.5", True),  # behind a proxy
        ("192.168.1.6:8765", "192.168.1.5", False),
        ("127.0.0.1:1", "127.0.0.1", False),
        ("evil.example:8765", "127.0.0.1", False),
        ("localhost.evil.example:8765", "127.0.0.1", False),
        ("localhost:8765@evil.example", "127.0.0.1", False),
        ("localhost:8765/x", "127.0.0.1", False),
        ("localhost:99999", "127.0.0.1", False),
        ("[::1", "::1", False),
        ("", "127.0.0.1", False),
    ],
)
def test_names_of_this_server(host, address, fits):
    access = Access(names=["studio.lan"])
    assert access.host_fits(host, address, 8765) is fits


def test_origins():
    access = Access()
    assert access.origin_fits(None, "localhost:1", False)
    assert access.origin_fits("http://localhost:1", "localhost:1", False)
    assert not access.origin_fits("http://localhost:1", "localhost:1", True)
    assert not access.origin_fits("http://localhost:2", "localhost:1", False)
    assert "wss://a:1" in content_policy("a:1", True)["Content-Security-Policy"]


def test_token():
    assert Access().token_fits("anything")
    access = Access("secret")
    assert access.token_fits("secret")
    for wrong in ("", "secre", "secrett", "s\udcffcret"):
        assert not access.token_fits(wrong)


def test_certificate_is_made_once_and_again_for_other_names(tmp_path):
    folder = tmp_path / "state"
    certificate, key = own_certificate(["192.168.1.5"], folder)
    assert os.stat(key).st_mode & 0o777 == 0o600
    assert os.stat(folder).st_mode & 0o777 == 0o700
    first = fingerprint(certificate)
    assert len(first) == 95
    own_certificate(["192.168.1.5"], folder)
    assert fingerprint(certificate) == first
    own_certificate(["192.168.1.6", "studio.lan"], folder)
    assert fingerprint(certificate) != first
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert {"studio.lan", "localhost"} <= set(
        names.value.get_values_for_type(x509.DNSName)
    )
    certificate.write_text("damaged")
    own_certificate([], folder)
    assert tls_context(certificate, key)


def test_certificate_troubles_are_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(MirageError, match="XDG_STATE_HOME"):
        own_certificate([], blocked / "state")
    with pytest.raises(MirageError, match="PEM files that belong together"):
        tls_context(tmp_path / "none.pem", tmp_path / "none.key")


def test_tls_with_the_own_certificate_and_a_token(tmp_path):
    certificate, key = own_certificate([], tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificate))

    async def play():
        async with running("secret", tls_context(certificate, key)) as server:
            with pytest.raises(ClientConnectorCertificateError):
                async with server.viewer("secret"):
                    pass
            own = server.url.removesuffix("/")
            options = {"ssl": trusting, "headers": {"Origin": own}}
            async with server.viewer("wrong", **options) as viewer:
                await viewer.next(State, state="refused")
            async with server.viewer("secret", **options) as viewer:
                await viewer.next(State, state="ready")

    asyncio.run(play())


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_loopback_is_known(host, loopback):
    assert settings(host=host).loopback is loopback


def test_public_address():
    assert public_address("192.168.1.5") == "192.168.1.5"
    assert public_address("studio.lan") == "studio.lan"
    assert public_address("0.0.0.0") not in ("", "0.0.0.0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seats": 0}, "seats 0 is out of range"),
        ({"cpu_size": "100"}, "multiple of 32"),
        ({"port": 70000}, "port 70000"),
        ({"key": "key.pem"}, "needs its key"),
        ({"prompt": " "}, "is empty"),
        ({"strength": 1.5}, "strength 1.5 is out of range: take 0 to 1"),
        ({"strength": float("nan")}, "strength nan is out of range"),
        ({"steps": 2, "most_steps": 1}, "most_steps 1 is out of range: take 2 to 4"),
        ({"most_steps": 8}, "most_steps 8 is out of range"),
        ({"steps": 3}, "steps=3"),
        ({"commit": "never"}, "commit='never'"),
        ({"precision": "half"}, "precision 'half'"),
        ({"nope": 1}, "nope unknown or missing"),
    ],
)
def test_wrong_settings_are_one_line(change, message):
    with pytest.raises(MirageError, match=message):
        settings(**change)


def test_size_and_seats_by_platform():
    cpu, gpu = settings().stream("cpu"), settings().stream("gpu")
    assert (cpu.batch, cpu.height, cpu.dtype) == (1, 256, "float32")
    assert (gpu.batch, gpu.height, gpu.dtype) == (2, 512, "bfloat16")
