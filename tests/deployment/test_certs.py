"""The CA signs what a TLS client accepts, keys are secret, and no key is overwritten."""

from __future__ import annotations

import shutil
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from mpssl_fed.deployment import certs
from mpssl_fed.errors import UserError
from tests.killed import every_kill


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


def test_a_kill_leaves_no_name_without_its_second_half(tmp_path: Path) -> None:
    folder = tmp_path / "keys"

    def make() -> None:
        certs.make_ca(folder)
        certs.make_site_key(folder, "north")

    for _ in every_kill(folder, lambda: shutil.rmtree(folder, ignore_errors=True), make):
        if not (folder / certs.CA_CERT).exists():
            certs.make_ca(folder)
        if not (folder / "north.pub").exists():
            certs.make_site_key(folder, "north")
        certs.make_server_certificate(folder, ["localhost"])
        assert verified(folder, x509.DNSName("localhost"), folder) == 2
        pair = serialization.load_ssh_private_key((folder / "north.key").read_bytes(), None).public_key()
        assert pair == serialization.load_ssh_public_key((folder / "north.pub").read_bytes())
        assert stat.S_IMODE((folder / certs.CA_KEY).stat().st_mode) == 0o600


def test_a_renewal_that_is_killed_between_key_and_certificate_is_told(tmp_path: Path) -> None:
    certs.make_ca(tmp_path)
    certs.make_server_certificate(tmp_path, ["localhost"])
    certs.require_pair(tmp_path)
    old = (tmp_path / certs.SERVER_CERT).read_bytes()
    certs.make_server_certificate(tmp_path, ["localhost"])
    (tmp_path / certs.SERVER_CERT).write_bytes(old)
    with pytest.raises(UserError, match=r"server\.key is not the key of server\.crt; was a renewal cut short\? renew them"):
        certs.require_pair(tmp_path)


def test_the_key_of_another_ca_signs_nothing(tmp_path: Path) -> None:
    for name in ("one", "other"):
        certs.make_ca(tmp_path / name)
    shutil.copy(tmp_path / "other" / certs.CA_KEY, tmp_path / "one")
    with pytest.raises(UserError, match=r"ca\.key is not the key of ca\.crt"):
        certs.make_server_certificate(tmp_path / "one", ["localhost"])


def test_of_two_that_make_one_key_both_end_with_the_same(tmp_path: Path) -> None:
    made = [threading.Thread(target=lambda: suppress_refusal(tmp_path)) for _ in range(4)]
    for thread in made:
        thread.start()
    for thread in made:
        thread.join()
    certs.make_server_certificate(tmp_path, ["localhost"])
    assert verified(tmp_path, x509.DNSName("localhost"), tmp_path) == 2


def suppress_refusal(folder: Path) -> None:
    """Make a CA, or be told that it is there."""
    with suppress(UserError):
        certs.make_ca(folder)
