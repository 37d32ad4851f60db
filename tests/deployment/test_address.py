"""Names that a certificate can hold and a client can match; every other one is refused, with what to give instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.deployment import certs
from mpssl_fed.deployment.address import host, host_and_port
from mpssl_fed.errors import UserError
from tests.deployment.test_certs import verified

REFUSED = {
    "": "for example: fed.example.org",
    " ": "for example: fed.example.org",
    "a.example,b.example": "one name or address a word",
    "a.example b.example": "one name or address a word",
    "fed.example.org\n": "one name or address a word",
    "https://fed.example.org:9092/x": "give its host alone: fed.example.org",
    "https://": "a URL",
    "https://[": "a URL",
    "fed.example.org:9092": "give the host alone: fed.example.org",
    "10.0.0.7:9092": "give the host alone: 10.0.0.7",
    "10.0.0.0/24": "give the host alone: 10.0.0.0",
    "me@fed.example.org": "give the host alone: fed.example.org",
    "fed.example.org.": "leave it out: fed.example.org",
    "my_host.example.org": "an underscore",
    "*.example.org": "a wildcard",
    "*": "a wildcard",
    "müller.example": "xn--mller-kva.example",
    "例え.jp": "give its ASCII form: xn--",
    "[::1]": "without brackets and port",
    "[::1]:9092": "without brackets and port",
    "2001:db8::7:zz": "no IPv6 address",
    "fe80::1%eth0": "leave that out: fe80::1",
    "0.0.0.0": "nobody connects to",
    "::": "nobody connects to",
    "224.0.0.1": "nobody connects to",
    "10.0.0": "all four numbers",
    "300.1.2.3": "all four numbers",
    "1.2.3.4.5": "all four numbers",
    "010.0.0.7": "all four numbers",
    "-fed.example.org": "no host name",
    "fed-.example.org": "no host name",
    "fed..example.org": "no host name",
    ".example.org": "no host name",
    "fed.example.org\x00": "no host name",
    "fed$.example.org": "no host name",
    "x" * 64 + ".org": "no host name",
    ".".join(["x" * 60] * 5): "no host name",
    "--help.": "leave it out",
}
TAKEN = {
    "fed.example.org": "fed.example.org",
    "FED.Example.ORG": "fed.example.org",
    "localhost": "localhost",
    "server-2": "server-2",
    "xn--mller-kva.example": "xn--mller-kva.example",
    "10.0.0.7": "10.0.0.7",
    "2001:DB8::7": "2001:db8::7",
    "::1": "::1",
    "9to5.example": "9to5.example",
}


@pytest.mark.parametrize(("text", "cure"), REFUSED.items())
def test_what_no_certificate_can_match(text: str, cure: str, tmp_path: Path) -> None:
    for refused in (host, lambda name: certs.make_server_certificate(tmp_path, ["localhost", name])):
        with pytest.raises(UserError) as error:
            refused(text)
        assert cure in str(error.value)
        assert not list(tmp_path.iterdir())


def test_every_name_that_is_taken_is_matched(tmp_path: Path) -> None:
    import ipaddress

    certs.make_ca(tmp_path)
    certs.make_server_certificate(tmp_path, [*TAKEN, *TAKEN])
    for text, name in TAKEN.items():
        assert host(text) == name
        try:
            subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            subject = x509.DNSName(name)
        assert verified(tmp_path, subject, tmp_path) == 2


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("https://fed.example.org:9092", "a URL; want HOST:PORT, for example fed.example.org:9092"),
        ("fed.example.org", "no port; want HOST:PORT, for example fed.example.org:9092"),
        ("", "no port"),
        ("::1", r"no port; want HOST:PORT, for example [::1]:9092"),
        ("2001:db8::7:9092:zz", "'zz' is no port"),
        ("2001:db8:0:0:0:0:0:7:9092", "in brackets before its port: [2001:db8:0:0:0:0:0:7]:9092"),
        ("fed.example.org:", "'' is no port"),
        ("fed.example.org:0", "'0' is no port"),
        ("fed.example.org:99999", "'99999' is no port"),
        ("fed.example.org:-1", "'-1' is no port"),
        ("fed.example.org:1e3", "'1e3' is no port"),
        ("fed.example.org:٣", "is no port"),
        ("my_host:9092", "an underscore"),
        ("müller.example:9092", "xn--mller-kva.example"),
        ("0.0.0.0:9092", "nobody connects to"),
        ("fed.example.org.:9092", "leave it out: fed.example.org"),
    ],
)
def test_servers_that_cannot_be_reached(text: str, cure: str) -> None:
    with pytest.raises(UserError) as error:
        host_and_port(text, "--server", 9092)
    assert cure in str(error.value)
    assert str(error.value).startswith(f"--server {text.partition(':')[0][:3]}") or "'" in str(error.value)


def test_servers_that_can() -> None:
    assert host_and_port("Fed.example.org:9092", "--server", 9092) == "fed.example.org:9092"
    assert host_and_port("127.0.0.1:8000", "--server", 9092) == "127.0.0.1:8000"
    assert host_and_port("[::1]:8000", "--server", 9092) == "[::1]:8000"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80) | st.text("abc.:-_/[]@*%0123456789", max_size=40))
def test_no_text_raises_anything_else_or_changes_twice(text: str) -> None:
    for read in (host, lambda text: host_and_port(text, "--server", 9092)):
        try:
            taken = read(text)
        except UserError:
            continue
        assert read(taken) == taken
