"""The passphrase of a backup: it opens the key that everything in an encrypted backup is encrypted with.

Theory of operation.  The key is random and never changes.  The object ``key/N``
has it, encrypted with the passphrase.  To change the passphrase, the same key is
encrypted again as ``key/N+1``, and the older objects are deleted.  The one with
the highest number counts, so at each instant exactly one passphrase opens the
backup, and nothing else is written again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import ModuleType

import msgspec

from godrive import config
from godrive.backup.place import filling, opened_store
from godrive.blobs import BlobStore
from godrive.clock import Clock
from godrive.errors import ConfigError, Conflict, NotFound, UploadFinished
from godrive.model import ObjectKey

_KEYS = "key/"
_UNSET = "Name a file with its passphrase with backup.passphrase_file, or GODRIVE_BACKUP_PASSPHRASE_FILE."


def is_key_object(key: str) -> bool:
    """Whether the object has the key of an encrypted backup."""
    return key.startswith(_KEYS)


async def unlocked(
    store: BlobStore, name: str, passphrase: str, *, create: bool
) -> tuple[BlobStore, Callable[[bytes], bytes]]:
    """Return the store of the backup *name* as it is, or, if there is a passphrase, one that encrypts.

    The function makes a name of a digest, which does not show the digest if the store encrypts.

    A new backup gets a key if *create*.  Raises ``ConfigError`` if the
    passphrase is not that of the backup, is missing, or is not needed.
    """
    number = max(await _numbers(store), default=0)
    if not number and not passphrase:
        return store, bytes
    if number:
        key = await _opened(store, number, name, passphrase)
    else:
        await _check_new(store, name, create=create)
        key = _sealing().new_key()
        await _write(store, 1, key, passphrase, name)
    encrypting = _sealing().SealedStore(store, key)
    return encrypting, encrypting.conceal


async def change_passphrase(name: str, settings: config.Config, clock: Clock, passphrase: str) -> None:
    """Make *passphrase* that of the encrypted backup at *name*; ``backup.passphrase`` is the one until now.

    When this returns, only the new one opens the backup.  If it is interrupted,
    one of the two does, and the same call with that one as the old completes it.
    Raises ``ConfigError`` as :func:`unlocked`, or if the backup is not
    encrypted, and ``Conflict`` if another process changes it.
    """
    if not passphrase:
        raise ConfigError("The new passphrase is empty.", hint="Without one, nobody could read the backup.")
    async with opened_store(name, settings, clock) as (store, place):
        numbers = await _numbers(store)
        if not numbers:
            hint = "Begin another target with a passphrase."
            raise ConfigError(f"The backup in {place} is not encrypted.", hint=hint)
        key = await _opened(store, max(numbers), place, settings.backup.passphrase)
        await _write(store, max(numbers) + 1, key, passphrase, place)
        await _opened(store, max(numbers) + 1, place, passphrase)  # the store has what opens it
        await drop_old_keys(store)


async def drop_old_keys(store: BlobStore) -> None:
    """Delete the objects that an interrupted change of the passphrase has left."""
    numbers = await _numbers(store)
    for number in sorted(numbers)[:-1]:
        await store.delete(_object(number))


async def _numbers(store: BlobStore) -> list[int]:
    """Return the numbers of all keys that there are."""
    found = []
    async for blob in store.list(after=_KEYS):
        if not is_key_object(blob.key):
            break
        if (number := blob.key.removeprefix(_KEYS)).isascii() and number.isdecimal():
            found.append(int(number))
    return found


def _object(number: int) -> ObjectKey:
    return ObjectKey(f"{_KEYS}{number}")


async def _opened(store: BlobStore, number: int, name: str, passphrase: str) -> bytes:
    """Return the key.  Raises ``ConfigError``."""
    if not passphrase:
        raise ConfigError(f"The backup in {name} is encrypted.", hint=_UNSET)
    try:
        stored = b"".join([piece async for piece in store.get(_object(number))])
        sealed = msgspec.json.decode(stored, type=_sealing().SealedKey)
    except (NotFound, msgspec.DecodeError):
        hint = "It is damaged, or a newer release wrote it."
        raise ConfigError(f"The key of the backup in {name} cannot be read.", hint=hint) from None
    key: bytes = await asyncio.to_thread(sealed.open, passphrase, name)
    return key


async def _check_new(store: BlobStore, name: str, *, create: bool) -> None:
    """Check that a backup may begin here.  Raises ``ConfigError``."""
    if await anext(aiter(store.list()), None) is not None:
        hint = "Choose another target, or set no passphrase."
        raise ConfigError(f"The backup in {name} is not encrypted.", hint=hint)
    if not create:
        raise ConfigError(f"There is no backup in {name}.", hint="godrive backup create makes one.")


async def _write(store: BlobStore, number: int, key: bytes, passphrase: str, name: str) -> None:
    """Store the key as this object, which there must not be yet.  Raises ``Conflict``, ``StorageFull``."""
    sealed = await asyncio.to_thread(_sealing().SealedKey.make, key, passphrase)
    data = msgspec.json.encode(sealed)

    async def body() -> AsyncIterator[bytes]:
        yield data

    try:
        with filling(name):
            await store.put(_object(number), body(), size=len(data))
    except UploadFinished:
        raise Conflict(f"Another process gives the backup in {name} a passphrase.", hint="Try again.") from None


def _sealing() -> ModuleType:
    """Import what encrypts.  Raises ``ConfigError`` if its library is not installed."""
    try:
        from godrive.backup import sealing  # noqa: PLC0415 - needs PyNaCl
    except ModuleNotFoundError as error:
        hint = "pip install 'godrive-server[backup]'"
        raise ConfigError(f"{error.name} is not installed, which encrypts backups.", hint=hint) from None
    return sealing
