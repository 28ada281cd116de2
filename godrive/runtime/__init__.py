"""Supervised actors in general: nothing here knows a file, a user or a blob."""

from godrive.runtime.actor import Actor
from godrive.runtime.child import ActorSpec, ChildSpec, ChildState, ChildStatus, Restart
from godrive.runtime.message import Ask, Contract, Tell, request_id
from godrive.runtime.ref import LocalRef, Ref
from godrive.runtime.supervision_events import Event, OnEvent
from godrive.runtime.supervisor import GaveUp, Supervisor
from godrive.runtime.ticker import Ticker

__all__ = [
    "Actor",
    "ActorSpec",
    "Ask",
    "ChildSpec",
    "ChildState",
    "ChildStatus",
    "Contract",
    "Event",
    "GaveUp",
    "LocalRef",
    "OnEvent",
    "Ref",
    "Restart",
    "Supervisor",
    "Tell",
    "Ticker",
    "request_id",
]
