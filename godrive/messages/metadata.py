"""The contract of the metadata actor.  Its messages are in ``files``, ``uploads``, ``idempotency`` and ``system``."""

from __future__ import annotations

from godrive.runtime import Contract


class Metadata(Contract, name="metadata"):
    """Owns files, uploads and the trash."""
