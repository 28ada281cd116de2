"""URLs that carry a signature."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from datetime import datetime
from itertools import chain
from urllib.parse import quote

from godrive.credentials.base64url import base64url
from godrive.credentials.keyring import Keyring
from godrive.errors import UrlInvalid

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
    pairs = sorted(query.items())
    if _PLAIN.fullmatch("".join(chain.from_iterable(pairs))) is None:
        pairs = [(_escape(name), _escape(value)) for name, value in pairs]
    return "&".join(map("=".join, pairs))


def _escape(text: str) -> str:
    """Percent-encoded; most of what is signed needs none."""
    return text if _PLAIN.fullmatch(text) else quote(text)
