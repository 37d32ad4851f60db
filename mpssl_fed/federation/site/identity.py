"""Who a site is to other sites: an Ed25519 key that its owner keeps, and the fingerprint that others list as a peer."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpssl_fed.files import kept_secret
from mpssl_fed.secure import keys

IDENTITY, KEY_BYTES = "identity.key", 32


def identity_key(folder: Path) -> Ed25519PrivateKey:
    """Return the site's key, 32 bytes in a file of its state folder (0600), made once. UserError for a file that is none.

    It only signs: what masks and shares are made from is drawn anew for each exchange of keys and never stored.
    """
    return Ed25519PrivateKey.from_private_bytes(kept_secret(folder / IDENTITY, KEY_BYTES))


def fingerprint_of(key: Ed25519PrivateKey) -> str:
    """Return the SHA-256 of the public key, 64 hex digits: what other sites list under ``secure_aggregation.peers``."""
    return keys.fingerprint(keys.public_of(key))
