"""Why an HTTP request got no answer, in words for people: those of aiohttp name its own parts and settings."""

from __future__ import annotations

import os
import ssl

import aiohttp


def why(error: Exception) -> str:
    """Return the reason of what aiohttp has raised, without a period."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "the certificate is not valid"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _why_no_connection(error.os_error)
    return " ".join(str(error).split()) or type(error).__name__


def _why_no_connection(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason})"
    return os.strerror(error.errno) if error.errno else "no connection"  # asyncio's own text names the call
