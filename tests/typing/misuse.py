"""How they are not: every line with a mark must fail, with that error, and no other line may.

Each mark is the mypy error code and a part of what it says.
"""

from __future__ import annotations

from godrive.errors import NotFound
from godrive.http.api.call import Call
from godrive.http.api.operations import PUBLIC, Routes
from godrive.messages.auth import DeleteUser, GetUser, ListSessions, LogOut, UpdateUser
from godrive.messages.users import EnsureUser, SetQuota
from godrive.principal import ApiToken, HostUser, ShareLink, UserSession
from godrive.runtime import Actor, Ask, Contract, Ref, Ticker


class Library(Contract, name="library"):
    """Lends books."""


class Theatre(Contract, name="theatre"):
    """Plays plays."""


class Lend(Ask[Library, list[str]]):
    """Lend a book."""

    title: str


class Return(Ask[Library, None]):
    """Take a book back."""

    title: str


class Play(Ask[Theatre, str]):
    """Play a play."""


async def wrong_reply(library: Ref[Library]) -> None:
    title: str = await library.ask(Lend("a"))  # E: arg-type "Ask[Library, str]"
    reply: list[int] = await library.ask(Lend("a"))  # E: arg-type "Ask[Library, list[int]]"
    print(title, reply)


async def wrong_actor(library: Ref[Library], theatre: Ref[Theatre]) -> None:
    await theatre.ask(Lend("a"))  # E: arg-type "Ask[Theatre, list[str]]"
    other: Ref[Theatre] = library  # E: assignment "Ref[Theatre]"
    Ticker(library, Play(), every=1.0, on_reply=print, on_error=print)  # E: misc "type parameter"
    print(other)


async def wrong_fields(library: Ref[Library]) -> None:
    await library.ask(Lend())  # E: call-arg "title"
    await library.ask(Lend(7))  # E: arg-type "str"
    await library.ask(Lend("a", colour="red"))  # E: call-arg "colour"


def frozen(lend: Lend) -> None:
    lend.title = "b"  # E: misc "read-only"


class LibraryActor(Actor[Library]):
    @Lend.handler  # E: arg-type "Coroutine[Any, Any, list[str]]"
    async def lend(self, ask: Lend) -> list[int]:
        return [len(ask.title)]

    @Return.handler  # E: arg-type "[LibraryActor, Return]"
    async def return_(self, ask: Lend) -> None:
        assert ask.title


class LazyActor(Actor[Library]):
    @Lend.handler  # E: arg-type "Coroutine[Any, Any, list[str]]"
    def lend(self, ask: Lend) -> list[str]:
        return [ask.title]

    @Return.handler  # E: arg-type "Coroutine[Any, Any, None]"
    async def return_(self, ask: Return) -> str:
        return ask.title


class NoContract(Actor[str]):  # E: type-var "Contract"
    pass


routes = Routes("books")


@routes.get("/books")  # E: call-arg "needs"
async def list_books(call: Call) -> None:
    """List books."""


@routes.post("/books", needs="files:read")  # E: arg-type "Scope | Open"
async def buy_book(call: Call) -> None:
    """Buy a book."""


@routes.post("/books/again", needs=PUBLIC, replay=True)  # E: call-arg "replay"
async def buy_again(call: Call) -> None:
    """Buy a book again."""


@routes.put("/books", needs=PUBLIC, raises=NotFound)  # E: arg-type "Sequence[type[DriveError]]"
async def return_book(call: Call) -> None:
    """Return a book."""


@routes.delete("/books", needs=PUBLIC, status="204")  # E: arg-type "int"
async def burn_books(call: Call) -> None:
    """Burn all books."""


def wrong_authority(user: HostUser, session: UserSession, token: ApiToken, link: ShareLink) -> None:
    LogOut(user)  # E: arg-type "expected "UserSession""
    DeleteUser(token, "password")  # E: arg-type "expected "UserSession""
    UpdateUser(link, "password")  # E: arg-type "expected "UserSession""
    ListSessions(token)  # E: arg-type "expected "UserSession | HostUser""
    SetQuota(session, user.user_id, None)  # E: arg-type "expected "System""
    EnsureUser(user, "42")  # E: arg-type "expected "System""
    GetUser()  # E: call-arg "by"
