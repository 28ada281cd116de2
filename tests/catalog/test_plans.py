"""How the databases find rows: by walking an index, in its order, whatever the size of the table."""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from godrive.catalog import Catalog, ReadsAtOnce, Row, Tx, name_search
from godrive.messages.broadcasts import (
    BroadcastChange,
    DueBroadcast,
    MarkDelivered,
    UsersToBroadcast,
    UserToBroadcast,
)
from godrive.messages.changes import Change, ChangeKind, ListChanges
from godrive.messages.expected import ExpectedBlobs, NamedSizes
from godrive.messages.files import (
    CopyFile,
    EmptyTrash,
    GetFile,
    ListByProperty,
    ListContents,
    ListFavorites,
    ListFiles,
    ListTrash,
    MakeFolder,
    OpenContent,
    PurgeFile,
    ReadList,
    RestoreFile,
    SearchFiles,
    TrashFile,
    UpdateFile,
)
from godrive.messages.metadata import Metadata
from godrive.messages.pending import PendingUploads, UploadsWithoutFolder
from godrive.messages.resumable import AdvanceUpload, ClaimUpload, DeclareLength, JoinUploads
from godrive.messages.system import (
    ChangeNumbers,
    ClaimPurges,
    ClaimVersions,
    ClearCopies,
    DueCleanups,
    DueEvents,
    DueUploads,
    DueWebhooks,
    FinishPurge,
    FinishVersion,
    IndexNames,
    MarkPublished,
    Prune,
    PruneLog,
    ReviewVersions,
    SettleTrash,
    SettleWebhook,
)
from godrive.messages.uploads import (
    AbortUpload,
    BeginUpload,
    CheckRoom,
    FindUpload,
    ListUploads,
    PublishUpload,
    ResizeUpload,
    SendInParts,
    StoreFile,
)
from godrive.messages.versions import DeleteVersion, ListVersions, NameVersion, RestoreVersion
from godrive.messages.webhooks import AddWebhook, ListWebhooks, RemoveWebhook, ReplayWebhook
from godrive.model import (
    At,
    ETag,
    FileKind,
    FileType,
    OnConflict,
    Page,
    Place,
    Sort,
    UploadId,
    UploadKind,
    UploadState,
    UserId,
    new_id,
)
from godrive.principal import ApiToken, Scope
from godrive.rules import copies, files, listings, lists, rows, search, uploads, users
from godrive.rules.listings import KnownPage
from godrive.rules.registry import PROCEDURES, RULES
from godrive.runtime import Ask
from tests.cases import each
from tests.contracts.rig import ANYWHERE, GRACE, ROOT, SERVER, Rig, host, inside

pytestmark = pytest.mark.anyio

OF_THE_DRIVE = [Sort.NEWEST, Sort.OLDEST, Sort.NAME, Sort.NAME_DESCENDING]

Statement = tuple[str, tuple[Any, ...]]


@pytest.fixture
def database(own_database: str) -> str:
    """A database that no other test has filled: PostgreSQL plans by the size of its indices, deleted rows included."""
    return own_database


class Recorded:
    """A transaction that notes its statements."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.sinks, self.changed, self.names, self.joins = tx.sinks, tx.changed, tx.names, tx.joins
        self.statements: list[Statement] = []

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        run = getattr(self._tx, name)

        async def noted(*arguments: Any) -> Any:
            if name == "run_each":
                self.statements += [(arguments[0], tuple(values)) for values in arguments[1][:1]]
            elif name in ("one", "all", "run"):
                self.statements.append((arguments[0], arguments[1:]))
            elif name == "final":  # which would be committed
                self.statements.append((arguments[1], arguments[2:]))
                return await self._tx.one(*arguments[1:])
            return await run(*arguments)

        return noted


class Undone(Exception):
    """What was recorded is not to be kept."""


async def record(rig: Rig, ask: Ask[Metadata, Any]) -> list[Statement]:
    """The statements that the rule of the message runs on the catalog as it is, which stays so."""
    recorded: list[Recorded] = []
    rule, env, asked = RULES[type(ask)], rig.env, list[Statement]()
    if rule.sees is not None and not isinstance(rig.catalog, ReadsAtOnce):
        question = rule.sees(ask)
        if question is not None:
            asked.append(question)
            env = msgspec.structs.replace(env, seen=(await rig.rows(question.sql, *question.values))[0])

    async def operation(tx: Tx) -> None:
        recorded.append(Recorded(tx))
        await rule.run(cast("Tx", recorded[-1]), ask, env)
        raise Undone

    with pytest.raises(Undone):
        await rig.catalog.write(operation)
    return asked + recorded[-1].statements


async def record_steps(rig: Rig, ask: Ask[Metadata, Any]) -> list[Statement]:
    """The statements that the procedure of the message runs."""
    recorded: list[Recorded] = []

    class Recording:
        """The catalog, noting every statement."""

        async def run(self, operation: Callable[[Tx], Awaitable[Any]], *, chore: bool = False) -> Any:
            async def noted(tx: Tx) -> Any:
                recorded.append(Recorded(tx))
                return await operation(cast("Tx", recorded[-1]))

            return await rig.catalog.write(noted, chore=chore)

        read = write = run

    await PROCEDURES[type(ask)](cast("Catalog", Recording()), ask, lambda: rig.env)
    return [statement for tx in recorded for statement in tx.statements]


async def every_statement(rig: Rig) -> list[Statement]:
    """What the rules run for each kind of list, look-up, change and chore."""
    owner = await rig.user()
    by, folder = host(owner), await rig.folder(owner)
    inner, elsewhere = await rig.folder(owner, "inner", where=inside(folder)), await rig.folder(owner, "elsewhere")
    for name in ("a", "b", "c"):
        for where in (ROOT, inside(folder), inside(inner)):
            await rig.file(owner, name, where=where)
    trashed = [await rig.file(owner, f"trashed {number}") for number in range(3)]
    for file in trashed:
        await rig.trash(file)
    file, upload = await rig.file(owner, "file"), await rig.begin(owner, "upload")
    for size in range(4):
        versioned = await rig.file(owner, "versioned", size=size, on_conflict=OnConflict.REPLACE)
    versions = await rig.ask(ListVersions(by, versioned.id, limit=2))
    (earlier,) = versions.items[1:]
    replacing = await rig.begin(owner, "file", on_conflict=OnConflict.REPLACE)
    growing = await rig.begin(owner, "growing", size=0, kind=UploadKind.RESUMABLE, deferred=True)
    await rig.ask(ClaimUpload(by, growing.id, "writer", 0))
    part = await rig.begin(owner, "part", size=0, kind=UploadKind.PART)
    cursor = (await rig.ask(ListChanges(by))).cursor
    webhook = await rig.ask(AddWebhook(by, "https://example.org/"))
    change = Change(change=ChangeKind.CREATED, id=file.id, kind=file.kind, cursor=cursor)
    token = ApiToken(user_id=owner, token_id="token", scopes=frozenset(Scope), folder_id=folder.id)
    asks: list[Ask[Metadata, Any]] = []
    places: list[Place] = [ROOT, inside(folder), ANYWHERE]
    for place in places:
        for sort in Sort if place is not ANYWHERE else OF_THE_DRIVE:
            for prefix, contains in ((None, None), ("a", None), (None, "a"), ("a", "a")):
                asks.append(ListFiles(by, place, prefix=prefix, contains=contains, sort=sort))
                page = await rig.page(owner, where=place, sort=sort, limit=1)
                asks.append(ListFiles(by, place, prefix=prefix, contains=contains, sort=sort, folders_first=True))
                if prefix is None and contains is None:
                    asks.append(ListFiles(by, place, sort=sort, page=page.next_page))
    trash = await rig.ask(ListTrash(by, limit=1))
    contents = await rig.ask(ListContents(by, inside(folder), limit=1))
    pending = await rig.ask(ListUploads(by, limit=1))
    asks += [
        ListTrash(by),
        ListTrash(by, page=trash.next_page),
        ListUploads(by),
        ListUploads(by, page=pending.next_page),
        ListUploads(by, state=UploadState.PENDING),
        GetFile(by, file.id),
        OpenContent(by, file.id),
        GetFile(by, At(path=("folder", "inner", "a"))),
        GetFile(by, At(path=())),
        MakeFolder(by, inside(inner), "new"),
        MakeFolder(by, At(path=("folder", "one", "two"), parents=True), "new"),
        UpdateFile(by, file.id, "renamed"),
        UpdateFile(by, file.id, "a", on_conflict=OnConflict.RENAME),
        UpdateFile(by, folder.id, where=inside(elsewhere)),
        UpdateFile(by, file.id, where=At(path=("folder", "one"), parents=True)),
        UpdateFile(by, file.id, modified_at=rig.now, favorite=True, properties={"a": 1, "b": None}),
        ListContents(by, inside(folder)),
        ListContents(by, inside(folder), page=contents.next_page),
        ListFavorites(by),
        ListByProperty(by, "a"),
        ListByProperty(by, "a", 1),
        BeginUpload(by, inside(folder), "new", "a/b", 1),
        BeginUpload(by, ROOT, "a", "a/b", 1, on_conflict=OnConflict.RENAME),
        BeginUpload(by, inside(folder), "a", "a/b", 1, on_conflict=OnConflict.REPLACE, if_match=ETag("*")),
        PublishUpload(SERVER, replacing.id, rig.blob(replacing)),
        PublishUpload(SERVER, upload.id, rig.blob(upload), upload),
        CheckRoom(by, 1),
        StoreFile(by, inside(folder), "stored", "a/b", rig.blob(upload), UploadId(new_id())),
        StoreFile(by, At(path=("folder", "inner")), "stored", "a/b", rig.blob(upload), UploadId(new_id())),
        StoreFile(by, ROOT, "stored", "a/b", rig.blob(upload), UploadId(new_id()), on_conflict=OnConflict.RENAME),
        ResizeUpload(by, upload.id, 1, 2),
        ClaimUpload(by, growing.id, "writer", 0),
        AdvanceUpload(by, growing.id, "writer", 0, 1, "staging"),
        DeclareLength(by, growing.id, 1),
        JoinUploads(by, [part.id], inside(folder), "joined", "a/b"),
        PendingUploads([growing.object_key]),
        UploadsWithoutFolder([upload.id, growing.id]),
        ExpectedBlobs(10),
        ExpectedBlobs(1, only=[growing.object_key]),
        NamedSizes(10),
        SendInParts(by, upload.id, 1, "multipart"),
        AbortUpload(by, upload.id),
        FindUpload(by, upload.object_key),
        TrashFile(by, folder.id),
        TrashFile(by, file.id),
        RestoreFile(by, trashed[0].id),
        PurgeFile(by, trashed[0].id),
        EmptyTrash(by),
        DueUploads(10, 100),
        DueCleanups(100),
        ListVersions(by, versioned.id),
        ListVersions(by, versioned.id, page=versions.next_page),
        OpenContent(by, versioned.id, earlier.id),
        RestoreVersion(by, versioned.id, earlier.id),
        NameVersion(by, versioned.id, earlier.id, "name"),
        DeleteVersion(by, versioned.id, earlier.id),
        ListChanges(by),
        ListChanges(by, (await rig.ask(ListChanges(by))).cursor),
        ListChanges(token, (await rig.ask(ListChanges(token))).cursor),
        ChangeNumbers([owner]),
        DueEvents(100),
        MarkPublished(await rig.ask(DueEvents(1))),
        PruneLog(UserId(""), 100),
        AddWebhook(by, "https://example.org/"),
        ListWebhooks(by),
        RemoveWebhook(by, webhook.id),
        ReplayWebhook(by, webhook.id),
        DueWebhooks(10),
        SettleWebhook("id", "before", "after"),
        SettleWebhook(webhook.id, cursor, cursor, problem="no answer"),
        UsersToBroadcast(10),
        DueBroadcast([UserToBroadcast(user_id=owner, number=1)], 10),
        MarkDelivered([BroadcastChange(owner_id=owner, number=1, change=change)]),
    ]
    found = [statement for ask in asks for statement in await record(rig, ask)]
    found += await record_steps(rig, CopyFile(by, folder.id, name="small"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "MOST_AT_ONCE", 2)
        found += await record_steps(rig, CopyFile(by, folder.id, name="large"))
    found += await record(rig, ClearCopies())
    await rig.ask(DeleteVersion(by, versioned.id, earlier.id))
    rig.clock.advance(rig.config.janitor.version_retention)
    found += await record(rig, ReviewVersions(100))
    found += await record(rig, ClaimVersions(100))
    found += await record(rig, FinishVersion((await rig.ask(ClaimVersions(1)))[0].version_id))
    await rig.trash(folder)
    found += await record(rig, SettleTrash(100))
    found += await record(rig, ListFiles(by, ANYWHERE))
    await rig.purge(folder)
    rig.clock.advance(GRACE)
    await rig.ask(EmptyTrash(by))
    found += await record(rig, ClaimPurges(100))
    for purge in await rig.ask(ClaimPurges(100)):
        found += await record(rig, FinishPurge(purge.file_id, purge.revision))
    await rig.write(users.delete, owner, now=rig.now)
    found += await record(rig, ClaimPurges(100))
    found += await record(rig, Prune(100))
    found.append(("SELECT nonce FROM catalog", ()))
    found += [
        (sql.replace(rows.LIVE, "id, revision", 1), values)  # of pages that are known
        for sql, values in found
        if sql.startswith(f"SELECT {rows.LIVE}") and "kind = " not in sql
    ]
    if not isinstance(rig.catalog, ReadsAtOnce):
        found.append((uploads._FIND_OR_NONE, (upload.object_key,)))
        known = KnownPage("", ",".join(f"{number}.1" for number in range(20)), Page(items=[]), {})
        found += [
            asked.question
            for ask in asks
            if isinstance(ask, ListFiles)
            and (asked := listings.prepare(ReadList(**msgspec.structs.asdict(ask)), rig.env, known)) is not None
        ]
    found += [(files._changes_sql(places), tuple("x" * places)) for places in (1, 2)]
    return list({re.sub(r"\s+", " ", sql): (sql, values) for sql, values in found}.values())


async def plan_of(rig: Rig, statement: Statement, *, bitmaps: bool = False) -> list[str]:
    """The steps of the plan, in the words of the database, which may use *bitmaps*, as an index of names must."""
    sql, values = statement

    async def explain(tx: Tx) -> list[Row]:
        if is_postgres(rig):
            await tx.all("SET LOCAL enable_seqscan = off")
            if not bitmaps:
                await tx.all("SET LOCAL enable_bitmapscan = off")
                await tx.all("SET LOCAL enable_sort = off")
            return await tx.all(f"EXPLAIN {sql}", *values)
        return await tx.all(f"EXPLAIN QUERY PLAN {sql}", *values)

    found = await rig.catalog.write(explain)
    return [str(row[0] if is_postgres(rig) else row[3]) for row in found]


def is_postgres(rig: Rig) -> bool:
    return type(rig.catalog).__name__ == "PostgresCatalog"


PER_SERVER = {"catalog", "invites", "leases"}
"""Tables whose size does not grow with what users keep."""
RECURSIVE = {"below", "down", "o", "up"}
"""Tables that a statement makes for itself."""
ONE_ROW = {"charged", "committed", "reserved"}
"""Steps of a chain, of which a later one uses the row."""
WALKED = {
    "changes_undelivered",  # partial: only what the webhook for all users does not have yet
    "changes_unpublished",  # partial: only what is not published yet
    "sqlite_autoindex_unsettled_1",  # in its order, and the first row is enough
    "users_cleared",  # partial: only the rows that a chore has to look at
    "users_deleted",
}
"""Indices that a statement may read from one end to the other."""


def fault(step: str) -> str:
    """What is wrong with a step of a plan: a table read whole, or rows sorted."""
    if re.search("TEMP B-TREE FOR .*ORDER BY", step) or re.search(r"\bSort\b", step):
        return step
    if whole := re.match(r"SCAN (\w+)$", step) or re.search(r"Seq Scan on (\w+)", step):
        return "" if whole[1] in PER_SERVER | RECURSIVE | ONE_ROW else step
    if walked := re.match(r"SCAN \w+ USING (?:COVERING )?INDEX (\w+)", step):
        return "" if walked[1] in WALKED else step
    return ""


def is_sorted_search(sql: str) -> bool:
    """Whether a statement finds names by their beginning, in order of something else: no index has both.

    It reads the rows with such names and sorts them, which costs what the search finds.
    """
    return "search_key >=" in sql and "ORDER BY search_key" not in sql


async def test_a_search_reads_no_table_from_one_end_to_the_other(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BELOW", 1)  # so that a folder with two entries is a large one
    owner = await rig.user()
    folder = await rig.folder(owner)
    for number in range(4):
        await rig.file(owner, f"name {number}", where=inside(folder))
    found = await record(rig, IndexNames(100))
    await rig.index()
    await rig.file(owner, "another name")
    for where in (ROOT, inside(folder)):
        for text in ("name", "na", None):
            ask = SearchFiles(host(owner), where, text=text, min_size=1, limit=1)
            page = await rig.ask(ask)
            found += await record(rig, ask)
            found += await record(rig, msgspec.structs.replace(ask, page=page.next_page))
            found += await record(rig, msgspec.structs.replace(ask, type=FileType.IMAGE))
    monkeypatch.undo()
    found += await record(rig, SearchFiles(host(owner), inside(folder), text="name"))
    plans = {sql: await plan_of(rig, (sql, values), bitmaps=True) for sql, values in found}
    assert len(plans) > 20
    whole = re.compile(
        r"SCAN (entries|names|unindexed|users|n|e)\b(?! USING)|Seq Scan on (?!blocks|below|up)|BLOOM FILTER"
    )
    first = re.compile(r"FROM unindexed (ORDER BY owner_id, entry_id, seq )?LIMIT")  # in the order of the table
    wrong = [
        f"{step}\n    {sql}"
        for sql, plan in plans.items()
        for step in plan
        if whole.search(step) and not (first.search(sql) and step.startswith("SCAN unindexed"))
    ]
    assert not wrong, "\n".join(wrong)
    index = "names_trigrams" if is_postgres(rig) else "VIRTUAL TABLE INDEX"
    assert all(any(index in step for step in plan) for sql, plan in plans.items() if rig_candidates(rig) in sql)
    assert any(rig_candidates(rig) in sql for sql in plans)


def rig_candidates(rig: Rig) -> str:
    return (name_search.POSTGRES if is_postgres(rig) else name_search.SQLITE).candidates


async def test_every_statement_walks_an_index(rig: Rig) -> None:
    wrong: list[str] = []
    statements = await every_statement(rig)
    assert len(statements) > 60
    for sql, values in statements:
        plan = await plan_of(rig, (sql, values))
        if is_sorted_search(sql):
            assert any("search_key>" in step or "search_key >=" in step for step in plan), plan
            plan = [step for step in plan if "ORDER BY" not in step and "Sort" not in step]
        elif "MIN(change)" in sql:  # looks once in a while at all that waits, and at nothing else
            assert any("changes_undelivered" in step for step in plan), plan
            plan = [step for step in plan if "Sort" not in step]
        wrong += [f"{step}\n    {sql}" for step in plan if fault(step)]
    assert not wrong, "\n".join(wrong)


_FILL = (
    "WITH RECURSIVE entry (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM entry WHERE n < 1000) "
    "INSERT INTO entries (id, owner_id, list_state, parent_id, kind, name, name_key, search_key, mime, size_bytes, "
    "created_at, updated_at, modified_at, revision, state) SELECT 'id' || n, 'owner', kind, 'folder', kind, "
    "'a' || n, 'a' || n, 'a' || n, 'a/b', n, n, n, n, n, 'live' "
    "FROM (SELECT n, CASE WHEN n <= 10 THEN 'folder' ELSE 'file' END AS kind FROM entry) AS made"
)
"""SQL: a folder with many files and a few folders."""


@pytest.mark.parametrize("kind", [None, *FileKind])
@pytest.mark.parametrize("place", ["folder", "drive"])
async def test_a_page_is_read_in_the_order_of_an_index_from_where_it_begins(
    rig: Rig, kind: FileKind | None, place: str
) -> None:
    in_folder = place == "folder"
    await rig.run(_FILL)
    if is_postgres(rig):
        await rig.catalog.write(lambda tx: tx.all("ANALYZE entries"))
    for sort, after in itertools.product(Sort if in_folder else OF_THE_DRIVE, (False, True)):
        order = lists.ORDERS[sort]
        if kind is not None and not in_folder:
            continue
        sql = lists.list_sql(sort, kind=kind, in_folder=in_folder, prefix=False, contains=False, after=after)
        by_name = order.column == "search_key"
        values = ["owner", *(["folder"] if in_folder else []), *(["a" if by_name else 5, "id"] if after else []), 20]
        plan = await plan_of(rig, (sql, tuple(values)))
        suffix = {"search_key": "sorted", "created_at": "created", "size_bytes": "size", "modified_at": "modified"}
        if in_folder:
            index = f"entries_{'folders' if kind is FileKind.FOLDER else 'folder'}_{suffix[order.column]}"
        else:
            index = "entries_sorted" if by_name else "entries_pkey" if is_postgres(rig) else "PRIMARY KEY"
        assert any(index in step for step in plan), (sql, plan)
        if after:
            column = order.column
            bound = rf"\({column}, ?id\) ?[<>]|ROW\({column}, id\) [<>]"
            assert any(re.search(bound, step) for step in plan), plan
        assert not any(map(fault, plan)), plan


@each(
    ("step", "wrong"),
    [
        ("SCAN entries", True),
        ("SCAN entries USING INDEX entries_due", True),
        ("SCAN entries USING COVERING INDEX entries_name", True),
        ("USE TEMP B-TREE FOR ORDER BY", True),
        ("USE TEMP B-TREE FOR LAST TERM OF ORDER BY", True),
        ("  ->  Seq Scan on entries  (cost=0.00..1.00 rows=1 width=1)", True),
        ("  ->  Incremental Sort  (cost=0.00..1.00 rows=1 width=1)", True),
        ("SEARCH entries USING INDEX entries_due (next_purge_at<?)", False),
        ("SCAN users USING INDEX users_deleted", False),
        ("  ->  Index Scan using entries_pkey on entries  (cost=0.00..1.00 rows=1 width=1)", False),
    ],
)
def test_a_plan_that_reads_a_table_or_sorts_is_told(step: str, wrong: bool) -> None:
    assert bool(fault(step)) == wrong
