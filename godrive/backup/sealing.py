"""Encrypted backups: what is stored in the target can be read, and changed unnoticed, only with the passphrase.

Theory of operation.  A backup has one random key, and an object that has it,
encrypted with a key that Argon2id derives from the passphrase, and the
parameters of that.  Every other object is a stream of libsodium's
``crypto_secretstream_xchacha20poly1305`` (https://doc.libsodium.org/secret-key_cryptography/secretstream):
pieces of 64 KiB, each authenticated in its place, the last one marked, so no
piece can be changed, moved, dropped or cut off.  The object's own key is
authenticated with each piece, so no object can take the place of another.

The name of a part of the catalog is a keyed hash of its digest, so it confirms no
guess about what the part has.

Not hidden are the number of objects, their lengths (17 bytes more for each
piece), when they were stored, and their names, which are random but for the
time at which the file was uploaded.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from datetime import datetime
from typing import Any, Literal

import msgspec
from nacl import bindings, pwhash, secret, utils
from nacl.exceptions import CryptoError

from godrive.blobs import BlobDamaged, BlobStore
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.pages import KeyPage, key_pages
from godrive.errors import ConfigError
from godrive.model import BlobInfo, ObjectKey

PIECE = 65_536
"""Bytes that are encrypted and authenticated together."""

_MAGIC = b"gdseal1\n"
_MORE = bindings.crypto_secretstream_xchacha20poly1305_ABYTES
_HEADER = bindings.crypto_secretstream_xchacha20poly1305_HEADERBYTES
_FINAL = bindings.crypto_secretstream_xchacha20poly1305_TAG_FINAL
_MESSAGE = bindings.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
_SEALED = PIECE + _MORE

_OPSLIMIT, _MEMLIMIT = 4, 128 * 2**20
"""The work to derive a key: half a second and 128 MiB."""
_MOST_OPSLIMIT, _MOST_MEMLIMIT = 64, 2**30
"""What a backup may ask for, which anyone who can write to the target can change."""

_LARGE = 4
"""Pieces from which encryption is left to a thread."""


def new_key() -> bytes:
    """Return a random key for a new backup."""
    return utils.random(secret.SecretBox.KEY_SIZE)


class SealedKey(msgspec.Struct, frozen=True):
    """The key of a backup, encrypted with a passphrase."""

    salt: bytes
    opslimit: int
    memlimit: int
    box: bytes
    kdf: Literal["argon2id"] = "argon2id"
    cipher: Literal["xchacha20poly1305"] = "xchacha20poly1305"

    @classmethod
    def make(cls, key: bytes, passphrase: str) -> SealedKey:
        """Return *key*, encrypted."""
        sealed = cls(utils.random(pwhash.argon2id.SALTBYTES), _OPSLIMIT, _MEMLIMIT, b"")
        return msgspec.structs.replace(sealed, box=bytes(sealed._box(passphrase).encrypt(key)))

    def open(self, passphrase: str, name: str) -> bytes:
        """Return the key.  Raises ``ConfigError`` for another passphrase than that of the backup *name*."""
        if self.opslimit > _MOST_OPSLIMIT or self.memlimit > _MOST_MEMLIMIT:
            raise ConfigError(f"The key of {name} asks for more work than this release allows: it has been changed.")
        try:
            return self._box(passphrase).decrypt(self.box)
        except CryptoError:
            raise ConfigError(
                f"The passphrase is not that of the backup in {name}.", field="backup.passphrase"
            ) from None

    def _box(self, passphrase: str) -> secret.SecretBox:
        derived = pwhash.argon2id.kdf(
            secret.SecretBox.KEY_SIZE, passphrase.encode(), self.salt, opslimit=self.opslimit, memlimit=self.memlimit
        )
        return secret.SecretBox(derived)


class SealedStore(BlobStore):
    """A store of objects that are encrypted with *key* before *store* has them.

    Lengths in a list are those of the encrypted objects.
    """

    def __init__(self, store: BlobStore, key: bytes) -> None:
        self._store = store
        self._key = key

    def conceal(self, digest: bytes) -> bytes:
        """Return a name for what has this digest.  Without the key nobody can tell one from the other."""
        return hashlib.blake2b(digest, digest_size=32, key=self._key, person=b"godrive part").digest()

    async def open(self) -> None:
        """See :meth:`godrive.blobs.BlobStore.open`."""
        await self._store.open()

    async def close(self) -> None:
        """See :meth:`godrive.blobs.BlobStore.close`."""
        await self._store.close()

    async def put(
        self,
        key: ObjectKey,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        sha256: str | None = None,
        mime: str | None = None,
    ) -> BlobInfo:
        """See :meth:`godrive.blobs.BlobStore.put`.  *size* and *sha256* are those of *body*."""
        sealed = None if size is None else len(_MAGIC) + _HEADER + size + _MORE * (size // PIECE + 1)
        check, digest = BodyCheck(size, sha256), hashlib.sha256()
        stored = await self._store.put(key, self._seal(key, body, check, digest), size=sealed)
        return msgspec.structs.replace(stored, size_bytes=check.received, sha256=digest.hexdigest())

    async def _seal(
        self, key: ObjectKey, body: AsyncIterable[bytes | memoryview], check: BodyCheck, digest: Any
    ) -> AsyncIterator[bytes]:
        state, name, held = _state(), key.encode(), bytearray()
        push = bindings.crypto_secretstream_xchacha20poly1305_push
        yield _MAGIC + bindings.crypto_secretstream_xchacha20poly1305_init_push(state, self._key)

        def seal(plain: bytes) -> bytes:
            digest.update(plain)
            return b"".join(push(state, plain[at : at + PIECE], name, _MESSAGE) for at in range(0, len(plain), PIECE))

        async for piece in body:
            check.count(len(piece))
            held += piece
            whole = len(held) // PIECE * PIECE
            if whole:
                plain = bytes(held[:whole])
                del held[:whole]
                yield await asyncio.to_thread(seal, plain) if whole >= _LARGE * PIECE else seal(plain)
        check.end()
        digest.update(held)
        check.compare(digest.hexdigest())
        yield push(state, bytes(held), name, _FINAL)

    async def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """See :meth:`godrive.blobs.BlobStore.get`.  Reads from the beginning.  Raises ``BlobDamaged``."""
        at = 0
        async for piece in self._unseal(key):
            some = piece[max(0, start - at) : None if end is None else max(0, end - at)]
            at += len(piece)
            if some:
                yield some
            if end is not None and at >= end:
                return

    async def _unseal(self, key: ObjectKey) -> AsyncIterator[bytes]:
        state, name, held, last = _state(), key.encode(), bytearray(), _MESSAGE
        pull, begun = bindings.crypto_secretstream_xchacha20poly1305_pull, False

        def unseal(sealed: bytes) -> bytes:
            nonlocal last
            plain = bytearray()
            for at in range(0, len(sealed), _SEALED):
                if last == _FINAL:
                    raise _damaged(key)
                try:
                    piece, last = pull(state, sealed[at : at + _SEALED], name)
                except (CryptoError, ValueError):
                    raise _damaged(key) from None
                plain += piece
            return bytes(plain)

        async for arrived in self._store.get(key):
            held += arrived
            if not begun:
                if len(held) < len(_MAGIC) + _HEADER:
                    continue
                if held[: len(_MAGIC)] != _MAGIC:
                    raise _damaged(key)
                header = bytes(held[len(_MAGIC) : len(_MAGIC) + _HEADER])
                bindings.crypto_secretstream_xchacha20poly1305_init_pull(state, header, self._key)
                del held[: len(_MAGIC) + _HEADER]
                begun = True
            whole = len(held) // _SEALED * _SEALED
            if whole:
                sealed = bytes(held[:whole])
                del held[:whole]
                yield await asyncio.to_thread(unseal, sealed) if whole >= _LARGE * _SEALED else unseal(sealed)
        if held:
            yield unseal(bytes(held))
        if last != _FINAL:
            raise _damaged(key)

    async def head(self, key: ObjectKey) -> BlobInfo:
        """See :meth:`godrive.blobs.BlobStore.head`."""
        return msgspec.structs.replace(await self._store.head(key), sha256=None)

    async def delete(self, key: ObjectKey) -> None:
        """See :meth:`godrive.blobs.BlobStore.delete`."""
        await self._store.delete(key)

    def key_pages(self) -> AsyncGenerator[KeyPage, None]:
        """See :meth:`godrive.blobs.pages.KeyPages.key_pages`."""
        return key_pages(self._store)

    def list(self, *, after: str = "") -> AsyncIterator[BlobInfo]:
        """See :meth:`godrive.blobs.BlobStore.list`."""
        return self._store.list(after=after)

    async def quarantine(self, key: ObjectKey) -> None:
        """See :meth:`godrive.blobs.BlobStore.quarantine`."""
        await self._store.quarantine(key)

    async def sweep_staging(self, before: datetime) -> int:
        """See :meth:`godrive.blobs.BlobStore.sweep_staging`."""
        return await self._store.sweep_staging(before)

    async def free_bytes(self) -> int | None:
        """See :meth:`godrive.blobs.BlobStore.free_bytes`."""
        return await self._store.free_bytes()

    def receiving(self, key: ObjectKey) -> int | None:
        """See :meth:`godrive.blobs.BlobStore.receiving`."""
        return self._store.receiving(key)


def _state() -> Any:
    return bindings.crypto_secretstream_xchacha20poly1305_state()


def _damaged(key: ObjectKey) -> BlobDamaged:
    return BlobDamaged(f"The object {key} of the backup was changed, or cut short, since it was stored.")
