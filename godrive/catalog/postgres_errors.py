"""What PostgreSQL's errors mean to a caller, and which of them pass by themselves."""

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

from godrive.errors import ConfigError, DriveError, Invalid, StorageFull, StoreUnavailable

_LOST = (
    OSError,  # which TimeoutError and ConnectionError are
    PostgresConnectionError,
    AdminShutdownError,
    CrashShutdownError,
    CannotConnectNowError,
    IdleInTransactionSessionTimeoutError,
    TooManyConnectionsError,
    ReadOnlySQLTransactionError,  # the other half of a pair that has not taken over yet
    InternalClientError,  # the connection died while asyncpg was busy with it
)
_RACED = (
    SerializationError,
    DeadlockDetectedError,
    LockNotAvailableError,
    UniqueViolationError,  # somebody else was first: looking again, the rule sees them
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
    """Whether the server is away, or has ended the connection."""
    if isinstance(error, InterfaceError):
        return not isinstance(error, ClientDataError | ClientConfigurationError)
    return isinstance(error, _LOST)


def is_raced(error: BaseException) -> bool:
    """Whether another transaction was in the way: run again from the start, the operation sees what that one did."""
    return isinstance(error, _RACED)


def unavailable(error: BaseException) -> StoreUnavailable:
    """The answer while the server is away."""
    return StoreUnavailable(
        f"The database does not answer: {error or type(error).__name__}",
        hint="Check that PostgreSQL runs and that catalog.dsn leads to it.",
    )


def translate(error: BaseException) -> DriveError | None:
    """What an error that no repetition will mend means to a caller; ``None`` when it is a bug of ours."""
    if isinstance(error, DataError | ClientDataError):
        return Invalid("A text or number in the request cannot be stored.")
    if isinstance(error, DiskFullError):
        return StorageFull("The disk of the database is full.", hint="Make room on the disk of the PostgreSQL server.")
    if isinstance(error, InsufficientResourcesError | OperatorInterventionError | PostgresSystemError):
        return unavailable(error)
    if isinstance(error, _REFUSED):  # it has let us in before, and will when the operator has mended it
        return StoreUnavailable(f"The database refuses us: {error}", hint=_CHECK)
    return None


def refused(error: BaseException) -> ConfigError | None:
    """What an operator has to mend before the catalog can be opened; ``None`` when it is something else."""
    if isinstance(error, _REFUSED + _UNREADABLE):
        return ConfigError(f"The database refuses us: {error}", hint=_CHECK)
    return None
