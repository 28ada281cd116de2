"""Access and refresh tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import jwt
import msgspec

from godrive.credentials.base64url import base64url, unbase64url
from godrive.credentials.keyring import Keyring
from godrive.errors import Unauthenticated
from godrive.model import SessionId, UserId
from godrive.principal import UserSession


class RefreshClaims(msgspec.Struct, frozen=True):
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


def _second(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)
