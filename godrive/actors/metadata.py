"""The metadata actor runs the rule of each message in a catalog transaction.

The rules are in ``godrive.rules``.  The catalog may retry a transaction, so the
actor reads the clock once, before the transaction begins.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from godrive.actors.batching import Batcher
from godrive.actors.known_pages import KnownPages
from godrive.actors.noticed_catalog import NoticedCatalog, OnChange
from godrive.catalog import Catalog, ReadsAtOnce
from godrive.clock import Clock
from godrive.config import Config
from godrive.messages.files import Listing, ReadList
from godrive.messages.metadata import Metadata
from godrive.model import At, In, UserId
from godrive.principal import Principal, Verb, user_of
from godrive.rules import (  # noqa: F401 - registers them
    access,
    batches,
    contents,
    feed,
    files,
    folders,
    housekeeping,
    idempotency,
    joining,
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
from godrive.rules.page_tokens import PageTokens
from godrive.rules.registry import LARGE_PAGE, PROCEDURES, RULES, Env, Rule
from godrive.runtime import Actor, Ask, Lane


def _ignore(changed: set[UserId]) -> None:
    """For a drive in which nobody waits for changes."""


def _handler(rule: Rule) -> Callable[[MetadataActor, Ask[Metadata, Any]], Coroutine[Any, Any, Any]]:
    """Return a handler that runs *rule*."""
    run, chore, is_large = rule.run, rule.message.lane is Lane.CHORE, rule.is_large

    async def read(self: MetadataActor, ask: Ask[Metadata, Any]) -> Any:
        env = self.env()
        return await self.catalog.read(lambda tx: run(tx, ask, env), chore=chore, large=is_large(ask))

    async def write(self: MetadataActor, ask: Ask[Metadata, Any]) -> Any:
        env = self.env()
        return await self.noticed.write(lambda tx: run(tx, ask, env), chore=chore)

    return write if rule.writes else read


def _procedure(message: type[Ask[Metadata, Any]]) -> Callable[[MetadataActor, Ask[Metadata, Any]], Any]:
    """Return a handler that runs the procedure of *message*."""
    run = PROCEDURES[message]

    async def handle(self: MetadataActor, ask: Ask[Metadata, Any]) -> Any:
        return await run(self.noticed, ask, self.env)

    return handle


class MetadataActor(Actor[Metadata]):
    """Owns files, uploads and the trash.

    The actor keeps no state between messages but what saves work (the nonce of
    the catalog, the files of pages read lately), so it handles many at once.
    Reads run concurrently with writes, queued writes share one commit, and
    queued look-ups of change numbers share one statement.  After a commit,
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
        self._known = KnownPages()
        self._reads_at_once = isinstance(catalog, ReadsAtOnce)
        self._nonce = ""

    for _rule in RULES.values():
        vars()[_rule.message.action] = _rule.message.handler(_handler(_rule))
    for _message in PROCEDURES:
        vars()[_message.action] = _message.handler(_procedure(_message))

    def env(self) -> Env:
        """Return the time, configuration and page-token keys for a rule that runs now."""
        return Env(self._clock.now(), self._config, self._tokens)

    @ReadList.handler
    async def read_list(self, ask: ReadList) -> Listing:
        owner_id = await self._owner_of(ask.by, ask.where) if isinstance(ask.where, In | At) else user_of(ask.by)
        nonce = self._nonce or await self._read_nonce()
        env, is_large = self.env(), ask.limit > LARGE_PAGE
        if not is_large and (self._reads_at_once or not ask.known):
            page = (owner_id, ask.where, ask.limit, ask.page, ask.sort, ask.prefix, ask.contains)
            known = self._known.get(page)
            read = lists.read_list if self._reads_at_once else lists.read_listing
            listing = await self.catalog.read(lambda tx: read(tx, ask, env, owner_id, nonce=nonce, known=known))
            if listing.page is not None:
                self._known.put(page, listing.page.items)
            return listing
        tag = lists.tag_of(owner_id, nonce, await self._changes.get(owner_id))
        if lists.is_known(tag, ask):
            return Listing(tag=tag)
        return Listing(tag=tag, page=await self.catalog.read(lambda tx: lists.read_page(tx, ask, env), large=is_large))

    async def _read_nonce(self) -> str:
        self._nonce = await self.catalog.read(files.read_nonce)
        return self._nonce

    async def _owner_of(self, by: Principal, where: In | At) -> UserId:
        """Return the owner of the folder.  Raises ``NotFound`` if *by* may not read it."""
        return (await self.catalog.read(lambda tx: access.resolve_folder(tx, by, where, Verb.READ))).owner_id

    async def _read_changes(self, owner_ids: list[UserId]) -> dict[UserId, int]:
        return await self.catalog.read(partial(files.read_changes, owner_ids=owner_ids))
