"""What PostgreSQL's errors mean to a caller, and which of them pass by themselves."""

from __future__ import annotations

import asyncpg
from asyncpg import exceptions as pg

from godrive.errors import ConfigError, DriveError, Invalid, StorageFull, StoreUnavailable

LOST: tuple[type[BaseException], ...] = (
    OSError,  # which TimeoutError and ConnectionError are
    pg.PostgresConnectionError,
    pg.ConnectionDoesNotExistError,
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.CannotConnectNowError,
    pg.IdleInTransactionSessionTimeoutError,
    pg.TooManyConnectionsError,
    pg.ReadOnlySQLTransactionError,  # the other half of a pair that has not taken over yet
)
"""The server is away, or has ended the connection."""

RACED: tuple[type[BaseException], ...] = (
    pg.SerializationError,
    pg.DeadlockDetectedError,
    pg.LockNotAvailableError,
    pg.UniqueViolationError,  # somebody else was first: looking again, the rule sees them
    pg.InvalidCachedStatementError,  # the schema has changed under a prepared statement
)
"""Another transaction was in the way; run again from the start, the operation sees what that one did."""


def is_lost(error: BaseException) -> bool:
    """Whether the connection cannot be used any more, or never came to be."""
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, pg.DataError)
    return isinstance(error, LOST)


def unavailable(error: BaseException) -> StoreUnavailable:
    """The answer while the server is away."""
    return StoreUnavailable(
        f"The database does not answer: {error or type(error).__name__}",
        hint="Check that PostgreSQL runs and that catalog.dsn leads to it.",
    )


def translate(error: BaseException) -> DriveError | None:
    """What an error that no repetition will mend means to a caller; ``None`` when it is a bug of ours."""
    if isinstance(error, pg.DataError | asyncpg.DataError):
        return Invalid("A text or number in the request cannot be stored.")
    if isinstance(error, pg.DiskFullError):
        return StorageFull("The disk of the database is full.", hint="Make room on the disk of the PostgreSQL server.")
    if isinstance(error, pg.InsufficientResourcesError | pg.OperatorInterventionError | pg.SystemError):
        return unavailable(error)
    return None


def refused(error: BaseException) -> ConfigError | None:
    """What an operator has to mend before there can be a connection at all; ``None`` when it is something else."""
    if isinstance(
        error,
        pg.InvalidAuthorizationSpecificationError
        | pg.InvalidCatalogNameError
        | pg.InsufficientPrivilegeError
        | pg.InvalidSchemaNameError
        | pg.ClientConfigurationError
        | ValueError,
    ):
        return ConfigError(f"The database refuses us: {error}", hint="Check catalog.dsn and the rights of its user.")
    return None
