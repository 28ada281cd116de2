"""A folder as a ZIP archive, made while it is sent.

Theory of operation.  The archive is stored, not compressed, so its length
follows from the names and sizes of its members.  The first :data:`KNOWN`
members are read before the first byte; if these are all, the length is known.
Names are made safe for the systems that ZIP is used on.  A file whose name had
to change, or differs from another name of its folder only in case, gets a part
of its id.  So does one whose name ends like that, because it may be the changed
name of another file: people extract an archive and upload its files again.
So two members never have the same path.

Rights on entries are checked again for each page of members, and every
:data:`CHECK_EVERY` seconds, before a member, whether the credential still holds.
Bytes are those of the version that was current when the member was read.  The standard library keeps
some hundred bytes for each member, for the directory at the end of the archive;
they are charged to the memory budget.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from typing_extensions import Buffer

from godrive.blobs import BlobDamaged
from godrive.blobs.disposition import TURNING
from godrive.errors import DeliveryError, Invalid, MailboxFull, NotFound, StoreUnavailable, Unauthenticated
from godrive.messages.auth import FindEnded
from godrive.messages.files import ListContents, OpenContent
from godrive.model import FileId, FileKind, In, ObjectKey, Spot
from godrive.principal import ApiToken, Follower, HostUser, Principal, UserSession, user_of
from godrive.rules.names import search_key

if TYPE_CHECKING:
    from godrive.drive import GoDrive

KNOWN = 5000
"""Members up to which the length is known before the first byte."""
CHECK_EVERY = 1.0
"""Seconds after which the credential is checked again."""
_PIECE = 65_536
_MEMBER = 400
"""Bytes that a member holds in memory until the archive ends, without its path."""
_PAGE, _SMALLEST_PAGE = 1000, 16
_LONGEST_PATH = 65_535
_LONGEST_SUFFIX = 16

_FORBIDDEN = re.compile(r'[<>:"|?*]|[. ]$')
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\.|$)", re.IGNORECASE)
"""Names that Windows does not allow (Naming Files, Paths, and Namespaces)."""

_ID = 12
_WITH_ID = re.compile(rf" \([0-9a-f]{{{_ID}}}\)(\.[^.]{{0,{_LONGEST_SUFFIX}}})?$")

_LOCAL, _CENTRAL, _END, _END_64 = 30, 46, 22, 56 + 20
_DESCRIPTOR, _DESCRIPTOR_64 = 16, 24
_TIME = struct.Struct("<HHBl")
"""The extended timestamp of Info-ZIP: the time of modification in UTC, because the ZIP format has local times."""
_FIRST, _LAST = datetime(1980, 1, 1, tzinfo=UTC), datetime(2107, 12, 31, tzinfo=UTC)


class Member(msgspec.Struct, frozen=True, gc=False):
    """A file or folder of an archive.  The path of a folder ends in ``/``, and its *object_key* is empty."""

    path: str
    size_bytes: int
    modified_at: datetime
    object_key: ObjectKey
    file_id: FileId


class DamagedMember(StoreUnavailable):
    """The bytes of a member are lost, or have another length than its file."""

    def __init__(self, member: Member, kind: str) -> None:
        super().__init__("The bytes of a file are lost or damaged.", hint="See blob_damaged in the log.")
        self.member = member
        self.kind = kind


class _Folder(msgspec.Struct, frozen=True, gc=False):
    """A folder to read: the next page, and the last name before that page as it is compared."""

    prefix: str
    where: Spot
    page: str | None = None
    last: str = ""


async def walk(drive: GoDrive, by: Principal, where: Spot) -> AsyncIterator[Member]:
    """Yield everything below a folder, a folder before its contents.

    Raises ``NotFound``, ``Forbidden``, ``Invalid`` (a path is too long).  An
    entry that is moved meanwhile may be missing or come twice.
    """
    folders = [_Folder("", where)]
    while folders:
        folder = folders.pop()
        limit = max(_SMALLEST_PAGE, _PAGE // (folder.prefix.count("/") + 1))  # every level keeps its folders in memory
        page = await drive.metadata.ask(ListContents(by, folder.where, limit, folder.page))
        inner: list[_Folder] = []
        last = folder.last
        for content in page.items:
            file = content.file
            key = search_key(file.name)
            path = folder.prefix + safe_name(file.name, file.id, alone=key != last)
            last = key
            if len(path.encode()) >= _LONGEST_PATH:
                raise Invalid("A path in the folder is too long for a ZIP archive.")
            if file.kind is FileKind.FOLDER:
                path += "/"
                inner.append(_Folder(path, In(folder_id=file.id)))
            yield Member(path, file.size_bytes, file.modified_at, content.object_key, file.id)
        if page.next_page is not None:
            folders.append(_Folder(folder.prefix, folder.where, page.next_page, last))
        folders += reversed(inner)


def safe_name(name: str, file_id: FileId, *, alone: bool = True) -> str:
    """Return a name that every system can extract.

    A name that is changed, or is not *alone* because another differs only in
    case, gets the end of the id, so that it stays different from all others.
    A name that looks as if it had one gets another.
    """
    safe = _FORBIDDEN.sub("_", name.translate(TURNING)) or "_"
    if _DEVICE.match(safe):
        safe = f"_{safe}"
    if safe == name and alone and not _WITH_ID.search(search_key(name)):
        return name
    stem, dot, suffix = safe.rpartition(".")
    if not stem or len(suffix) > _LONGEST_SUFFIX:
        stem, dot, suffix = safe, "", ""
    return f"{stem} ({file_id[-_ID:]}){dot}{suffix}"


class Archive:
    """A ZIP archive of *members*.  ``length`` is ``None`` if there are more than :data:`KNOWN`.

    A :class:`~godrive.memory.Holder`: when it must shed, the archive ends early.
    """

    def __init__(self, drive: GoDrive, by: Principal, known: list[Member], more: AsyncIterator[Member] | None) -> None:
        self.length = None if more is not None else _length(known)
        self._drive = drive
        self._by = by
        self._known = known
        self._more = more
        self._held = 0
        self._is_shed = False
        self._checked_at = drive.clock.monotonic()
        for member in known:
            self._charge(member)

    @classmethod
    async def open(cls, drive: GoDrive, by: Principal, where: Spot) -> Archive:
        """Read the first members.  Raises as :func:`walk`.  The caller must :meth:`close` the archive."""
        members, known = walk(drive, by, where), []
        async for member in members:
            known.append(member)
            if len(known) > KNOWN:
                return cls(drive, by, known, members)
        return cls(drive, by, known, None)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the archive in pieces.

        Raises ``DamagedMember``, ``StoreUnavailable``, ``NotFound`` (a file was purged meanwhile), ``Unauthenticated``
        (the session has ended, or the user was disabled), and as :func:`walk`.
        """
        sink = _Sink()
        with zipfile.ZipFile(sink, "w") as archive:
            async for member in self._members():
                if self._is_shed:
                    raise MailboxFull("The server has too little free memory for so large an archive.")
                await self._check_credential()
                info = _info(member)
                with archive.open(info, "w", force_zip64=_is_large(member)) as target:
                    async for piece in self._content(member):
                        target.write(piece)
                        if sink.size >= _PIECE:
                            yield sink.take()
        yield sink.take()

    def close(self) -> None:
        """Release what the archive holds.  Idempotent."""
        self._held = 0
        self._drive.memory.report(self, 0)

    def held_bytes(self) -> int:
        """Return about how many bytes of memory the archive holds."""
        return self._held

    def shed(self) -> None:
        """End the archive before its next member."""
        self._is_shed = True

    async def _check_credential(self) -> None:
        now = self._drive.clock.monotonic()
        if now - self._checked_at < CHECK_EVERY:
            return
        self._checked_at = now
        # An outage says nothing about the credential; the archive asks again a second later.
        with suppress(DeliveryError, StoreUnavailable):
            if await self._drive.auth.ask(FindEnded([_follower(self._by)])):
                raise Unauthenticated("The session has ended.")

    def _charge(self, member: Member) -> None:
        self._held += _MEMBER + len(member.path)
        self._drive.memory.report(self, self._held)

    async def _members(self) -> AsyncIterator[Member]:
        for member in self._known:
            yield member
        if self._more is not None:
            async for member in self._more:
                self._charge(member)
                yield member

    async def _content(self, member: Member) -> AsyncIterator[bytes]:
        if not member.object_key:
            return
        received = 0
        try:
            async for piece in self._drive.blobs.get(member.object_key):
                received += len(piece)
                yield piece
        except NotFound:
            now = await self._drive.metadata.ask(OpenContent(self._by, member.file_id))  # raises if it was purged
            if now.object_key != member.object_key:
                raise NotFound("A version of a file was purged while the archive was sent.") from None
            raise DamagedMember(member, "missing") from None
        except BlobDamaged:
            raise DamagedMember(member, "bytes") from None
        if received != member.size_bytes:
            raise DamagedMember(member, "short" if received < member.size_bytes else "long")


def _follower(by: Principal) -> Follower:
    """Return what *by* depends on: a session, or the user who gave a URL or a link away."""
    return by if isinstance(by, UserSession | HostUser | ApiToken) else HostUser(user_id=user_of(by))


class _Sink(io.RawIOBase):
    """A file that cannot seek.  Keeps what is written until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self.size += len(piece)
        return len(piece)

    def take(self) -> bytes:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self.size = 0
        return data


def _info(member: Member) -> zipfile.ZipInfo:
    at = min(max(member.modified_at, _FIRST), _LAST)
    info = zipfile.ZipInfo(member.path, at.timetuple()[:6])
    seconds = int(member.modified_at.timestamp())
    info.extra = _TIME.pack(0x5455, 5, 1, min(max(seconds, -(2**31)), 2**31 - 1))
    info.external_attr = (0o40755 << 16 | 0x10) if member.path.endswith("/") else 0o100644 << 16
    info.create_system = 3  # Unix, whatever this server runs on
    return info


def _is_large(member: Member) -> bool:
    return member.size_bytes > zipfile.ZIP64_LIMIT


def _length(members: list[Member]) -> int:
    """Return the length of the archive (APPNOTE 6.3.10, section 4.3)."""
    offset = central = 0
    for member in members:
        large = _is_large(member)
        name = len(member.path.encode()) + _TIME.size
        wide = (16 if large else 0) + (8 if offset > zipfile.ZIP64_LIMIT else 0)
        central += _CENTRAL + name + (wide + 4 if wide else 0)
        offset += _LOCAL + name + member.size_bytes + (20 + _DESCRIPTOR_64 if large else _DESCRIPTOR)
    is_large = max(offset, central) > zipfile.ZIP64_LIMIT or len(members) > zipfile.ZIP_FILECOUNT_LIMIT
    return offset + central + _END + (_END_64 if is_large else 0)
