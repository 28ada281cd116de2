"""The schema, as numbered steps that only go forward.

A step is a file ``NNNN_name.sql`` of statements that end in ``;``.  What
differs between databases is a ``{word}`` that the engine fills in; it may stand
for several statements with a line ``;;`` between them.  Engines run all missing
steps in one transaction and note each in the table ``schema_versions`` with a
digest of its file.  A catalog whose steps differ from ours was made by another
program than this, and is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files

import msgspec

from godrive.errors import ConfigError

NOTE_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_versions (version INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL)"
)
APPLIED = "SELECT version, digest FROM schema_versions"
NOTE = "INSERT INTO schema_versions (version, name, digest) VALUES ($1, $2, $3)"


class Migration(msgspec.Struct, frozen=True):
    """One step; ``script`` still has its ``{words}``."""

    version: int
    name: str
    script: str

    @property
    def digest(self) -> str:
        """A digest of the script, the same for every database."""
        return sha256(self.script.encode()).hexdigest()[:32]

    def statements(self, words: Mapping[str, str]) -> list[str]:
        """The step's statements in a database's own words."""
        lines = (line for line in self.script.splitlines() if not line.startswith("--"))
        parts = [part.strip().format_map(words) for part in "\n".join(lines).split(";") if part.strip()]
        return [statement.strip() for part in parts for statement in part.split("\n;;\n")]


@cache
def migrations() -> list[Migration]:
    """Every step we know, in order."""
    steps = []
    for file in files(__name__).iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            steps.append(Migration(int(number), name, file.read_text("utf-8")))
    return sorted(steps, key=lambda step: step.version)


def check_table(columns: Collection[str]) -> None:
    """Raises ``ConfigError`` when ``schema_versions`` was made before steps had digests."""
    if "digest" not in columns:
        raise _foreign("was made by an earlier development version")


def _foreign(why: str) -> ConfigError:
    return ConfigError(
        f"The catalog {why} of GoDrive, whose layout this version cannot read.",
        hint="Serve it with the version that made it, or start with an empty data folder or database and upload the "
        "files again.",
    )


def missing(applied: Mapping[int, str], *, guest: bool = False) -> list[Migration]:
    """The steps still to run, where *applied* has the digests of those that were run.

    Raises ``ConfigError`` when the schema is newer than this program, or not
    the one that this program's steps make.  A *guest* runs no steps on a catalog
    that exists: a server of the older program may be using it.
    """
    newest = migrations()[-1].version
    if applied and max(applied) > newest:
        raise ConfigError(
            f"The catalog has schema {max(applied)}, and this version of GoDrive knows none above {newest}.",
            hint="Install the newer GoDrive that wrote it (`godrive version` tells which this is), "
            'or go back to what was copied before the migration (see "A newer release" in docs/operations.md).',
        )
    for step in migrations():
        if applied.get(step.version, step.digest) != step.digest:
            raise _foreign(f"has another step {step.version} than this version")
    steps = [step for step in migrations() if step.version not in applied]
    if guest and applied and steps:
        raise ConfigError(
            f"The catalog has schema {max(applied)}, and this version of GoDrive needs {newest}.",
            hint="Start the server of this version, which migrates it. A command does not, because a server of the "
            "older version may be running.",
        )
    return steps
