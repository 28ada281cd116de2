"""GoDrive: the backend of a drive, in one asyncio process of supervised actors.

This package exports what an embedding application needs first.  Messages are in
``godrive.messages``, replies in ``godrive.model``, errors in ``godrive.errors``,
and the HTTP application is in ``godrive.http``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from godrive.config import Config as Config
    from godrive.drive import GoDrive as GoDrive
    from godrive.errors import DriveError as DriveError

__all__ = ["Config", "DriveError", "GoDrive", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import exported names on first use, so that importing ``godrive.errors`` imports no database driver."""
    modules = {"Config": "godrive.config", "DriveError": "godrive.errors", "GoDrive": "godrive.drive"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(modules[name]), name)
