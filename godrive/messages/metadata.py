"""The contract of the metadata actor.  Each module beside this one has the messages of one subject."""

from __future__ import annotations

from godrive.runtime import Contract


class Metadata(Contract, name="metadata"):
    """Owns files, uploads and the trash."""
