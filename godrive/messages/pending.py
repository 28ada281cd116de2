"""Messages to the metadata actor by which the server looks after pending uploads."""

from __future__ import annotations

from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import ObjectKey, UploadId
from godrive.runtime import Ask, Lane


class PendingUploads(Ask[Metadata, list[ObjectKey]]):
    """Return those of the object keys whose uploads are pending."""

    lane: ClassVar[Lane] = Lane.CHORE

    object_keys: list[ObjectKey]


class UploadsWithoutFolder(Ask[Metadata, list[UploadId]]):
    """Return those of the pending uploads whose folder is being purged, or was: they can never become a file."""

    lane: ClassVar[Lane] = Lane.CHORE

    upload_ids: list[UploadId]
