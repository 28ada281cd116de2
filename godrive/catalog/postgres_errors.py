"""Classifies errors of PostgreSQL: which ones pass by themselves, and what the others mean to a caller."""

from __future__ import annotations

from asyncpg import DataError as ClientDataError
from asyncpg import InterfaceError, InternalClientError
from asyncpg.exceptions import (
    AdminShutdownError,
    CannotConnectNowError,
    ClientConfigurationError,
    CrashShutdownError,
    DataError,
    DeadlockDetectedError,
    DiskFullError,
    IdleInTransactionSessionTimeoutError,
    InsufficientPrivilegeError,
    InsufficientResourcesError,
    InvalidAuthorizationSpecificationError,
    InvalidCachedStatementError,
    InvalidCatalogNameError,
    InvalidSchemaNameError,
    LockNotAvailableError,
    OperatorInterventionError,
    PostgresConnectionError,
    PostgresSystemError,
    ReadOnlySQLTransactionError,
    SerializationError,
    TooManyConnectionsError,
    UniqueViolationError,
)

from godrive.errors import AskTimeout, ConfigError, DriveError, Invalid, StorageFull, StoreUnavailable

_LOST = (
    OSError,  # which TimeoutError and ConnectionError are
    PostgresConnectionError,
    AdminShutdownError,
    CrashShutdownError,
    CannotConnectNowError,
    IdleInTransactionSessionTimeoutError,
    TooManyConnectionsError,
    ReadOnlySQLTransactionError,  # a standby that has not been promoted yet
    InternalClientError,  # the connection died while asyncpg was busy with it
)
_UNDONE = (  # what the server says of a statement that it has not executed
    AdminShutdownError,
    CannotConnectNowError,
    IdleInTransactionSessionTimeoutError,
    TooManyConnectionsError,
    ReadOnlySQLTransactionError,
)
_RACED = (
    SerializationError,
    DeadlockDetectedError,
    LockNotAvailableError,
    UniqueViolationError,  # another transaction was first; run again, the rule sees its row
    InvalidCachedStatementError,  # the schema has changed under a prepared statement
)
_REFUSED = (
    InvalidAuthorizationSpecificationError,
    InvalidCatalogNameError,
    InsufficientPrivilegeError,
    InvalidSchemaNameError,
)
_UNREADABLE = (ClientConfigurationError, ValueError)
_CHECK = "Check catalog.dsn and the rights of its user."


def is_lost(error: BaseException) -> bool:
    """Whether the server is unreachable or has closed the connection."""
    if isinstance(error, InterfaceError):
        return not isinstance(error, ClientDataError | ClientConfigurationError)
    return isinstance(error, _LOST)


def is_unknown(error: BaseException) -> bool:
    """Whether what was sent may have been committed: the connection was lost before the server said anything."""
    return is_lost(error) and not isinstance(error, _UNDONE)


def is_raced(error: BaseException) -> bool:
    """Whether another transaction interfered.  Run again from the start, the operation sees its effects."""
    return isinstance(error, _RACED)


def unavailable(error: BaseException) -> StoreUnavailable:
    """The error for callers while the server is unreachable."""
    return StoreUnavailable(
        f"The database does not answer: {error or type(error).__name__}",
        hint="Check that PostgreSQL runs and that catalog.dsn leads to it.",
    )


def unknown(error: BaseException) -> AskTimeout:
    """The error for callers whose operation may have been committed, or not."""
    return AskTimeout(f"The database did not say whether it has committed: {error or type(error).__name__}")


def translate(error: BaseException) -> DriveError | None:
    """The error for callers when repeating the operation does not help.  ``None`` for a bug of ours."""
    if isinstance(error, DataError | ClientDataError):
        return Invalid("A text or number in the request cannot be stored.")
    if isinstance(error, DiskFullError):
        return StorageFull("The disk of the database is full.", hint="Make room on the disk of the PostgreSQL server.")
    if isinstance(error, InsufficientResourcesError | OperatorInterventionError | PostgresSystemError):
        return unavailable(error)
    if isinstance(error, _REFUSED):  # it accepted us before, and will again once the operator has fixed it
        return StoreUnavailable(f"The database refuses us: {error}", hint=_CHECK)
    return None


def refused(error: BaseException) -> ConfigError | None:
    """The error for an operator, who must fix the configuration first.  ``None`` for other errors."""
    if isinstance(error, _REFUSED + _UNREADABLE):
        return ConfigError(f"The database refuses us: {error}", hint=_CHECK)
    return None
