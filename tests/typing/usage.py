"""How actors are meant to be used: every line here must pass ``mypy --strict``."""

from __future__ import annotations

from typing import assert_type

from godrive.errors import NotFound
from godrive.http.api.call import Call
from godrive.http.api.operations import PUBLIC, SIGNED, Routes
from godrive.principal import Scope
from godrive.runtime import Actor, ActorSpec, Ask, Contract, LocalRef, Ref, Supervisor, Ticker


class Library(Contract, name="library"):
    """Lends books."""


class Lend(Ask[Library, list[str]]):
    """Lend a book.  Idempotent."""

    title: str
    copies: int = 1


class Close(Ask[Library, None]):
    """Close for the night."""


class LibraryActor(Actor[Library]):
    @Lend.handler
    async def lend(self, ask: Lend) -> list[str]:
        return [ask.title] * ask.copies

    @Close.handler
    async def close(self, ask: Close) -> None:
        """Nothing to say."""


async def visit(library: Ref[Library]) -> None:
    assert_type(await library.ask(Lend("Moby-Dick")), list[str])
    assert_type(await library.ask(Lend("Moby-Dick", copies=2), timeout=1.0), list[str])
    await library.ask(Close())


async def main() -> None:
    async with Supervisor([ActorSpec(name="library", start=LibraryActor)]) as tree:
        library = tree.ref(Library)
        assert_type(library, LocalRef[Library])
        await visit(library)
        await Ticker(library, Close(), every=60.0, on_reply=print, on_error=print).run()


routes = Routes("books")


@routes.get("/books", needs=PUBLIC)
async def list_books(call: Call) -> list[str]:
    """List books."""
    return []


@routes.put("/books/{book_id}", needs=SIGNED, status=201, raises=[NotFound])
async def return_book(call: Call, book_id: str) -> None:
    """Return a book."""


@routes.post("/books", needs=Scope.FILES_WRITE, replays=True, fields={"name": "title"})
async def buy_book(call: Call) -> None:
    """Buy a book."""


async def call_it(call: Call) -> None:
    assert_type(await list_books(call), list[str])
