"""What is refused when a module is imported, or by the sender of a message."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import pytest

from godrive.runtime import Actor, Ask, Contract, Lane
from tests.runtime.stage import Note, Say, Script, Stage, StageActor

pytestmark = pytest.mark.anyio


def test_a_message_is_entered_in_the_vocabulary_of_its_actor() -> None:
    assert Stage.messages["Say"] is Say
    assert Say.contract is Stage
    assert Say.reply is str
    assert Note.reply is type(None)


def test_a_message_is_in_the_lane_it_declares_or_else_in_that_of_its_contract() -> None:
    class Desk(Contract, name="desk"):
        pass

    class Cellar(Contract, name="cellar", lane=Lane.CHORE):
        pass

    class Look(Ask[Desk, str]):
        pass

    class File(Ask[Desk, None]):
        lane: ClassVar[Lane] = Lane.WRITE

    class Sweep(Ask[Cellar, None]):
        pass

    class Inspect(Ask[Cellar, None]):
        lane: ClassVar[Lane] = Lane.READ

    assert [message.lane for message in (Look, File, Sweep, Inspect)] == [
        Lane.READ, Lane.WRITE, Lane.CHORE, Lane.READ,
    ]  # fmt: skip
    assert Look() == Look()
    assert Look.__struct_fields__ == File.__struct_fields__ == ()


@pytest.mark.parametrize(
    ("name", "action"),
    [("Say", "say"), ("TrashFile", "trash_file"), ("SignURLNow", "sign_url_now"), ("Get2Files", "get2_files")],
)
def test_a_handler_is_named_as_the_message_in_snake_case(name: str, action: str) -> None:
    class Talk(Contract, name="talk"):
        pass

    namespace: dict[str, Any] = {"Ask": Ask, "Talk": Talk}
    exec(f"class {name}(Ask[Talk, None]): pass", namespace)
    assert namespace[name].action == action


def test_messages_are_frozen_and_equal_by_content() -> None:
    assert Say("a") == Say("a") != Say("b")
    with pytest.raises(AttributeError):
        Say("a").word = "b"  # type: ignore[misc]


def test_a_missing_handler_is_an_error_at_import() -> None:
    class Talk(Contract, name="talk"):
        pass

    class Ask1(Ask[Talk, None]):
        pass

    class Ask2(Ask[Talk, None]):
        pass

    with pytest.raises(TypeError, match="TalkActor has no handler for Ask2"):

        class TalkActor(Actor[Talk]):
            @Ask1.handler
            async def ask1(self, ask: Ask1) -> None: ...


def test_a_misnamed_handler_is_an_error_at_import() -> None:
    class Talk(Contract, name="talk"):
        pass

    class Ask1(Ask[Talk, None]):
        pass

    with pytest.raises(TypeError, match=r"TalkActor\.other must be called ask1"):

        class TalkActor(Actor[Talk]):
            @Ask1.handler
            async def other(self, ask: Ask1) -> None: ...


def test_a_handler_of_another_actors_message_is_an_error_at_import() -> None:
    class Talk(Contract, name="talk"):
        pass

    with pytest.raises(TypeError, match=r"TalkActor\.say handles Say, which is of another contract"):

        class TalkActor(Actor[Talk]):
            @Say.handler
            async def say(self, ask: Say) -> str:
                return ask.word


def test_two_messages_of_one_name_are_an_error_at_import() -> None:
    with pytest.raises(TypeError, match="the stage contract has a Say already"):
        exec("class Say(Ask[Stage, str]): pass", {"Ask": Ask, "Stage": Stage})
    assert Stage.messages["Say"] is Say


async def test_a_subclass_overrides_a_handler_as_it_would_any_method() -> None:
    class Louder(StageActor):
        async def say(self, ask: Say) -> str:
            return ask.word.upper()

    script = Script()
    spec = msgspec.structs.replace(script.actor(), start=lambda: Louder(script))
    async with script.supervisor(spec) as tree:
        assert await tree.ref(Stage).ask(Say("a")) == "A"


async def test_a_message_for_another_actor_is_the_askers_bug_and_not_a_crash() -> None:
    class Talk(Contract, name="talk"):
        pass

    class Ask1(Ask[Talk, None]):
        pass

    class Ask2(Ask[Talk, None]):
        pass

    script = Script()
    async with script.supervisor() as tree:
        stage = tree.ref(Stage)
        with pytest.raises(TypeError, match="Ask1 is for the talk actor, not for stage"):
            await stage.ask(Ask1())  # type: ignore[arg-type]
        await stage.ask(Say("unharmed"))
    assert script.names() == ["ChildStarted", "ChildStopped"]
