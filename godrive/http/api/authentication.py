"""Credentials: the only module that reads them from a request.

A request shows a bearer token in ``Authorization``, or it came by a URL that
this server signed.  A query never carries a bearer token: URLs are written to
logs and histories.  The one exception is the secret of the webhook of the
stores, because some of them have no other place for it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import hdrs, web

from godrive.drive import GoDrive
from godrive.errors import Forbidden, Unauthenticated, UrlInvalid
from godrive.http.api.operations import Operation
from godrive.http.api.reading import combined
from godrive.messages.auth import Authenticate
from godrive.principal import Caller, Scope, UserSession


async def authenticate(
    request: web.Request, drive: GoDrive, scopes: frozenset[Scope], also: frozenset[Scope] = frozenset()
) -> Caller:
    """Return who sent the request, by its bearer token.

    Raises ``Unauthenticated``, and ``Forbidden`` unless the token has one of *scopes*, and all of *also*.
    """
    scheme, token = _authorization(request)
    if scheme != "bearer" or not token or not token.isascii():
        raise Unauthenticated("Send an access token: Authorization: Bearer <token>.")
    by: Caller | None = drive.known_callers.get(token)
    if by is None:
        by = await drive.auth.ask(Authenticate(token))
    if not isinstance(by, UserSession):
        if scopes.isdisjoint(by.scopes):
            raise Forbidden(f"The token does not have the scope {' or '.join(sorted(scopes))}.")
        if missing := also - by.scopes:
            raise Forbidden(f"The token does not have the scope {' and '.join(sorted(missing))}.")
    return by


def signature_reader(operation: Operation, drive: GoDrive) -> Callable[[web.Request, dict[str, Any]], Any]:
    """Return a function that verifies a signed URL of *operation* and returns what was signed, as its query type.

    That function takes the request and the ids from its path, and raises ``UrlInvalid``.
    """
    method, path, type_ = operation.method, operation.path, operation.signed_query
    if type_ is None:
        raise TypeError(f"{operation.name} has no query type for what is signed")
    urls, clock = drive.urls, drive.clock

    def read(request: web.Request, ids: dict[str, Any]) -> Any:
        signed = urls.verify(method, path.format_map(ids), request.query, now=clock.now())
        try:
            return msgspec.convert(signed, type_, strict=False)
        except msgspec.ValidationError:
            raise UrlInvalid("The URL was signed for something else.") from None

    return read


def shows_secret(request: web.Request, secret: bytes, *, in_query: bool = False) -> bool:
    """Whether the request shows *secret*: as bearer token, as password of Basic, or with *in_query* as ``?token=``.

    All that was shown is compared, each in constant time.
    """
    scheme, value = _authorization(request)
    shown = [_password(value) if scheme == "basic" else _bytes(value) if scheme == "bearer" else b""]
    if in_query:
        shown.append(_bytes(request.query.get("token", "")))
    matches = [hmac.compare_digest(each, secret) for each in shown]
    return any(matches)


def _password(credentials: str) -> bytes:
    """The password of Basic; empty if it cannot be read."""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _authorization(request: web.Request) -> tuple[str, str]:
    """The scheme in lower case and what follows it (RFC 9110, section 11.4); both empty without the header."""
    scheme, _, value = (combined(request, hdrs.AUTHORIZATION) or "").partition(" ")
    return scheme.lower(), value.strip()
