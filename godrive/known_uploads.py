"""Uploads that this process has just begun or continued, as they were then.

The PUT of a small body follows its intent at once, and to read the row again
costs a good part of publishing it.  So the first PUT within a moment finds the
upload here, once its bytes are there too.  The next append to an upload of known
length mostly follows at once too.  The rule that publishes or moves the offset
compares the row, and decides.
"""

from __future__ import annotations

from collections import OrderedDict

from godrive.clock import Clock
from godrive.model import Upload, UploadId, UserId

RECENT = 1.0
"""Seconds for which an upload is known."""

_CAPACITY = 1024


class KnownUploads:
    """Pending uploads by id.  Each is given once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # A plain dict looks for its first entry among all that were removed.
        self._known: OrderedDict[UploadId, tuple[float, Upload]] = OrderedDict()

    def keep(self, upload: Upload) -> None:
        """Know an upload that has just begun or continued."""
        self._known[upload.id] = self._clock.monotonic() + RECENT, upload
        if len(self._known) > _CAPACITY:
            self._known.popitem(last=False)

    def take(self, upload_id: UploadId, owner_id: UserId) -> Upload | None:
        """Return the upload of that user; ``None`` if the catalog must be asked."""
        known = self._known.pop(upload_id, None)
        if known is None or known[0] <= self._clock.monotonic() or known[1].owner_id != owner_id:
            return None
        return known[1]
