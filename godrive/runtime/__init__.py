"""Supervised actors in general.  Nothing in here knows of files, users or blobs."""

from godrive.errors import GaveUp
from godrive.runtime.actor import Actor, Slots
from godrive.runtime.child import ActorSpec, ChildDetails, ChildSpec, ChildState, ChildStatus
from godrive.runtime.message import Ask, Contract, Lane, request_id
from godrive.runtime.ref import LocalRef, Ref
from godrive.runtime.supervision_events import Event, OnEvent
from godrive.runtime.supervisor import Supervisor
from godrive.runtime.ticker import Ticker

__all__ = [
    "Actor",
    "ActorSpec",
    "Ask",
    "ChildDetails",
    "ChildSpec",
    "ChildState",
    "ChildStatus",
    "Contract",
    "Event",
    "GaveUp",
    "Lane",
    "LocalRef",
    "OnEvent",
    "Ref",
    "Slots",
    "Supervisor",
    "Ticker",
    "request_id",
]
