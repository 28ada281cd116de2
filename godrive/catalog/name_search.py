"""How each database finds names by three characters in a row (trigrams).

The rules of the index, and of what is indexed, are in ``godrive.rules``; here
are the parts that differ.  The table ``names`` is the same on both: triggers or
an index on it keep what the database needs to find its rows.

*SQLite*: an FTS5 index with the trigram tokenizer.  The rowid is the number of
the name, and a user's numbers are consecutive, so a search for a user reads a
range of each list of rowids, newest first, and stops when it has enough.
Postings have no positions (``detail=none``), which saves a third of the index.
FTS5 merges its segments when they are 16, all at once, which takes up to 70 ms;
so merging is done in small steps, one with each batch of names.

*PostgreSQL*: a GIN index of numbers, each a hash of a trigram and a *block* of
8192 consecutive names.  A search takes block by block, newest first, so that it
reads no more of the index than it needs, whatever the size of the drive and of
other drives.  ``pg_trgm`` has no order to stop in, indexes no character that the
locale of the database does not take for a letter (in the locale ``C``: no
Cyrillic, Greek or Chinese), and is an extension that somebody has to create.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from godrive.catalog.many import over

if TYPE_CHECKING:
    from godrive.catalog import Tx

BLOCK_BITS = 13

_TRIGRAM = 3
_INSERT = "INSERT INTO names (number, entry_id, created_at, text) VALUES"
_ROW = "($1, $2, $3, $4)"

NewName = tuple[int, str, int, str]
"""A row of ``names``: number, id of the entry, when that was made, and the text."""


class NameSearch(Protocol):
    """What the rules of searching need to know of the database."""

    @property
    def candidates(self) -> str:
        """SQL: ``number, entry_id, created_at, text`` of the names with all trigrams, greatest number first.

        Parameters: ``$1 < number < $2``, ``$3`` from :meth:`value`, and ``$4`` rows at most.
        """
        ...

    def value(self, trigrams: Sequence[str]) -> Any:
        """The parameter for these trigrams; at least one."""
        ...

    async def add(self, tx: Tx, names: Sequence[NewName]) -> None:
        """Insert names; at least one."""
        ...

    async def change(self, tx: Tx, texts: Sequence[tuple[int, str]]) -> None:
        """Give names with these numbers other texts; at least one."""
        ...


class SqliteNames:
    """Names in an FTS5 index.

    Whatever changes several names is one statement, in order of their numbers: at the beginning of a statement, and
    where a number is not greater than the one before, FTS5 writes what it has gathered as a segment.
    """

    candidates = (
        "SELECT f.rowid AS number, n.entry_id, n.created_at, n.text "
        "FROM names_fts f CROSS JOIN names n ON n.number = f.rowid "
        "WHERE names_fts MATCH $3 AND f.rowid > $1 AND f.rowid < $2 ORDER BY f.rowid DESC LIMIT $4"
    )

    def value(self, trigrams: Sequence[str]) -> str:
        return " ".join('"' + trigram.replace('"', '""') + '"' for trigram in trigrams)

    async def add(self, tx: Tx, names: Sequence[NewName]) -> None:
        await tx.run(*over(f"{_INSERT} {{rows}}", _ROW, sorted(names)))

    async def change(self, tx: Tx, texts: Sequence[tuple[int, str]]) -> None:
        update = "UPDATE names SET text = new.column2 FROM (VALUES {rows}) new WHERE number = new.column1"
        await tx.run(*over(update, "($1, $2)", sorted(texts)))


class PostgresNames:
    """Names in a GIN index of hashed trigrams.

    ``number + 0`` keeps the planner from reading the names in order of their
    numbers instead, and computing the trigrams of each.
    """

    candidates = (
        "SELECT found.number, found.entry_id, found.created_at, found.text FROM ("
        "WITH RECURSIVE blocks (block) AS ("
        f"SELECT MAX(number) >> {BLOCK_BITS} FROM names WHERE number > $1 AND number < $2 UNION ALL "
        f"SELECT (SELECT MAX(n.number) >> {BLOCK_BITS} FROM names n WHERE n.number > $1 "
        f"AND n.number < b.block << {BLOCK_BITS}) FROM blocks b WHERE b.block IS NOT NULL) "
        "SELECT block FROM blocks WHERE block IS NOT NULL) b CROSS JOIN LATERAL ("
        "SELECT n.number, n.entry_id, n.created_at, n.text FROM names n "
        f"WHERE name_trigrams(n.text, n.number >> {BLOCK_BITS}) @> "
        'ARRAY(SELECT hashtextextended(t COLLATE "C", b.block) FROM unnest($3::text[]) t) '
        "AND n.number + 0 > $1 AND n.number + 0 < $2 ORDER BY n.number + 0 DESC) found LIMIT $4"
    )

    def value(self, trigrams: Sequence[str]) -> list[str]:
        return list(trigrams)

    async def add(self, tx: Tx, names: Sequence[NewName]) -> None:
        await tx.run_each(f"{_INSERT} {_ROW}", names)

    async def change(self, tx: Tx, texts: Sequence[tuple[int, str]]) -> None:
        await tx.run_each("UPDATE names SET text = $2 WHERE number = $1", texts)


SQLITE = SqliteNames()
POSTGRES = PostgresNames()

_SHOWN = "list_state <> 'hidden'"

SQLITE_WORDS = {
    "watch_entries": f"""
CREATE TRIGGER entries_added AFTER INSERT ON entries WHEN NEW.{_SHOWN} BEGIN
    INSERT INTO unindexed (owner_id, entry_id, seq) VALUES (NEW.owner_id, NEW.id, 0) ON CONFLICT DO NOTHING;
END
;;
CREATE TRIGGER entries_changed AFTER UPDATE OF search_key, list_state ON entries
WHEN OLD.search_key <> NEW.search_key OR (OLD.{_SHOWN}) <> (NEW.{_SHOWN}) BEGIN
    INSERT INTO unindexed (owner_id, entry_id, seq) VALUES (NEW.owner_id, NEW.id, 0) ON CONFLICT DO NOTHING;
END
;;
CREATE TRIGGER entries_removed AFTER DELETE ON entries BEGIN
    INSERT INTO unindexed (owner_id, entry_id, seq) VALUES (OLD.owner_id, OLD.id, 0) ON CONFLICT DO NOTHING;
END""",
    "index_names": """
CREATE VIRTUAL TABLE names_fts USING fts5 (
    text, content='names', content_rowid='number', columnsize=0, detail=none, tokenize='trigram case_sensitive 1')
;;
INSERT INTO names_fts (names_fts, rank) VALUES ('automerge', 0), ('crisismerge', 64)
;;
CREATE TRIGGER names_added AFTER INSERT ON names BEGIN
    INSERT INTO names_fts (rowid, text) VALUES (NEW.number, NEW.text);
END
;;
CREATE TRIGGER names_changed AFTER UPDATE OF text ON names BEGIN
    INSERT INTO names_fts (names_fts, rowid, text) VALUES ('delete', OLD.number, OLD.text);
    INSERT INTO names_fts (rowid, text) VALUES (NEW.number, NEW.text);
END
;;
CREATE TRIGGER names_removed AFTER DELETE ON names BEGIN
    INSERT INTO names_fts (names_fts, rowid, text) VALUES ('delete', OLD.number, OLD.text);
END
;;
CREATE TRIGGER names_merged AFTER UPDATE ON name_index BEGIN
    INSERT INTO names_fts (names_fts, rank) VALUES ('merge', 32);
END""",
}

POSTGRES_WORDS = {
    "watch_entries": f"""
CREATE SEQUENCE unindexed_seq
;;
CREATE FUNCTION note_unindexed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO unindexed (owner_id, entry_id, seq) VALUES (OLD.owner_id, OLD.id, nextval('unindexed_seq'));
    ELSE
        INSERT INTO unindexed (owner_id, entry_id, seq) VALUES (NEW.owner_id, NEW.id, nextval('unindexed_seq'));
    END IF;
    RETURN NULL;
END $$
;;
CREATE TRIGGER entries_added AFTER INSERT ON entries FOR EACH ROW WHEN (NEW.{_SHOWN})
EXECUTE FUNCTION note_unindexed()
;;
CREATE TRIGGER entries_changed AFTER UPDATE OF search_key, list_state ON entries FOR EACH ROW
WHEN (OLD.search_key <> NEW.search_key OR (OLD.{_SHOWN}) <> (NEW.{_SHOWN})) EXECUTE FUNCTION note_unindexed()
;;
CREATE TRIGGER entries_removed AFTER DELETE ON entries FOR EACH ROW EXECUTE FUNCTION note_unindexed()""",
    "index_names": f"""
CREATE FUNCTION name_trigrams(name TEXT, block BIGINT) RETURNS BIGINT[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT COALESCE(array_agg(DISTINCT hashtextextended(substr(name, i, {_TRIGRAM}) COLLATE "C", block)), '{{}}')
    FROM generate_series(1, length(name) - {_TRIGRAM - 1}) AS i
$$
;;
CREATE INDEX names_trigrams ON names USING gin (name_trigrams(text, number >> {BLOCK_BITS}))
WITH (gin_pending_list_limit = 256)""",
}
