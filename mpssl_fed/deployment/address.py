"""Names and addresses that a TLS client can find in a certificate; whatever none can match is refused with its cure."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from mpssl_fed.errors import UserError

LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
LONGEST_NAME, HIGHEST_PORT, EXAMPLE = 253, 65535, "fed.example.org"


def host(text: str, option: str = "host") -> str:
    """Return a DNS name in lower case, or an IP address, as a certificate holds it; UserError for anything else.

    A certificate names hosts, not URLs, ports or networks; DNS names in it are ASCII labels of letters, digits and hyphens
    (RFC 5280, RFC 6125), without the dot of the root.
    """
    why, cure = _fault(text)
    if why:
        raise UserError(f"{option} '{text}': {why}; {cure}")
    return str(ipaddress.ip_address(text)) if _is_address(text) else text.lower()


def listening(text: str, option: str) -> str:
    """Return a host to listen on: one of :func:`host`, or all addresses (0.0.0.0, ::); UserError for anything else."""
    return text if text in ("0.0.0.0", "::") else host(text, option)


def is_loopback(name: str) -> bool:
    """Whether a host (as :func:`host` returns it) is this machine alone."""
    return ipaddress.ip_address(name).is_loopback if _is_address(name) else name == "localhost"


def host_and_port(text: str, option: str, usual_port: int) -> str:
    """Return ``HOST:PORT`` (an IPv6 address in brackets); UserError for a URL, a missing or impossible port, or a bad host."""
    if "://" in text:
        raise UserError(f"{option} {text}: a URL; want HOST:PORT, for example {_host_of_url(text)}:{usual_port}")
    name, colon, port = text.rpartition(":")
    if not colon or _is_address(text):
        shown = f"[{text}]" if _is_address(text) and ":" in text else text or EXAMPLE
        raise UserError(f"{option} {text}: no port; want HOST:PORT, for example {shown}:{usual_port}")
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= HIGHEST_PORT:
        raise UserError(f"{option} {text}: '{port}' is no port; want a number from 1 to {HIGHEST_PORT}, usually {usual_port}")
    bracketed = name.startswith("[") and name.endswith("]")
    if ":" in name and not bracketed:
        raise UserError(f"{option} {text}: an IPv6 address stands in brackets before its port: [{name}]:{port}")
    found = host(name[1:-1] if bracketed else name, option)
    return f"[{found}]:{port}" if ":" in found else f"{found}:{port}"


def _fault(text: str) -> tuple[str, str]:
    """Return what is wrong with ``text`` as a host and the cure; two empty strings where nothing is."""
    if not text or text != text.strip() or len(text.split()) > 1 or "," in text:
        return "want one name or address a word", f"for example: {EXAMPLE} 10.0.0.7"
    if "://" in text:
        return "a URL", f"give its host alone: {_host_of_url(text)}"
    if _is_address(text):
        return _fault_of_address(text)
    if text.startswith("[") or text.count(":") > 1:
        return "no IPv6 address", "give one as 2001:db8::7, without brackets and port"
    for mark, what in (("/", "a network or a path"), ("@", "holds a user's name"), (":", "holds a port")):
        if mark in text:
            return what, f"give the host alone: {re.split('[/:]', text.rpartition('@')[2])[0] or EXAMPLE}"
    return _fault_of_name(text)


def _fault_of_name(text: str) -> tuple[str, str]:
    labels = text.split(".")
    well_formed = len(text) <= LONGEST_NAME and all(LABEL.fullmatch(label) for label in labels)
    faults = (
        ("*" in text, "a wildcard", "name each host that sites reach the server by"),
        (not text.isascii(), "letters that DNS does not carry", f"give its ASCII form{_ascii(text)}"),
        (text.endswith("."), "ends in a dot, which no certificate's name does", f"leave it out: {text.rstrip('.')}"),
        ("_" in text, "an underscore, which no host name has", "use the server's other name, or its address"),
        (not well_formed, "no host name", f"want labels of 1 to 63 letters, digits and '-', joined by dots, such as {EXAMPLE}"),
        (labels[-1].isdigit(), "neither a name nor an IP address", "give all four numbers of an address, such as 10.0.0.7"),
    )
    return next(((why, cure) for wrong, why, cure in faults if wrong), ("", ""))


def _fault_of_address(text: str) -> tuple[str, str]:
    address = ipaddress.ip_address(text)
    if getattr(address, "scope_id", None):
        return "an address with the name of an interface", f"leave that out: {text.partition('%')[0]}"
    if address.is_unspecified or address.is_multicast:
        return "an address that nobody connects to", "give the one that sites reach the server by"
    return "", ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _ascii(text: str) -> str:
    try:
        return f": {text.encode('idna').decode()}"
    except UnicodeError:
        return " (xn--...)"


def _host_of_url(text: str) -> str:
    try:
        return urlsplit(text).hostname or EXAMPLE
    except ValueError:
        return EXAMPLE
