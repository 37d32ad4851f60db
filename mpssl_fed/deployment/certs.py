"""Keys and certificates of a federation: its own CA, the server's TLS certificate, one signing key a site."""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mpssl_fed.deployment.address import host
from mpssl_fed.errors import UserError
from mpssl_fed.files import plain_file, write_atomic, write_new

CA_CERT, CA_KEY, SERVER_CERT, SERVER_KEY = "ca.crt", "ca.key", "server.crt", "server.key"
CA_DAYS, SERVER_DAYS = 3650, 397
SECRET = 0o600


def make_ca(folder: Path) -> None:
    """Write ``ca.key`` (0600) and ``ca.crt``: what signs the server's certificate, and what every site trusts.

    A key without its certificate, which a kill leaves, gets one. UserError where both are there.
    """
    key = _own_key(folder / CA_KEY, folder / CA_CERT, serialization.PrivateFormat.PKCS8)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mpssl-fed CA")])
    usage = {"key_cert_sign": True, "crl_sign": True}
    cert = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    write_atomic(folder / CA_CERT, cert.public_bytes(serialization.Encoding.PEM))


def make_server_certificate(folder: Path, hosts: Sequence[str]) -> None:
    """Write ``server.key`` (0600) and ``server.crt`` for ``hosts`` (names or addresses), signed by the CA in ``folder``.

    An earlier pair is replaced: that is how a certificate is renewed. UserError for a name that no client can match.
    """
    hosts = list(dict.fromkeys(host(name) for name in hosts))
    ca_key, ca = _read_ca(folder)
    key = ec.generate_private_key(ec.SECP384R1())
    cert = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])]), ca.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_san(name) for name in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    write_atomic(folder / SERVER_KEY, _pem(key), SECRET)
    write_atomic(folder / SERVER_CERT, cert.public_bytes(serialization.Encoding.PEM))


def make_site_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``NAME.key`` (0600) and ``NAME.pub``, a P-384 pair in OpenSSH's form, and return their paths.

    The private half belongs on the site's machine alone: make it there, and hand over the public half. One without the other, which
    a kill leaves, gets it; UserError where both are there.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise UserError(f"site name '{name}': want letters, digits, '-', '_' and '.', for example site-0")
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    key = _own_key(private, public, serialization.PrivateFormat.OpenSSH)
    openssh = serialization.PublicFormat.OpenSSH
    write_atomic(public, key.public_key().public_bytes(serialization.Encoding.OpenSSH, openssh) + b"\n")
    return private, public


def _own_key(file: Path, public: Path, form: serialization.PrivateFormat) -> ec.EllipticCurvePrivateKey:
    """Return the key in ``file``, a new one where there is none yet; UserError where its ``public`` part is there, too.

    A key that is replaced by mistake locks a site out; of two processes that make one at once the second takes the first one's.
    """
    if file.exists() and public.exists():
        raise UserError(f"{file} exists; move it away first if you mean to replace it")
    with suppress(FileExistsError):
        write_new(file, _pem(ec.generate_private_key(ec.SECP384R1()), form), SECRET)
    content = plain_file(file).read_bytes()
    openssh = form is serialization.PrivateFormat.OpenSSH
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        key = load(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f"{file}: no key that can be read ({error}); move it away, and a new one is made") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{file}: not an elliptic-curve key of mpssl-fed; move it away, and a new one is made")
    return key


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=5))
    return builder.not_valid_after(now + datetime.timedelta(days=days))


def _usage(**given: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
        "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _read_ca(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key(plain_file(folder / CA_KEY).read_bytes(), password=None)
        cert = x509.load_pem_x509_certificate(plain_file(folder / CA_CERT).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no readable CA ({CA_KEY}, {CA_CERT}); make one with: mpssl-fed certs ca {folder}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{folder / CA_KEY}: not an elliptic-curve key of mpssl-fed")
    if key.public_key() != cert.public_key():
        raise UserError(f"{folder}: {CA_KEY} is not the key of {CA_CERT}; put the two that belong together there, or make a new CA")
    return key, cert


def require_pair(folder: Path) -> None:
    """Raise UserError unless ``server.key`` is the key of ``server.crt``: a renewal that was cut short leaves the old one."""
    cure = "renew them: mpssl-fed certs server, where the CA's key is"
    try:
        key = serialization.load_pem_private_key(plain_file(folder / SERVER_KEY).read_bytes(), password=None)
        cert = x509.load_pem_x509_certificate(plain_file(folder / SERVER_CERT).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: {SERVER_KEY} or {SERVER_CERT} cannot be read ({error}); {cure}") from error
    if key.public_key() != cert.public_key():
        raise UserError(f"{folder}: {SERVER_KEY} is not the key of {SERVER_CERT}; was a renewal cut short? {cure}")


def _pem(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
