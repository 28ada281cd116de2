"""Uploads that are known for a moment: to their owner, and once."""

from __future__ import annotations

from datetime import UTC, datetime

from godrive.known_uploads import RECENT, KnownUploads
from godrive.model import ObjectKey, Upload, UploadId, UserId
from godrive.testing import ManualClock

ANN, BOB = UserId("ann"), UserId("bob")


def begun(name: str) -> Upload:
    now = datetime.now(UTC)
    return Upload(
        id=UploadId(name),
        owner_id=ANN,
        object_key=ObjectKey(f"a/{name}"),
        name=name,
        mime="",
        size_bytes=1,
        created_at=now,
        expires_at=now,
    )


def test_an_upload_is_given_once_and_to_its_owner_while_it_is_recent() -> None:
    clock = ManualClock()
    known = KnownUploads(clock)
    upload = begun("a")
    assert known.take(upload.id, ANN) is None
    known.keep(upload)
    assert known.take(upload.id, ANN) == upload
    assert known.take(upload.id, ANN) is None
    known.keep(upload)
    assert known.take(upload.id, BOB) is None
    known.keep(upload)
    clock.advance(RECENT)
    assert known.take(upload.id, ANN) is None


def test_the_oldest_is_forgotten_first_and_few_are_kept() -> None:
    known = KnownUploads(ManualClock())
    uploads = [begun(f"{number}") for number in range(2000)]
    for upload in uploads:
        known.keep(upload)
    kept = [upload for upload in uploads if known.take(upload.id, ANN) is not None]
    assert kept == uploads[-1024:]
