"""Keys and keystreams, all by ``cryptography``: X25519, HKDF-SHA256, Ed25519, ChaCha20-Poly1305, AES-256-CTR."""

from __future__ import annotations

import hashlib
import hmac
import os

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from mpssl_fed.secure.errors import Decline

SECRET = 16
"""Bytes of a secret that is shared: an element of the field GF(2^128) of the shares."""
SEAL_NONCE, TAG = 12, 16
"""Bytes that sealing adds before and after."""
Integers = NDArray[np.uint64]
BLOCK = 1 << 16
"""Integers that are worked on at a time: half a MiB of them."""


def derive(secret: bytes, *context: object) -> bytes:
    """Return 32 bytes by HKDF-SHA256 of ``secret`` for one purpose: ``context`` tells purposes apart, each part with its length."""
    info = b"mpssl-fed secure 1" + b"".join(len(part).to_bytes(4, "big") + part for part in map(_bytes, context))
    return HKDF(SHA256(), 32, salt=None, info=info).derive(secret)


def _bytes(part: object) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode()


def slot_key(secret: bytes, nonce: bytes, slot: int) -> X25519PrivateKey:
    """Return the X25519 key of ``slot`` that a shared secret stands for, at the site that drew ``nonce``."""
    return X25519PrivateKey.from_private_bytes(derive(secret, "slot key", nonce, slot))


def commitment(seed: bytes, nonce: bytes, slot: int) -> bytes:
    """Return the 32 bytes by which a site commits to the self seed of ``slot`` without showing it."""
    return derive(seed, "seed commitment", nonce, slot)


def agreed(mine: X25519PrivateKey, theirs: bytes) -> bytes:
    """Return what both ends of a Diffie-Hellman exchange know; Decline for a public key of small order or length."""
    try:
        return mine.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:
        raise Decline("malformed") from error


def add_keystream(vector: Integers, key: bytes, sign: int = 1) -> None:
    """Add (sign 1) or subtract (-1) as many uniform integers modulo 2^64 as ``vector`` has, in place: AES-256-CTR from 0.

    A key serves one stream, ever. Block by block, so that a stream never leaves the processor's cache.
    """
    cipher, put = Cipher(AES(key), CTR(bytes(16))).encryptor(), np.add if sign > 0 else np.subtract
    buffer = bytearray(8 * BLOCK + 16)  # the cipher wants room for a block of its own beyond the end
    stream, zeros = np.frombuffer(buffer, dtype="<u8", count=BLOCK), memoryview(bytes(8 * BLOCK))
    for start in range(0, len(vector), BLOCK):
        part = vector[start : start + BLOCK]
        cipher.update_into(zeros[: 8 * len(part)], buffer)
        put(part, stream[: len(part)], out=part)


def seal(key: bytes, content: bytes, context: bytes) -> bytes:
    """Return ``content`` encrypted and bound to ``context``, after a nonce that is drawn: of a simulated site whose folder was put
    back, a key may seal other shares again."""
    nonce = os.urandom(SEAL_NONCE)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, context)


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """Return what was sealed; Decline for another key, context or content."""
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:SEAL_NONCE], sealed[SEAL_NONCE:], context)
    except (InvalidTag, ValueError) as error:
        raise Decline("malformed") from error


def verify(public: bytes, signature: bytes, content: bytes) -> bool:
    """Whether the holder of the Ed25519 key ``public`` signed ``content``."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def public_of(key: Ed25519PrivateKey | X25519PrivateKey) -> bytes:
    """Return the 32 bytes of the public key."""
    return key.public_key().public_bytes_raw()


def fingerprint(public: bytes) -> str:
    """Return the name of an identity in a policy: the SHA-256 of its public key, 64 hex digits."""
    return hashlib.sha256(public).hexdigest()


def same(one: bytes, other: bytes) -> bool:
    """Compare without telling by time where they differ."""
    return hmac.compare_digest(one, other)
