"""Who acts, and what they may do at most.

Every message about files names its principal in the field ``by``.  A principal
says on whose authority a request comes; what that principal may do with one
entry is decided by ``godrive.rules.access`` when the rule runs, so that a right
that has ended meanwhile does not count.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import StrEnum
from typing import TypeAlias

from godrive.errors import Invalid
from godrive.model import FileId, SessionId, UserId, Value


class Scope(StrEnum):
    """A group of operations.  A route names the one that it needs."""

    FILES_READ = "files:read"
    FILES_WRITE = "files:write"
    FILES_DELETE = "files:delete"
    SHARE = "share"
    ADMIN = "admin"
    ACCOUNT = "account"
    """The account itself: password, sessions, deletion.  Only a session has it; no token can be given it."""


class Verb(StrEnum):
    """What a principal wants to do with an entry."""

    READ = "read"
    """See the entry, its children and its bytes."""
    CREATE = "create"
    """Put a new entry into the folder."""
    EDIT = "edit"
    """Rename it, or change what is known of it."""
    DELETE = "delete"
    """Move it to the trash."""
    RESTORE = "restore"
    """Take it out of the trash."""
    PURGE = "purge"
    """Destroy what is in the trash."""


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
    """A user, by one of their sessions."""

    user_id: UserId
    session_id: SessionId


class HostUser(Value, tag="host"):
    """A user whom the application that embeds the drive has authenticated itself."""

    user_id: UserId


class ApiToken(Value, tag="token"):
    """A user, by a token that covers only *scopes*, and with *folder_id* only what lies in that folder."""

    user_id: UserId
    token_id: str
    scopes: frozenset[Scope]
    folder_id: FileId | None = None


class ShareLink(Value, tag="link"):
    """Anyone who holds the link that *user_id* made: *verbs* on *entry_id* and what lies in it."""

    user_id: UserId
    link_id: str
    entry_id: FileId
    verbs: frozenset[Verb]


class SignedUrl(Value, tag="url"):
    """Anyone who holds a URL that this server signed for *user_id*: one *verb* on one entry or upload.

    The right is that of the user at the time of use: it ends with theirs.
    """

    user_id: UserId
    verb: Verb
    target_id: str


class System(Value, tag="system"):
    """The server itself: *part* (ingest, janitor, operator) says which of its parts, for the log."""

    part: str


Caller: TypeAlias = UserSession | ApiToken
"""A principal that a bearer token stands for."""


def credential_id(by: Caller) -> str:
    """What the right of *by* hangs on: when that session or token ends, so does the right."""
    return by.session_id if isinstance(by, UserSession) else by.token_id


Principal: TypeAlias = UserSession | HostUser | ApiToken | ShareLink | SignedUrl | System
"""Who acts.  ``None`` is not one of them: no message can leave its authority out."""


def user_of(by: Principal) -> UserId:
    """The user on whose authority *by* acts.  Raises ``Invalid`` for the system, which has no drive."""
    if isinstance(by, System):
        raise Invalid("The system has no files of its own: name a folder.")
    return by.user_id


def authority(by: Principal) -> Hashable:
    """What decides which entries *by* sees, as a key for caches: the same for all sessions of a user."""
    return by.user_id if isinstance(by, UserSession | HostUser) else by
