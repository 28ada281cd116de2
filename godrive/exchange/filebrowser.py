"""Accounts of File Browser, from the JSON that ``filebrowser users export`` writes.

File Browser hashes passwords with bcrypt, as this server does, so everybody can
log in with the password that they have.  An account there has any name, and here
an e-mail address, so a domain is added to a name that is none.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import msgspec

from godrive import email_address
from godrive.drive import GoDrive
from godrive.errors import ConfigError, EmailTaken, Invalid
from godrive.messages.users import ImportUser
from godrive.principal import System

_LARGEST = 256 << 20


class FileBrowserAccount(msgspec.Struct, frozen=True):
    """What is read of an account; File Browser writes more about each."""

    username: str
    password: str = ""
    scope: str = ""

    def __repr__(self) -> str:
        return f"Account({self.username!r})"  # never the hash


class AccountOutcome(StrEnum):
    """What became of an account."""

    ADDED = "added"
    PRESENT = "present"
    """There is an account with that address, which stays as it is."""
    REFUSED = "refused"


class AccountResult(msgspec.Struct, frozen=True):
    """What became of the account *username*, and its address here."""

    outcome: AccountOutcome
    username: str
    email: str = ""
    scope: str = ""
    detail: str = ""


def read_accounts(path: Path) -> list[FileBrowserAccount]:
    """Read the accounts.  Raises ``ConfigError``, which never quotes the file."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        return msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=list[FileBrowserAccount] | None) or []
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ConfigError(
            f"{path} is not what File Browser exports.", hint="Make it with: filebrowser users export users.json"
        ) from None


async def import_accounts(
    drive: GoDrive, accounts: list[FileBrowserAccount], *, domain: str | None, told: Callable[[AccountResult], None]
) -> None:
    """Add the accounts that do not exist yet.  Idempotent.  Raises ``StoreUnavailable``."""
    for account in accounts:
        told(await _import(drive, account, domain))


async def _import(drive: GoDrive, account: FileBrowserAccount, domain: str | None) -> AccountResult:
    def result(outcome: AccountOutcome, detail: str = "") -> AccountResult:
        return AccountResult(outcome, account.username, email, account.scope, detail)

    email = account.username
    if "@" not in email and domain:
        email = f"{email}@{domain}"
    try:
        email = email_address.clean(email, utf8=drive.config.auth.unicode_emails)
    except Invalid as error:
        hint = "" if "@" in email else " Name a domain with --domain."
        return result(AccountOutcome.REFUSED, f"{error.detail}{hint}")
    quota = drive.config.auth.default_quota_bytes or None
    try:
        await drive.auth.ask(ImportUser(System(part="operator"), email, account.password, quota))
    except EmailTaken:
        return result(AccountOutcome.PRESENT, "There is an account with that address.")
    except Invalid as error:
        return result(AccountOutcome.REFUSED, error.detail)
    return result(AccountOutcome.ADDED, "" if account.password else "It has no password: godrive user set-password.")
