"""Passwords, tokens and signed URLs: pure functions over a keyring.

Nothing here waits, logs or reads a clock: callers pass the time.  Secrets are
compared in constant time.  A signed text has exactly one accepted spelling: a
change of any byte is refused.
"""

from __future__ import annotations

import errno
import hmac
import os
import re
import stat
import unicodedata
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import bcrypt
import jwt
import msgspec

from godrive.errors import ConfigError, Invalid, Unauthenticated, UrlInvalid, refused
from godrive.model import SessionId, UserId
from godrive.paths import create_file, exists, replace_file
from godrive.principal import UserSession

KEY_BYTES = 32
"""Length of a signing key: that of the digest, as RFC 7518, section 3.2, requires."""


@dataclass(frozen=True)
class Keyring:
    """Signing keys by id: the first signs, all verify.

    On disk: a line ``id:hex`` for each key, the one that signs first.  Blank
    lines and lines that begin with ``#`` are ignored.
    """

    keys: Mapping[str, bytes] = field(repr=False)

    @property
    def current(self) -> tuple[str, bytes]:
        """The id and the key that sign."""
        return next(iter(self.keys.items()))

    @classmethod
    def generate(cls) -> Keyring:
        """A keyring of one new key, which is not stored."""
        return cls({os.urandom(4).hex(): os.urandom(KEY_BYTES)})

    @classmethod
    def load(cls, path: Path) -> Keyring:
        """Read the file.

        Raises ``ConfigError`` when it cannot be read or is malformed, and when
        it belongs to this user and others may read it.  Its group may: that is
        how orchestrators hand out secrets.  Like ssh, it does not judge the
        mode of a file that belongs to another user.
        """
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                text = file.read().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The secret {path} cannot be read: {_reason(error)}") from None
        if status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) & stat.S_IRWXO:
            raise ConfigError(f"The secret {path} can be read by every user", hint=f"chmod o= {path}")
        return cls(_parse(text, path))

    @classmethod
    def create(cls, path: Path) -> Keyring:
        """Make the file with one random key, mode 0600.  Raises ``FileExistsError`` and ``ConfigError``."""
        keyring = cls.generate()
        try:
            create_file(path, keyring._encode())
        except FileExistsError:
            raise
        except OSError as error:
            raise refused(f"The secret {path} cannot be written", error) from None
        return keyring

    @classmethod
    def load_or_create(cls, path: Path) -> Keyring:
        """Read the file, or make it when there is none.  Raises ``ConfigError``."""
        try:
            missing = not exists(path)
        except OSError as error:
            raise ConfigError(f"The secret {path} cannot be read: {_reason(error)}") from None
        if missing:
            with suppress(FileExistsError):  # another process was first: its key counts
                cls.create(path)
        return cls.load(path)

    @classmethod
    def rotate(cls, path: Path, *, keep: int | None = None) -> Keyring:
        """Put a new key first, so that it signs; keep *keep* of the old ones (all) to verify.

        Owner, group and mode of the file stay.  With ``keep=0`` everything that
        the old keys signed becomes invalid.  Running processes go on with the
        keys that they have read.
        """
        kept = list(cls.load(path).keys.items())[:keep]
        keyring = cls(dict(cls.generate().keys) | dict(kept))
        try:
            replace_file(path, keyring._encode())
        except OSError as error:
            hint = "Run the command as the owner of the file, or as root." if error.errno == errno.EPERM else None
            raise refused(f"The secret {path} cannot be written", error, hint=hint) from None
        return keyring

    def _encode(self) -> bytes:
        return "".join(f"{kid}:{key.hex()}\n" for kid, key in self.keys.items()).encode("ascii")


def _parse(text: str, path: Path) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        kid, _, secret = line.partition(":")
        try:
            key = bytes.fromhex(secret)
        except ValueError:
            key = b""
        if not (kid.isascii() and kid.isalnum()) or kid in keys or len(key) < KEY_BYTES:
            raise ConfigError(f"Line {number} of the secret {path} is not a new id, a colon and 64 or more hex digits")
        keys[kid] = key
    if not keys:
        raise ConfigError(f"The secret {path} holds no key")
    return keys


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not text"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


# What people choose


def check_new_password(password: str, *, field: str = "password") -> None:
    """Accept any 8 to 1024 characters, a NUL included.  Raises ``Invalid`` that names *field*."""
    if not 8 <= len(password) <= 1024:
        raise Invalid("A password has 8 to 1024 characters.", field=field)
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise Invalid("The password is not text.", field=field)


# Passwords

HIGHEST_COST = 16
"""The highest cost of a password hash that the configuration allows."""


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


# Tokens


@dataclass(frozen=True)
class RefreshClaims:
    """What a refresh token says: the session, and the number of refreshes before it."""

    user_id: UserId
    session_id: SessionId
    generation: int


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """The only header we accept.  ``crit``, ``jku``, ``jwk`` and the like are unknown fields (RFC 8725, section 3)."""

    alg: Literal["HS256"]
    typ: Literal["JWT"]
    kid: str


_header_decoder = msgspec.json.Decoder(_Header)
_MAX_TOKEN = 2048


class TokenSigner:
    """Makes and checks JWTs (RFC 7519), pinned to one algorithm, issuer, audience, set of keys and kind.

    Every ``verify_`` method raises ``Unauthenticated`` for a token that this
    server did not sign for that use, and for one that has expired.
    """

    def __init__(self, keyring: Keyring, *, issuer: str, audience: str) -> None:
        self._keys = keyring.keys
        self._kid, self._key = keyring.current
        self._issuer = issuer
        self._audience = audience
        self._jwt = jwt.PyJWT(
            {
                "require": ["exp", "iat", "iss", "aud", "sub", "typ"],
                "verify_exp": False,  # by our clock, below
                "verify_iat": False,
                "strict_aud": True,
                "enforce_minimum_key_length": True,
            }
        )

    def access(self, principal: UserSession, *, now: datetime, ttl: float) -> tuple[str, datetime]:
        """A token that stands for *principal*, and when it expires, in whole seconds."""
        expires_at = _second(now + timedelta(seconds=ttl))
        return self._sign("access", principal.user_id, now, expires_at, sid=principal.session_id), expires_at

    def verify_access(self, token: str, *, now: datetime) -> tuple[UserSession, datetime]:
        """The session that the token stands for, and when it expires."""
        claims = self._verify("access", token, now)
        return UserSession(user_id=claims["sub"], session_id=claims["sid"]), datetime.fromtimestamp(claims["exp"], UTC)

    def refresh(self, claims: RefreshClaims, *, now: datetime, expires_at: datetime) -> str:
        """A token that renews a session.  The same arguments make the same token."""
        return self._sign(
            "refresh", claims.user_id, now, _second(expires_at), sid=claims.session_id, gen=claims.generation
        )

    def verify_refresh(self, token: str, *, now: datetime) -> RefreshClaims:
        """The session that the token renews, and its generation, which the caller compares with that of the session."""
        claims = self._verify("refresh", token, now)
        return RefreshClaims(claims["sub"], claims["sid"], claims["gen"])

    def _sign(self, kind: str, subject: str, now: datetime, expires_at: datetime, **more: Any) -> str:
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "typ": kind,
            "iat": int(now.timestamp()),
            "exp": int(expires_at.timestamp()),
        }
        return self._jwt.encode(claims | more, self._key, algorithm="HS256", headers={"kid": self._kid})

    def _verify(self, kind: str, token: str, now: datetime) -> dict[str, Any]:
        try:
            key = self._keys[_header_decoder.decode(unbase64url(token[:_MAX_TOKEN].partition(".")[0])).kid]
            decoded = self._jwt.decode_complete(
                token, key, algorithms=["HS256"], issuer=self._issuer, audience=self._audience
            )
        except (jwt.InvalidTokenError, msgspec.DecodeError, ValueError, KeyError):
            raise Unauthenticated("The token is not valid.") from None
        claims: dict[str, Any] = decoded["payload"]
        # PyJWT decodes the signature leniently, so several spellings of one would pass.
        if claims["typ"] != kind or not token.endswith("." + base64url(decoded["signature"])):
            raise Unauthenticated("The token is not valid.")
        if claims["exp"] <= now.timestamp():
            raise Unauthenticated("The token has expired.")
        return claims


# Signed URLs


_PLAIN = re.compile(r"[A-Za-z0-9_.~/-]*")  # the slash stands for itself in a path and in a query (RFC 3986, 3.4)


class UrlSigner:
    """Signs requests that anyone may send until they expire: a capability, never a bearer token.

    The signature is HMAC-SHA-256 over the method, the path and the query in
    sorted order: the claims, the expiry in seconds since 1970, and the key's
    id.  The path is the one below *public_url*, so a prefix that a proxy or a
    host application adds in front is not part of what is signed.
    """

    EXPIRES = "expires"
    KEY = "key"
    SIGNATURE = "signature"

    def __init__(self, keyring: Keyring, public_url: str) -> None:
        # A key of its own for each use, so that no text signed as a token can ever pass as a URL.
        keys = {kid: hmac.digest(key, b"godrive signed url", "sha256") for kid, key in keyring.keys.items()}
        # Copied for each signature: unlike hmac.digest that does not let go of the interpreter lock, and
        # to get it back from threads that write files takes a hundred times longer than to sign.
        self._keys = {kid: hmac.new(key, digestmod="sha256") for kid, key in keys.items()}
        self._kid = keyring.current[0]
        self._public_url = public_url.rstrip("/")

    def sign(self, method: str, path: str, claims: Mapping[str, str], *, expires_at: datetime) -> str:
        """The URL for that request.  *claims* are shown in its query; their names must not be those of our own."""
        if not claims.keys().isdisjoint((self.EXPIRES, self.KEY, self.SIGNATURE)):
            raise ValueError("a claim has a reserved name")
        query = _canonical({**claims, self.EXPIRES: str(int(expires_at.timestamp())), self.KEY: self._kid})
        signature = self._signature(self._kid, method, path, query)
        return f"{self._public_url}{_escape(path)}?{query}&{self.SIGNATURE}={signature}"

    def verify(self, method: str, path: str, query: Mapping[str, str], *, now: datetime) -> dict[str, str]:
        """The claims, when we signed exactly this request; a GET's signature serves HEAD too.  Raises ``UrlInvalid``.

        *path* is decoded and below the mount; *query* is decoded, all of it.
        """
        signed = [(name, value) for name, value in query.items() if name != self.SIGNATURE]
        claims = dict(signed)
        signature, kid = query.get(self.SIGNATURE, ""), claims.pop(self.KEY, "")
        if kid not in self._keys or len(query) != len(claims) + 2:
            raise UrlInvalid("The URL was not signed by this server.")
        try:
            expected = self._signature(kid, "GET" if method == "HEAD" else method, path, _canonical(dict(signed)))
            genuine = hmac.compare_digest(expected.encode(), signature.encode())
        except UnicodeEncodeError:
            genuine = False
        if not genuine:
            raise UrlInvalid("The URL was not signed by this server, or was changed.")
        if int(claims.pop(self.EXPIRES)) <= now.timestamp():
            raise UrlInvalid("The URL has expired.")
        return claims

    def _signature(self, kid: str, method: str, path: str, query: str) -> str:
        signature = self._keys[kid].copy()
        signature.update(f"{method}\n{path}\n{query}".encode())
        return base64url(signature.digest())


def _canonical(query: Mapping[str, str]) -> str:
    return "&".join(f"{_escape(name)}={_escape(value)}" for name, value in sorted(query.items()))


def _escape(text: str) -> str:
    """Percent-encoded; most of what is signed needs none."""
    return text if _PLAIN.fullmatch(text) else quote(text)


_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


def base64url(data: bytes) -> str:
    """Base64 for URLs (RFC 4648, section 5), without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unbase64url(text: str) -> bytes:
    """The bytes.  Raises ``ValueError`` for characters outside the alphabet, which the standard library lets pass."""
    if _BASE64URL.fullmatch(text) is None:
        raise ValueError("not Base64 for URLs")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _second(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)
