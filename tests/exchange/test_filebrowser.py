"""Accounts of File Browser: everybody logs in with the password that they have, and no hash is shown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from godrive.drive import GoDrive
from godrive.errors import ConfigError, Unauthenticated
from godrive.exchange.filebrowser import (
    AccountOutcome,
    AccountResult,
    FileBrowserAccount,
    import_accounts,
    read_accounts,
)
from godrive.messages.auth import LogIn
from godrive.messages.users import FindUser
from godrive.testing import open_drive, sign_up
from tests.cases import each
from tests.principals import SYSTEM

pytestmark = pytest.mark.anyio


def hashed(password: str, prefix: bytes = b"2a") -> str:
    """As Go's bcrypt writes it, at a low cost."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4, prefix)).decode()


def exported(username: str, password: str, number: int = 1) -> dict[str, Any]:
    """One account as ``filebrowser users export`` writes it (version 2)."""
    return {
        "id": number,
        "username": username,
        "password": password,
        "scope": f"/{username}",
        "locale": "en",
        "lockPassword": False,
        "viewMode": "mosaic",
        "singleClick": False,
        "perm": dict.fromkeys(("admin", "execute", "create", "rename", "modify", "delete", "share", "download"), True),
        "commands": [],
        "sorting": {"by": "name", "asc": False},
        "rules": [],
        "hideDotfiles": False,
        "dateFormat": False,
    }


@pytest.fixture
async def drive(tmp_path: Path) -> AsyncIterator[GoDrive]:
    async with open_drive(data_dir=tmp_path / "data") as drive:
        yield drive


async def results(
    drive: GoDrive, accounts: list[FileBrowserAccount], domain: str | None = "example.org"
) -> list[AccountResult]:
    found: list[AccountResult] = []
    await import_accounts(drive, accounts, domain=domain, told=found.append)
    return found


async def test_everybody_logs_in_with_the_password_that_they_have(drive: GoDrive, tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    long = "\u00fc" * 36  # the 72 bytes that Go's bcrypt takes at most
    there = await sign_up(drive, "bob@example.org")
    accounts = [
        exported("admin", hashed("admin's password")),
        exported("Ann@Example.com", hashed("ann's password", b"2b"), 2),
        exported("bob", hashed("another"), 3),
        exported("zo\u00eb", hashed("zoe's password"), 4),
        exported("long", hashed(long), 5),
        exported("proxied", "", 6),
        exported("md5", "5f4dcc3b5aa765d61d8327deb882cf99", 7),
        exported("costly", "$2a$31$" + "x" * 53, 8),
        exported("two words", hashed("password"), 9),
    ]
    path.write_text(json.dumps(accounts))
    found = await results(drive, read_accounts(path))
    outcomes = {result.username: result.outcome for result in found}
    assert outcomes == {
        **dict.fromkeys(["admin", "Ann@Example.com", "long", "proxied"], AccountOutcome.ADDED),
        "bob": AccountOutcome.PRESENT,
        **dict.fromkeys(["zo\u00eb", "md5", "costly", "two words"], AccountOutcome.REFUSED),
    }
    for email, password in (
        ("admin@example.org", "admin's password"),
        ("ann@example.com", "ann's password"),
        ("long@example.org", long),
        ("bob@example.org", "correct horse"),
    ):
        assert (await drive.auth.ask(LogIn(email, password))).token
    for email, password in (("proxied@example.org", ""), ("bob@example.org", "another")):
        with pytest.raises(Unauthenticated):
            await drive.auth.ask(LogIn(email, password))
    assert (await drive.auth.ask(FindUser(SYSTEM, "bob@example.org"))).id == there.id
    again = await results(drive, read_accounts(path))
    assert {result.outcome for result in again} == {AccountOutcome.PRESENT, AccountOutcome.REFUSED}, (
        "a second run adds nobody"
    )
    assert "$2" not in repr((found, again, read_accounts(path)))
    without = await results(drive, [FileBrowserAccount("eve", hashed("password"))], None)
    assert [(result.outcome, "--domain" in result.detail) for result in without] == [(AccountOutcome.REFUSED, True)]


@each(
    "text",
    ["", "{", "{}", '[{"username":1}]', '[{"password":"$2a$10$secret"}]', "- username: ann\n  id: 1\n", "\u00ff"],
)
def test_a_file_of_another_kind_is_a_mistake_and_is_not_quoted(text: str, tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        read_accounts(path)
    assert "secret" not in f"{caught.value.detail} {caught.value.hint} {caught.value.__cause__}"


def test_an_export_without_accounts_is_null_or_an_empty_list(tmp_path: Path) -> None:
    for text in ("null", "[]", "\ufeff[]"):
        (tmp_path / "users.json").write_text(text, encoding="utf-8")
        assert read_accounts(tmp_path / "users.json") == []
    with pytest.raises(ConfigError, match="cannot be read"):
        read_accounts(tmp_path)
