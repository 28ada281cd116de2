"""Principals: who acts, and the most that they may do.

Every message about files names its principal in the field ``by``.
``godrive.rules.access`` decides what the principal may do with an entry when
the rule runs, so a right that was revoked meanwhile does not apply.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import StrEnum
from typing import TypeAlias

from godrive.errors import Invalid
from godrive.model import FileId, SessionId, UserId, Value


class Scope(StrEnum):
    """A group of operations.  Each route declares the scope that it requires."""

    FILES_READ = "files:read"
    FILES_WRITE = "files:write"
    FILES_DELETE = "files:delete"
    SHARE = "share"
    ADMIN = "admin"
    ACCOUNT = "account"
    """The account itself: password, sessions, deletion.  Only a session has it; no token can."""


class Verb(StrEnum):
    """What a principal wants to do with an entry."""

    READ = "read"
    """See the entry, its children and its bytes."""
    CREATE = "create"
    """Put a new entry into the folder."""
    EDIT = "edit"
    """Rename or move the entry, or change its metadata."""
    DELETE = "delete"
    """Move it to the trash."""
    RESTORE = "restore"
    """Restore it from the trash."""
    PURGE = "purge"
    """Delete it permanently from the trash."""


SCOPE_OF: dict[Verb, Scope] = {
    Verb.READ: Scope.FILES_READ,
    Verb.CREATE: Scope.FILES_WRITE,
    Verb.EDIT: Scope.FILES_WRITE,
    Verb.DELETE: Scope.FILES_DELETE,
    Verb.RESTORE: Scope.FILES_DELETE,
    Verb.PURGE: Scope.FILES_DELETE,
}
"""The scope that covers each verb."""


class UserSession(Value, tag="session"):
    """A user with a session."""

    user_id: UserId
    session_id: SessionId


class HostUser(Value, tag="host"):
    """A user that the embedding application has authenticated."""

    user_id: UserId


class ApiToken(Value, tag="token"):
    """A user with an API token.  It covers only *scopes*, and with *folder_id* only the contents of that folder."""

    user_id: UserId
    token_id: str
    scopes: frozenset[Scope]
    folder_id: FileId | None = None


class ShareLink(Value, tag="link"):
    """Anyone with the link that *user_id* created.  It covers *verbs* on *entry_id* and its contents."""

    user_id: UserId
    link_id: str
    entry_id: FileId
    verbs: frozenset[Verb]


class SignedUrl(Value, tag="url"):
    """Anyone with a URL that this server signed for *user_id*.  It covers one *verb* on one upload,
    or on one entry and what lies in it.

    The URL only works while the user has the right themselves.
    """

    user_id: UserId
    verb: Verb
    target_id: str


class System(Value, tag="system"):
    """The server itself.  *part* (ingest, janitor, operator) is for the log."""

    part: str


Caller: TypeAlias = UserSession | ApiToken
"""A principal authenticated by a bearer token."""


Follower: TypeAlias = Caller | HostUser
"""A principal that can wait for changes of a drive."""


def credential_id(by: Follower) -> str:
    """Return the id of what *by* depends on: the session, the token, or the user of the host application."""
    match by:
        case UserSession():
            return by.session_id
        case ApiToken():
            return by.token_id
        case _:
            return by.user_id


Principal: TypeAlias = UserSession | HostUser | ApiToken | ShareLink | SignedUrl | System
"""Who acts.  ``None`` is not allowed, so every message states its authority."""


def user_of(by: Principal) -> UserId:
    """Return the user for whom *by* acts.  Raises ``Invalid`` for the system, which has no drive."""
    if not isinstance(by, UserSession) and isinstance(by, System):
        raise Invalid("The system has no drive of its own: name a folder.")
    return by.user_id


def authority(by: Principal) -> Hashable:
    """Return a cache key for the entries that *by* can see.  All sessions of a user share it."""
    return by.user_id if isinstance(by, (UserSession, HostUser)) else by
