"""Store small bodies that have arrived whole, which become files in groups (:mod:`godrive.small_files`)."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from godrive import transfer
from godrive.blobs import SmallBlob
from godrive.blobs.admission import check_admission
from godrive.blobs.sniffing import HEAD, sniff
from godrive.errors import AskTimeout, DeliveryError, DigestMismatch, DriveError, StoreUnavailable
from godrive.messages.storage import DeleteBlob
from godrive.messages.uploads import CheckRoom, PublishUpload, StoreFile
from godrive.model import (
    BlobInfo,
    ETag,
    File,
    ObjectKey,
    OnConflict,
    Spot,
    Upload,
    UploadId,
    UploadState,
    VersionId,
    new_id,
)
from godrive.principal import Principal, user_of
from godrive.small_files import SmallFiles

if TYPE_CHECKING:
    from godrive.drive import GoDrive

_UNKNOWN = (DeliveryError, StoreUnavailable)
"""Errors after which a command may have been carried out."""


async def store_small(
    drive: GoDrive,
    by: Principal,
    where: Spot,
    name: str,
    content: bytes,
    *,
    mime: str = "",
    sha256: str | None = None,
    sha512: str | None = None,
    on_conflict: OnConflict = OnConflict.FAIL,
    modified_at: datetime | None = None,
    if_match: ETag | None = None,
    turn: transfer.Turn = transfer.NO_TURN,
) -> tuple[File, bool]:
    """Store *content*, which is here and small, as a file, without an upload.  Returns also whether it is current now.

    The arguments and errors are those of :func:`godrive.transfer.receive`.  The bytes are durable before the file can
    be found; if it cannot be made, they are deleted.
    """
    small_files, size = drive.small_files, len(content)
    assert small_files is not None  # noqa: S101 - or nothing is small
    blob_id, upload_id = new_id(), UploadId(new_id())
    user_id, replaces = user_of(by), on_conflict is OnConflict.REPLACE
    stored: StoreFile | None = None

    def command_for(blob: BlobInfo) -> StoreFile:
        nonlocal stored
        stored = StoreFile(
            by, where, name, mime, blob, upload_id, on_conflict=on_conflict, modified_at=modified_at, if_match=if_match
        )
        return stored

    try:
        async with turn:
            await check_admission(drive.blobs, drive.config.blobs, size)
            if not drive.known_room.take(user_id, size, replaces=replaces):
                room = await drive.metadata.ask(CheckRoom(by, size, on_conflict))
                drive.known_room.keep(user_id, room.size_bytes - size, room.rows - 1, replaces=replaces)
            if sha512 is not None and (digest := hashlib.sha512(content).hexdigest()) != sha512:
                raise DigestMismatch(f"The bytes that arrived have the SHA-512 {digest}.")
            found = None if mime else sniff(content[:HEAD], name)
            key = ObjectKey(f"{blob_id[:8]}/{blob_id}")
            blob = SmallBlob(key, content, found, sha256 and sha256.lower(), is_new=True)
            file = await small_files.make(blob, command_for)
            if file is None:
                assert stored is not None  # noqa: S101 - the bytes are there
                file = await drive.metadata.ask(stored)
    except BaseException as error:
        if stored is None:
            raise
        drive.known_room.forget(user_id)
        is_unknown = not isinstance(error, DriveError) or isinstance(error, _UNKNOWN)
        made = await transfer.to_the_end(_settle(drive, stored, is_unknown=is_unknown))
        if made is None or not isinstance(error, DriveError):
            raise
        if isinstance(made, AskTimeout):
            raise made from error
        return made, made.version_id == VersionId(upload_id)  # an error would make the client send the file again
    is_current = file.version_id == VersionId(upload_id)
    if not is_current:
        await drive.storage.ask(DeleteBlob(key))  # the file had the same bytes already
    return file, is_current


async def _settle(drive: GoDrive, stored: StoreFile, *, is_unknown: bool) -> File | AskTimeout | None:
    """Delete the blob of a file that was not made.

    If that is unknown, ask again first, which is idempotent, and return the file if there is one, or the error if
    nobody knows it even now.
    """
    with suppress(DriveError):  # the janitor deletes what stays
        if is_unknown:
            try:
                return await drive.metadata.ask(stored)
            except AskTimeout as error:
                return error
            except _UNKNOWN:
                return None
            except DriveError:
                pass
        await drive.storage.ask(DeleteBlob(stored.blob.key))
    return None


async def receive_small(drive: GoDrive, by: Principal, upload: Upload, content: bytes, *, turn: transfer.Turn) -> File:
    """As :func:`godrive.transfer.receive_upload`, for bytes that are here and small."""
    small_files = drive.small_files
    assert small_files is not None  # noqa: S101 - or nothing is small
    if upload.state is not UploadState.PENDING or len(content) != upload.size_bytes:
        return await transfer.receive_upload(drive, by, upload, transfer.once(content), turn=turn)
    return await transfer.publish(drive, by, upload, _put_small(small_files, by, upload, content, turn), turn)


async def _put_small(
    small_files: SmallFiles, by: Principal, upload: Upload, content: bytes, turn: transfer.Turn
) -> tuple[BlobInfo, File | None]:
    """Store the bytes of the upload, and publish it if that is simple."""
    stored: list[BlobInfo] = []

    def command_for(blob: BlobInfo) -> PublishUpload:
        stored.append(blob)
        return PublishUpload(by, upload.id, blob, upload)

    mime = None if upload.mime else sniff(content[:HEAD], upload.name)
    file: File | None = None
    async with turn:
        with suppress(AskTimeout):  # to publish is idempotent, and the caller does it then
            file = await small_files.make(SmallBlob(upload.object_key, content, mime, upload.sha256), command_for)
    return stored[0], file
