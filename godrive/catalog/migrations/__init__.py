"""The schema, as numbered steps that only go forward.

A step is a file ``NNNN_name.sql`` of statements that end in ``;``.  What
differs between databases is a ``{word}`` that the engine fills in.  Engines
run all missing steps in one transaction and note each in the table
``schema_versions``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from godrive.errors import ConfigError

NOTE_TABLE = "CREATE TABLE IF NOT EXISTS schema_versions (version INTEGER PRIMARY KEY, name TEXT NOT NULL)"
APPLIED = "SELECT version FROM schema_versions"
NOTE = "INSERT INTO schema_versions (version, name) VALUES ($1, $2)"


@dataclass(frozen=True)
class Migration:
    """One step; ``script`` still has its ``{words}``."""

    version: int
    name: str
    script: str

    def statements(self, words: Mapping[str, str]) -> list[str]:
        """The step's statements in a database's own words."""
        lines = (line for line in self.script.splitlines() if not line.startswith("--"))
        return [part.strip().format_map(words) for part in "\n".join(lines).split(";") if part.strip()]


@cache
def migrations() -> list[Migration]:
    """Every step we know, in order."""
    steps = []
    for file in files(__name__).iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            steps.append(Migration(int(number), name, file.read_text("utf-8")))
    return sorted(steps, key=lambda step: step.version)


def missing(applied: Collection[int]) -> list[Migration]:
    """The steps still to run.  Raises ``ConfigError`` when the schema is newer than this program."""
    newest = migrations()[-1].version
    if applied and max(applied) > newest:
        raise ConfigError(
            f"The catalog has schema {max(applied)}, and this version of GoDrive knows none above {newest}.",
            hint="Install the newer GoDrive that wrote it (`godrive version` tells which this is), "
            "or restore the copy that was made beside the database before it was migrated.",
        )
    return [step for step in migrations() if step.version not in applied]
