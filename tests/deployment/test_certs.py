"""The CA signs what a TLS client accepts, keys are secret, and no key is overwritten."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from mpssl_fed.deployment import certs
from mpssl_fed.errors import UserError


def verified(folder: Path, host: x509.GeneralName, trusted: Path) -> int:
    """Return the length of the chain from the server's certificate to the CA in ``trusted``."""
    ca = x509.load_pem_x509_certificate((trusted / certs.CA_CERT).read_bytes())
    cert = x509.load_pem_x509_certificate((folder / certs.SERVER_CERT).read_bytes())
    assert isinstance(host, x509.DNSName | x509.IPAddress)
    return len(PolicyBuilder().store(Store([ca])).build_server_verifier(host).verify(cert, []))


def test_certificate_holds_for_its_hosts_alone(tmp_path: Path) -> None:
    import ipaddress

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        certs.make_ca(folder)
        certs.make_server_certificate(folder, ["fed.example.org", "10.0.0.7"])
    assert verified(ours, x509.DNSName("fed.example.org"), ours) == 2
    assert verified(ours, x509.IPAddress(ipaddress.ip_address("10.0.0.7")), ours) == 2
    with pytest.raises(VerificationError):
        verified(ours, x509.DNSName("other.example.org"), ours)
    with pytest.raises(VerificationError):
        verified(ours, x509.DNSName("fed.example.org"), theirs)
    before = (ours / certs.SERVER_CERT).read_bytes()
    certs.make_server_certificate(ours, ["fed.example.org"])  # renewal, under the same CA
    assert (ours / certs.SERVER_CERT).read_bytes() != before
    assert verified(ours, x509.DNSName("fed.example.org"), ours) == 2


def test_keys_are_secret_and_never_overwritten(tmp_path: Path) -> None:
    certs.make_ca(tmp_path)
    certs.make_server_certificate(tmp_path, ["localhost"])
    private, public = certs.make_site_key(tmp_path, "north")
    for key in (private, tmp_path / certs.CA_KEY, tmp_path / certs.SERVER_KEY):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    pair = serialization.load_ssh_private_key(private.read_bytes(), None).public_key()
    assert pair == serialization.load_ssh_public_key(public.read_bytes())
    with pytest.raises(UserError, match="exists; move it away"):
        certs.make_site_key(tmp_path, "north")
    with pytest.raises(UserError, match="exists; move it away"):
        certs.make_ca(tmp_path)
    with pytest.raises(UserError, match=r"site name '\.\./up'"):
        certs.make_site_key(tmp_path, "../up")
    with pytest.raises(UserError, match="make one with: mpssl-fed certs ca"):
        certs.make_server_certificate(tmp_path / "elsewhere", ["localhost"])
