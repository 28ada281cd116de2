"""Batches: every step by the rule of its message, in order, and with `atomic` all or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from godrive.catalog import Tx
from godrive.errors import DriveError, Invalid, NameTaken, TooLarge
from godrive.messages.batches import Act, RunBatch, Step, StepOutcome
from godrive.messages.files import GetFile
from godrive.model import At, ETag, FileKind, Sort, UserId
from godrive.principal import ApiToken, Scope
from godrive.rules import batches, copies
from godrive.rules.registry import PROCEDURES
from tests.contracts.rig import ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio

T = TypeVar("T")


async def run(rig: Rig, owner: UserId, *steps: Step, atomic: bool = False) -> list[StepOutcome]:
    return await rig.ask(RunBatch(by=host(owner), steps=list(steps), atomic=atomic))


def codes(outcomes: list[StepOutcome]) -> list[str]:
    return ["" if outcome.failure is None else outcome.failure.code for outcome in outcomes]


async def everything(rig: Rig, owner: UserId) -> list[Any]:
    """All rows of the owner, as they are."""
    entries = "SELECT id, parent_id, name, state, list_state, revision FROM entries WHERE owner_id = $1 ORDER BY id"
    return [
        await rig.rows(entries, owner),
        await rig.usage(owner),
        await rig.rows("SELECT COUNT(*) FROM changes WHERE owner_id = $1", owner),
    ]


@pytest.mark.parametrize("atomic", [False, True])
async def test_every_kind_of_step_does_what_its_message_does(rig: Rig, atomic: bool) -> None:
    owner = await rig.user()
    names = ("moved", "copied", "renamed", "trashed", "restored", "purged")
    files = {name: await rig.file(owner, name) for name in names}
    for name in ("restored", "purged"):
        await rig.trash(files[name])
    outcomes = await run(
        rig,
        owner,
        Step(act=Act.MKDIR, where=ROOT, name="new"),
        Step(act=Act.MOVE, which=files["moved"].id, where=At(path=("new",)), name="here"),
        Step(act=Act.COPY, which=At(path=("copied",)), where=At(path=("new",))),
        Step(act=Act.RENAME, which=files["renamed"].id, name="other"),
        Step(act=Act.TRASH, which=At(path=("trashed",))),
        Step(act=Act.RESTORE, which=files["restored"].id),
        Step(act=Act.PURGE, which=files["purged"].id),
        atomic=atomic,
    )
    assert codes(outcomes) == [""] * 7
    made, moved, copied, renamed, trashed, restored, purged = (outcome.file for outcome in outcomes)
    assert made is not None
    assert made.kind is FileKind.FOLDER
    for entry, name, parent_id in (
        (moved, "here", made.id),
        (copied, "copied", made.id),
        (renamed, "other", None),
        (restored, "restored", None),
    ):
        assert entry is not None
        assert (entry.name, entry.parent_id) == (name, parent_id)
        assert await rig.get(owner, entry.id) == entry
    assert trashed is not None
    assert trashed.trashed_at is not None
    assert await rig.binned(owner) == [trashed]
    assert purged is None
    assert await rig.drift() == 0


async def test_a_step_that_fails_changes_nothing_and_the_others_are_carried_out(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    file, foreign = await rig.file(owner, "a"), await rig.file(other, "b")
    folder = await rig.folder(owner, "folder")
    outcomes = await run(
        rig,
        owner,
        Step(act=Act.RENAME, which=foreign.id, name="mine"),
        Step(act=Act.RENAME, which=file.id, name="folder"),
        Step(act=Act.MOVE, which=folder.id, where=inside(folder)),
        Step(act=Act.RENAME, which=file.id, name="a/b"),
        Step(act=Act.RENAME, which=file.id, name="c", if_match=ETag("other")),
        Step(act=Act.COPY, which=file.id),
        Step(act=Act.MOVE, which=file.id, where=At(path=("new", "a/b"), parents=True)),
        Step(act=Act.PURGE, which=file.id),
        Step(act=Act.RENAME, which=file.id, name="d", if_match=file.etag),
        Step(act=Act.COPY, which=file.id, name="folder"),
        Step(act=Act.TRASH, which=folder.id),
        Step(act=Act.COPY, which=file.id, name="folder"),
    )
    failed = [
        "not_found",
        "name_taken",
        "cycle",
        "invalid",
        "precondition_failed",
        "name_taken",
        "invalid",
        "not_found",
    ]
    assert codes(outcomes) == [*failed, "", "name_taken", "", ""]
    assert sorted(await rig.names(owner, where=ROOT)) == ["d", "folder"]
    assert await rig.names(other) == ["b"]
    assert await rig.drift() == 0


async def test_what_a_failing_step_had_begun_is_undone(rig: Rig) -> None:
    """The folders on the path are created before the quota is found to be exceeded."""
    owner = await rig.user()
    file = await rig.file(owner, "a")
    rig.configure("auth", max_entries=3)
    where = At(path=("x", "y"), parents=True)
    outcomes = await run(
        rig,
        owner,
        Step(act=Act.RENAME, which=file.id, name="b"),
        Step(act=Act.MKDIR, where=where, name="z"),
        Step(act=Act.MKDIR, where=ROOT, name="c"),
    )
    assert codes(outcomes) == ["", "quota_exceeded", ""]
    assert sorted(await rig.names(owner, where=ROOT)) == ["b", "c"]
    assert await rig.drift() == 0


@pytest.mark.parametrize("number", [0, 3, 6])
async def test_an_atomic_batch_does_nothing_if_any_step_fails_and_says_which(rig: Rig, number: int) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner, "folder")
    file, old = await rig.file(owner, "a", where=inside(folder)), await rig.file(owner, "old")
    await rig.trash(old)
    steps = [
        Step(act=Act.MKDIR, where=ROOT, name="new"),
        Step(act=Act.COPY, which=folder.id, where=At(path=("new",))),
        Step(act=Act.MOVE, which=file.id, where=At(path=("new",))),
        Step(act=Act.RESTORE, which=old.id),
        Step(act=Act.PURGE, which=file.id),
        Step(act=Act.TRASH, which=folder.id),
    ]
    steps.pop(4)
    steps.insert(number, Step(act=Act.RENAME, which=old.id, name="a/b"))
    before = await everything(rig, owner)
    with pytest.raises(Invalid) as refused:
        await run(rig, owner, *steps, atomic=True)
    assert refused.value.field == f"operations[{min(number, 5)}].name"
    assert await everything(rig, owner) == before
    steps.pop(min(number, 5))
    assert codes(await run(rig, owner, *steps, atomic=True)) == [""] * 5
    assert await rig.drift() == 0


async def test_an_atomic_batch_touches_no_more_entries_than_it_may(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_TOUCHED", 6)
    owner = await rig.user()
    folder = await rig.folder(owner, "folder")
    for name in "abc":
        await rig.file(owner, name, where=inside(folder))
    rename = Step(act=Act.RENAME, which=folder.id, name="renamed")
    before = await everything(rig, owner)
    for steps, failed in (
        ([Step(act=Act.COPY, which=folder.id, name=f"{n}") for n in range(2)], 1),
        ([Step(act=Act.COPY, which=folder.id, name="copy"), *[rename] * 3], 3),
        ([rename] * 7, 6),
    ):
        with pytest.raises(Invalid) as refused:
            await run(rig, owner, *steps, atomic=True)
        assert refused.value.field == f"operations[{failed}]"
        assert await everything(rig, owner) == before
    assert codes(
        await run(rig, owner, Step(act=Act.COPY, which=folder.id, name="copy"), rename, rename, atomic=True)
    ) == ["", "", ""]
    assert await rig.drift() == 0


async def test_an_answer_that_could_not_be_sent_undoes_an_atomic_batch(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_REPLY", 1000)
    owner = await rig.user()
    before = await everything(rig, owner)
    with pytest.raises(TooLarge):
        await run(rig, owner, *[Step(act=Act.MKDIR, where=ROOT, name=f"{n}") for n in range(3)], atomic=True)
    assert await everything(rig, owner) == before


async def test_a_step_without_its_scope_is_refused_and_the_others_are_carried_out(rig: Rig) -> None:
    owner = await rig.user()
    file, trashed = await rig.file(owner, "a"), await rig.file(owner, "b")
    await rig.trash(trashed)
    steps = [
        Step(act=Act.MKDIR, where=ROOT, name="new"),
        Step(act=Act.COPY, which=file.id, name="copy"),
        Step(act=Act.RENAME, which=file.id, name="c"),
        Step(act=Act.MOVE, which=file.id, where=At(path=("new",))),
        Step(act=Act.RESTORE, which=trashed.id),
        Step(act=Act.TRASH, which=file.id),
        Step(act=Act.PURGE, which=file.id),
    ]
    for scopes, allowed in (
        ({Scope.FILES_READ}, []),
        ({Scope.FILES_WRITE}, [0, 2, 3]),
        ({Scope.FILES_READ, Scope.FILES_WRITE}, [1, 2, 3]),
        ({Scope.FILES_DELETE}, [4, 5, 6]),
    ):
        by = ApiToken(user_id=owner, token_id="t", scopes=frozenset(scopes))
        found = codes(await rig.ask(RunBatch(by=by, steps=steps)))
        assert [number for number, code in enumerate(found) if not code] == allowed, scopes
        expected = {"forbidden"} if scopes != {Scope.FILES_READ, Scope.FILES_WRITE} else {"forbidden", "name_taken"}
        assert set(found) - {""} == expected
    assert await rig.drift() == 0


async def test_a_batch_of_a_confined_token_stays_in_its_folder(rig: Rig) -> None:
    owner = await rig.user()
    folder, outside = await rig.folder(owner, "folder"), await rig.file(owner, "outside")
    inner = await rig.file(owner, "inner", where=inside(folder))
    scopes = frozenset({Scope.FILES_READ, Scope.FILES_WRITE, Scope.FILES_DELETE})
    by = ApiToken(user_id=owner, token_id="t", scopes=scopes, folder_id=folder.id)
    outcomes = await rig.ask(
        RunBatch(
            by=by,
            steps=[
                Step(act=Act.TRASH, which=outside.id),
                Step(act=Act.TRASH, which=At(path=("outside",))),
                Step(act=Act.RENAME, which=At(path=("inner",)), name="b"),
                Step(act=Act.COPY, which=inner.id, where=ROOT, name="c"),
            ],
        )
    )
    assert codes(outcomes) == ["not_found", "not_found", "", ""]
    assert sorted(await rig.names(owner, where=inside(folder))) == ["b", "c"]


async def test_others_write_between_the_transactions_of_a_long_batch(rig: Rig) -> None:
    owner = await rig.user()
    transactions = 0

    class Counting:
        """The catalog, counting transactions."""

        async def write(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, answers: int = 1) -> T:
            nonlocal transactions
            transactions += 1
            return await rig.catalog.write(operation, chore=chore)

    steps = [Step(act=Act.MKDIR, where=ROOT, name=f"{number:03}") for number in range(100)]
    ask = RunBatch(by=host(owner), steps=steps)
    outcomes = await PROCEDURES[RunBatch](Counting(), ask, lambda: rig.env)  # type: ignore[arg-type]
    assert codes(outcomes) == [""] * 100
    assert transactions == -(-100 // batches.MOST_STEPS_AT_ONCE)
    assert await rig.names(owner, where=ROOT, sort=Sort.NAME) == [f"{number:03}" for number in range(100)]


async def test_a_large_tree_is_copied_by_a_batch_as_by_itself(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner, "folder")
    for number in range(7):
        await rig.file(owner, f"{number}", where=inside(folder))
    monkeypatch.setattr(copies, "MOST_AT_ONCE", 3)
    for atomic in (False, True):
        copy = Step(act=Act.COPY, which=folder.id, name=f"copy {atomic}")
        then = Step(act=Act.RENAME, which=At(path=(f"copy {atomic}",)), name=f"renamed {atomic}")
        copied, renamed = await run(rig, owner, copy, then, atomic=atomic)
        assert copied.file is not None
        assert renamed.file is not None
        assert len(await rig.names(owner, where=inside(renamed.file))) == 7
    await rig.settle()
    assert (await rig.usage(owner)).live_bytes == 210
    assert await rig.drift() == 0


async def test_an_attempt_that_fails_leaves_what_was_done_before(rig: Rig) -> None:
    owner = await rig.user()

    async def operation(tx: Tx) -> None:
        async def insert(name: str, error: DriveError | None) -> None:
            await tx.run("UPDATE users SET email = $2 WHERE id = $1", owner, name)
            if error is not None:
                raise error

        await tx.attempt(lambda: insert("first", None))
        for _ in range(2):
            with pytest.raises(NameTaken):
                await tx.attempt(lambda: insert("second", NameTaken()))

    await rig.catalog.write(operation)
    assert await rig.rows("SELECT email FROM users WHERE id = $1", owner) == [("first",)]


async def test_a_step_that_lacks_a_field_is_invalid(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    outcomes = await run(
        rig,
        owner,
        Step(act=Act.MOVE, which=file.id),
        Step(act=Act.RENAME, which=file.id),
        Step(act=Act.TRASH),
        Step(act=Act.MKDIR, name="a"),
        Step(act=Act.PURGE, which=At(path=("a.txt",))),
    )
    assert [outcome.failure and outcome.failure.field for outcome in outcomes] == [
        "parent_id",
        "name",
        "id",
        "parent_id",
        "id",
    ]
    assert await rig.ask(GetFile(by=host(owner), file_id=file.id)) == file
