"""Passwords: which are accepted, and how they are hashed."""

from __future__ import annotations

import hmac
import re
import unicodedata
from base64 import b64encode

import bcrypt

from godrive.errors import Invalid

HIGHEST_COST = 16
"""The highest cost of a password hash that the configuration allows."""

_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")


def check_new_password(password: str, *, field: str = "password") -> None:
    """Accept any 8 to 1024 characters, a NUL included.  Raises ``Invalid`` that names *field*."""
    if not 8 <= len(password) <= 1024:
        raise Invalid("A password has 8 to 1024 characters.", field=field)
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise Invalid("The password is not text.", field=field)


def check_hash(hashed: str) -> None:
    """Accept a hash that :func:`check_password` can read at a cost that can be paid, or none.  Raises ``Invalid``."""
    if hashed and not _BCRYPT.fullmatch(hashed):
        raise Invalid("The password is not hashed with bcrypt.", field="password_hash")
    if hashed and cost_of(hashed) > HIGHEST_COST:
        raise Invalid(f"The cost of the password's hash is above {HIGHEST_COST}.", field="password_hash")


def hash_password(password: str, cost: int) -> str:
    """The bcrypt hash.  Takes about 0.25 s of a core at cost 12.  See :func:`_password_bytes`."""
    return bcrypt.hashpw(_password_bytes(password), bcrypt.gensalt(cost)).decode("ascii")


def check_password(password: str, hashed: str) -> bool:
    """Whether the hash is of this password.  Takes as long as it took to make the hash."""
    return bcrypt.checkpw(_password_bytes(password), hashed.encode("ascii"))


def dummy_hash(cost: int) -> str:
    """A hash of no known password, to check against where there is no user, so that time does not tell."""
    return f"$2b${cost:02}$N7cVhW1cZfHjkT3sYgqkpePt6l1zEo5UMWqZ8pr3dQO0bXw4nJx7K"


def needs_rehash(hashed: str, cost: int) -> bool:
    """Whether the hash was made at another cost than *cost*."""
    return cost_of(hashed) != cost


def cost_of(hashed: str) -> int:
    """The cost at which the hash was made."""
    return int(hashed[4:6])


def _password_bytes(password: str) -> bytes:
    """What bcrypt gets: the whole password in NFC (RFC 8265, section 4.2) and UTF-8.

    bcrypt reads 72 bytes and, in many versions, stops at a NUL.  A password
    longer than that, or with a NUL, is replaced by its HMAC-SHA-384 in 64
    characters of Base64.  The HMAC key is fixed; it makes digests that leaked
    elsewhere useless here.  Other passwords are hashed as they are, so hashes
    made elsewhere can be imported.
    """
    data = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    if len(data) <= 72 and b"\0" not in data:
        return data
    return b64encode(hmac.digest(b"godrive long password", data, "sha384"))
