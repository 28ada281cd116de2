"""GoDrive: the storage backend behind a drive, in one asyncio process of supervised actors."""

__version__ = "0.1.0"
