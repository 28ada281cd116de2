"""Secrets and signatures of webhooks (Standard Webhooks, https://www.standardwebhooks.com)."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64
"""Bytes of a key."""

_NEW = 32


def new_secret() -> str:
    """Return a random secret."""
    return PREFIX + b64encode(secrets.token_bytes(_NEW)).decode()


def key_of(secret: str) -> bytes:
    """Return the key that a secret stands for.  Raises ``ValueError``."""
    try:
        key = b64decode(secret.removeprefix(PREFIX), validate=True) if secret.startswith(PREFIX) else b""
    except (binascii.Error, ValueError):
        key = b""
    if not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(f"a secret is {PREFIX} and the Base64 of {SHORTEST} to {LONGEST} bytes")
    return key


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that identify and sign a message."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    mac = hmac.digest(key_of(secret), signed, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{b64encode(mac).decode()}",
    }
