"""Whether a store accepts a blob, before any byte of it is read."""

from __future__ import annotations

from godrive.blobs import BlobStore
from godrive.config import Blobs
from godrive.errors import StorageFull, TooLarge


async def check_admission(blobs: BlobStore, config: Blobs, size: int, coming: int | None = None) -> None:
    """Check that the store accepts a blob of *size* bytes, of which *coming* (by default all) are still to be stored.

    Raises ``TooLarge``, ``StorageFull``, ``StoreUnavailable``.
    """
    if size > config.max_upload_bytes:
        raise TooLarge(f"A file can have at most {config.max_upload_bytes} bytes.", field="size_bytes")
    free = await blobs.free_bytes()
    if free is not None and free - (size if coming is None else coming) < config.min_free_bytes:
        raise StorageFull(
            "The store has not enough free space for this file.",
            hint=f"{free} bytes are free, of which blobs.min_free_bytes keeps {config.min_free_bytes}.",
        )
