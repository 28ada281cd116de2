"""The metadata actor runs the rule of each message in a catalog transaction.

The rules are in ``godrive.rules``.  The catalog may retry a transaction, so the
actor reads the clock once, before the transaction begins.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from msgspec.structs import replace

from godrive.actors.batching import Batcher
from godrive.actors.known_pages import KnownPages
from godrive.actors.noticed_catalog import NoticedCatalog, OnChange
from godrive.catalog import Catalog, MayBeReadOnly, ReadsAtOnce, Row, Tx
from godrive.clock import Clock
from godrive.config import Config
from godrive.errors import NotFound
from godrive.messages.files import Listing, ReadList
from godrive.messages.metadata import Metadata
from godrive.messages.system import CheckCatalog
from godrive.messages.uploads import FindUpload
from godrive.model import Anywhere, ETag, ObjectKey, Root, Upload, UserId
from godrive.principal import System, UserSession, Verb, authority
from godrive.rules import (  # noqa: F401 - registers them
    access,
    backup_notes,
    batches,
    contents,
    feed,
    files,
    folders,
    housekeeping,
    idempotency,
    joining,
    listings,
    lists,
    log_chores,
    marks,
    name_index,
    outbox,
    part_uploads,
    publishing,
    purges,
    resizing,
    resumable,
    scrub_chores,
    search,
    stored_files,
    trash,
    tree_copies,
    upload_chores,
    upload_ends,
    uploads,
    version_chores,
    versions,
    webhooks,
)
from godrive.rules.access import Folder
from godrive.rules.listings import KnownPage
from godrive.rules.lists import Known
from godrive.rules.page_tokens import PageTokens
from godrive.rules.registry import LARGE_PAGE, PROCEDURES, RULES, Env, Question, Rule
from godrive.runtime import Actor, Ask, Lane


def _ignore(changed: set[UserId]) -> None:
    """Do nothing: nobody waits for changes of this drive."""


def _handler(rule: Rule) -> Callable[[MetadataActor, Ask[Metadata, Any]], Coroutine[Any, Any, Any]]:
    """Return a handler that runs *rule*."""
    run, chore, is_large, sees, due = rule.run, rule.message.lane is Lane.CHORE, rule.is_large, rule.sees, rule.due
    answers = rule.answers

    async def read(self: MetadataActor, ask: Ask[Metadata, Any]) -> Any:
        env = self.env()
        return await self.catalog.read(lambda tx: run(tx, ask, env), chore=chore, large=is_large(ask))

    async def write(self: MetadataActor, ask: Ask[Metadata, Any]) -> Any:
        # A catalog that could not write is tried again, so that its health is known soon.
        if (
            due
            and self.catalog.problem is None
            and await self.catalog.read(lambda tx: tx.one(due), chore=chore) is None
        ):
            return False
        env = self.env()
        if sees is not None and not self.reads_at_once:
            env = await self.with_seen(env, sees(ask))
        return await self.noticed.write(lambda tx: run(tx, ask, env), chore=chore, answers=answers(ask))

    return write if rule.writes else read


def _procedure(message: type[Ask[Metadata, Any]]) -> Callable[[MetadataActor, Ask[Metadata, Any]], Any]:
    """Return a handler that runs the procedure of *message*."""
    run = PROCEDURES[message]

    async def handle(self: MetadataActor, ask: Ask[Metadata, Any]) -> Any:
        return await run(self.noticed, ask, self.env)

    return handle


async def _one_each(tx: Tx, sql: str, rows: list[tuple[Any, ...]]) -> list[Row]:
    return await tx.one_each(sql, rows)


class MetadataActor(Actor[Metadata]):
    """Owns files, uploads and the trash.

    The actor keeps no state between messages but what saves work (the nonce of
    the catalog, the files of pages read recently), so it handles many at once.
    Reads run concurrently with writes, and queued writes share one commit.
    Queued look-ups of change numbers, and on a database that is a round trip away
    those of lists and of uploads by key, share one round trip.  After a commit,
    *on_change* is called with the owners of the changes.
    """

    def __init__(
        self, catalog: Catalog, config: Config, clock: Clock, tokens: PageTokens, on_change: OnChange = _ignore
    ) -> None:
        self.catalog = catalog
        self.noticed = NoticedCatalog(catalog, on_change)
        self._config = config
        self._clock = clock
        self._tokens = tokens
        self._changes = Batcher(self._read_changes)
        self._uploads = Batcher(self._find_uploads)
        self._questions = Batcher(self._answer)
        self._known: KnownPages[Known] = KnownPages()
        self._known_far: KnownPages[KnownPage] = KnownPages()
        self.reads_at_once = isinstance(catalog, ReadsAtOnce)
        self.nonce = ""

    for _rule in RULES.values():
        vars()[_rule.message.action] = _rule.message.handler(_handler(_rule))
    for _message in PROCEDURES:
        vars()[_message.action] = _message.handler(_procedure(_message))

    def env(self) -> Env:
        """Return the time, configuration and page-token keys for a rule that runs now."""
        return Env(self._clock.now(), self._config, self._tokens)

    async def with_seen(self, env: Env, question: Question | None) -> Env:
        """Return *env* with the answer to the question of a rule."""
        return env if question is None else replace(env, seen=await self._questions.get(question))

    @CheckCatalog.handler
    async def check_catalog(self, ask: CheckCatalog) -> None:
        await self._read_nonce()
        if isinstance(self.catalog, MayBeReadOnly):
            await self.catalog.check_writable()
        if self.catalog.problem is not None:
            raise self.catalog.problem.another()

    @FindUpload.handler
    async def find_upload(self, ask: FindUpload) -> Upload:
        if self.reads_at_once or not isinstance(ask.by, System):
            return await self.catalog.read(lambda tx: uploads.find(tx, ask, self.env()))
        (found,) = await self._uploads.get(ask.object_key)
        if found is None:
            raise NotFound("There is no such upload.")
        return found

    @ReadList.handler
    async def read_list(self, ask: ReadList) -> Listing:
        nonce = self.nonce or await self._read_nonce()
        if not self.reads_at_once:
            return await self._read_far_list(ask, nonce)
        place = await self._place_of(ask)
        owner_id, env = lists.owner_in(place), self.env()
        if ask.limit > LARGE_PAGE:
            return await self._read_page(ask, await self._read_tag(place, nonce), place, env)
        page = (owner_id, ask.where, ask.limit, ask.page, ask.sort, ask.prefix, ask.contains)
        known = self._known.get(page)
        listing = await self.catalog.read(lambda tx: lists.read_list(tx, ask, env, place, nonce=nonce, known=known))
        if listing.page is not None:
            self._known.put(page, lists.known_of(listing.page), len(listing.page.items))
        return listing

    async def _read_far_list(self, ask: ReadList, nonce: str) -> Listing:
        """Return the list from a database that is a round trip away, where one statement serves many callers."""
        env, tag, place = self.env(), None, None
        if ask.known:
            place = await self._place_of(ask)
            tag = await self._read_tag(place, nonce)
            if lists.is_known(tag, ask, place, env):
                return Listing(tag=tag)
        page = (authority(ask.by), ask.where, ask.limit, ask.page, ask.sort, ask.prefix)
        asked = listings.prepare(ask, env, self._known_far.get(page))
        if asked is not None:
            row = await self._questions.get(asked.question)
            found = listings.finish(ask, asked, row, env, nonce=nonce)
            if found is not None:
                listing, known = found
                self._known_far.put(page, known, len(known.page.items))
                return listing
        where = place if place is not None else await self._place_of(ask)
        if tag is None and ask.limit <= LARGE_PAGE:
            return await self.catalog.read(lambda tx: lists.read_listing(tx, ask, env, where, nonce=nonce))
        if tag is None:
            tag = await self._read_tag(where, nonce)
        return await self._read_page(ask, tag, where, env)

    async def _read_tag(self, place: Folder | UserId, nonce: str) -> ETag:
        owner_id = lists.owner_in(place)
        return lists.tag_of(owner_id, nonce, await self._changes.get(owner_id))

    async def _read_page(self, ask: ReadList, tag: ETag, place: Folder | UserId, env: Env) -> Listing:
        """Return what has the tag, read after the tag."""
        if lists.is_known(tag, ask, place, env):
            return Listing(tag=tag)
        is_large = ask.limit > LARGE_PAGE
        return Listing(tag=tag, page=await self.catalog.read(lambda tx: lists.read_page(tx, ask, env), large=is_large))

    async def _read_nonce(self) -> str:
        self.nonce = await self.catalog.read(files.read_nonce)
        return self.nonce

    async def _place_of(self, ask: ReadList) -> Folder | UserId:
        """Return what is listed.  Raises ``NotFound``, ``Forbidden`` if *ask.by* may not read it."""
        where, by = ask.where, ask.by
        if isinstance(by, UserSession) and isinstance(where, (Anywhere, Root)):  # needs no look-up
            return by.user_id if isinstance(where, Anywhere) else Folder(by.user_id, None)
        return await self.catalog.read(lambda tx: access.resolve_place(tx, by, where, Verb.READ))

    async def _find_uploads(self, keys: list[ObjectKey]) -> dict[ObjectKey, tuple[Upload | None]]:
        found = await self.catalog.read(lambda tx: uploads.find_each(tx, keys))
        return {key: (upload,) for key, upload in zip(keys, found, strict=True)}

    async def _read_changes(self, owner_ids: list[UserId]) -> dict[UserId, int]:
        return await self.catalog.read(partial(files.read_changes, owner_ids=owner_ids))

    async def _answer(self, questions: list[Question]) -> dict[Question, Row]:
        """Ask questions of one text in one round trip."""
        texts: dict[str, list[Question]] = {}
        for question in questions:
            texts.setdefault(question.sql, []).append(question)
        answers: dict[Question, Row] = {}
        for sql, same in texts.items():
            rows = await self.catalog.read(partial(_one_each, sql=sql, rows=[question.values for question in same]))
            answers.update(zip(same, rows, strict=True))
        return answers
