"""What every message must be: frozen, documented, handled, and the same after a trip over a wire."""

from __future__ import annotations

from datetime import UTC, datetime
from types import NoneType
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from msgspec import inspect
from msgspec.structs import fields

from godrive.actors.auth import AuthActor
from godrive.actors.ingest import IngestActor
from godrive.actors.janitor import JanitorActor
from godrive.actors.metadata import MetadataActor
from godrive.actors.storage import StorageActor
from godrive.bridge.nats import HEADROOM, LARGEST
from godrive.config import LARGEST_BATCH
from godrive.messages import backups, broadcasts, clock, expected, pending, system
from godrive.messages.metadata import Metadata
from godrive.messages.storage import Storage
from godrive.model import FileId, ObjectKey, OnConflict, Upload, UploadId, UserId, new_id
from godrive.runtime import codec
from godrive.runtime.message import Ask, Contract, Message
from godrive.tree import CONTRACTS
from tests.cases import each
from tests.wire_values import values

MESSAGES = [message for contract in CONTRACTS for message in contract.messages.values()]
ASKS = [message for message in MESSAGES if issubclass(message, Ask)]
REPLIES = {ask.reply: [other for other in ASKS if other.reply == ask.reply] for ask in ASKS}
"""The messages of each type of reply."""


@each("message", MESSAGES)
def test_a_message_arrives_as_it_was_sent(message: type[Message[Any]]) -> None:
    @settings(max_examples=10, deadline=None)
    @given(sent=values(inspect.type_info(message)))
    def arrives(sent: Message[Any]) -> None:
        assert codec.decode(message.contract, message.__name__, codec.encode(sent)) == sent

    arrives()


@each(("reply", "asks"), REPLIES.items())
def test_a_reply_arrives_as_it_was_sent(reply: Any, asks: list[type[Ask[Any, Any]]]) -> None:
    @settings(max_examples=10, deadline=None)
    @given(sent=values(inspect.type_info(reply)))
    def arrives(sent: Any) -> None:
        for message in asks:
            assert codec.decode_reply(message, codec.encode_reply(sent)) == sent

    arrives()


def test_every_message_is_frozen() -> None:
    assert [message.__name__ for message in MESSAGES if not message.__struct_config__.frozen] == []


def test_every_message_says_what_it_does() -> None:
    silent = [message for message in MESSAGES if message.__doc__ in {None, "", message.__base__.__doc__}]
    assert silent == []


def test_no_message_waits_longer_than_a_person_would() -> None:
    assert {message.__name__: message.timeout for message in MESSAGES if not 0 < message.timeout <= 600} == {}


def test_the_largest_batch_of_the_longest_uploads_fits_into_one_reply() -> None:
    """Those due have been put off when the reply is made: one that could not be sent would leave them stuck."""
    id_, now = new_id(), datetime.now(UTC)
    longest = Upload(
        id=UploadId(id_),
        owner_id=UserId(id_),
        object_key=ObjectKey(f"{id_[:8]}/{id_}"),
        name="x" * 255,
        mime="m" * 255,
        size_bytes=2**62,
        created_at=now,
        expires_at=now,
        sha256="a" * 64,
        parent_id=FileId(id_),
        on_conflict=OnConflict.RENAME,
        received_bytes=2**62,
        attempts=2**31,
    )
    assert len(codec.encode_reply([longest] * LARGEST_BATCH)) <= LARGEST - HEADROOM


OF_THE_SERVER = {module.__name__ for module in (backups, broadcasts, clock, expected, pending, system)}
"""The modules of messages that the server's own parts send."""


def test_every_message_says_who_acts() -> None:
    """All but the chores of the server itself, and those by which people become somebody."""
    anonymous = {"SignUp", "LogIn", "Refresh", "Authenticate", "FindEnded"}
    about_blobs = {name for name in Storage.messages if name not in {"SignPut", "SignGet"}}
    chores = {name for name, message in Metadata.messages.items() if message.__module__ in OF_THE_SERVER}
    chores |= {"IngestBlob", "Reconcile", "Sweep"}
    chores |= {"MakeFiles"}  # each message in it says who acts
    for message in MESSAGES:
        if message.__name__ in anonymous | about_blobs | chores:
            continue
        by = next((field for field in fields(message) if field.name == "by"), None)
        assert by is not None, f"{message.__name__} does not say who acts"
        assert by.required, f"{message.__name__} has a default for who acts"
        assert NoneType not in get_args(by.type), f"{message.__name__} may be said by nobody"


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_every_message_is_handled(contract: type[Contract]) -> None:
    actors = {actor.contract: actor for actor in (AuthActor, IngestActor, JanitorActor, MetadataActor, StorageActor)}
    assert set(actors[contract].handlers) == set(contract.messages.values())
