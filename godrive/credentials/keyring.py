"""The keyring: the keys that sign tokens and URLs, and the file that holds them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from godrive.errors import ConfigError, refused
from godrive.paths import create_file, exists, replace_file

KEY_BYTES = 32
"""Length of a signing key: that of the digest, as RFC 7518, section 3.2, requires."""


@dataclass(frozen=True)
class Keyring:
    """Signing keys by id: the first signs, all verify.

    On disk: a line ``id:hex`` for each key, the one that signs first.  Blank
    lines and lines that begin with ``#`` are ignored.
    """

    keys: Mapping[str, bytes] = field(repr=False)

    @property
    def current(self) -> tuple[str, bytes]:
        """The id and the key that sign."""
        return next(iter(self.keys.items()))

    @classmethod
    def generate(cls) -> Keyring:
        """A keyring of one new key, which is not stored."""
        return cls({os.urandom(4).hex(): os.urandom(KEY_BYTES)})

    @classmethod
    def load(cls, path: Path) -> Keyring:
        """Read the file.

        Raises ``ConfigError`` when it cannot be read or is malformed, and when
        it belongs to this user and others may read it.  Its group may: that is
        how orchestrators hand out secrets.  Like ssh, it does not judge the
        mode of a file that belongs to another user.
        """
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                text = file.read().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The secret {path} cannot be read: {_reason(error)}") from None
        if status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) & stat.S_IRWXO:
            raise ConfigError(f"The secret {path} can be read by every user", hint=f"chmod o= {path}")
        return cls(_parse(text, path))

    @classmethod
    def create(cls, path: Path) -> Keyring:
        """Make the file with one random key, mode 0600.  Raises ``FileExistsError`` and ``ConfigError``."""
        keyring = cls.generate()
        try:
            create_file(path, keyring._encode())
        except FileExistsError:
            raise
        except OSError as error:
            raise refused(f"The secret {path} cannot be written", error) from None
        return keyring

    @classmethod
    def load_or_create(cls, path: Path) -> Keyring:
        """Read the file, or make it when there is none.  Raises ``ConfigError``."""
        try:
            missing = not exists(path)
        except OSError as error:
            raise ConfigError(f"The secret {path} cannot be read: {_reason(error)}") from None
        if missing:
            with suppress(FileExistsError):  # another process was first: its key counts
                cls.create(path)
        return cls.load(path)

    @classmethod
    def rotate(cls, path: Path, *, keep: int | None = None) -> Keyring:
        """Put a new key first, so that it signs; keep *keep* of the old ones (all) to verify.

        Owner, group and mode of the file stay.  With ``keep=0`` everything that
        the old keys signed becomes invalid.  Running processes go on with the
        keys that they have read.
        """
        kept = list(cls.load(path).keys.items())[:keep]
        keyring = cls(dict(cls.generate().keys) | dict(kept))
        try:
            replace_file(path, keyring._encode())
        except OSError as error:
            hint = "Run the command as the owner of the file, or as root." if error.errno == errno.EPERM else None
            raise refused(f"The secret {path} cannot be written", error, hint=hint) from None
        return keyring

    def _encode(self) -> bytes:
        return "".join(f"{kid}:{key.hex()}\n" for kid, key in self.keys.items()).encode("ascii")


def _parse(text: str, path: Path) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        kid, _, secret = line.partition(":")
        try:
            key = bytes.fromhex(secret)
        except ValueError:
            key = b""
        if not (kid.isascii() and kid.isalnum()) or kid in keys or len(key) < KEY_BYTES:
            raise ConfigError(f"Line {number} of the secret {path} is not a new id, a colon and 64 or more hex digits")
        keys[kid] = key
    if not keys:
        raise ConfigError(f"The secret {path} holds no key")
    return keys


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not text"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
