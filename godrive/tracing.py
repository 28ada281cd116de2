"""Spans of requests through OpenTelemetry's API, for an SDK that the process has set up.

Theory of operation.  Nothing here runs unless ``log.traces`` is on: then refs,
stores and the edge are wrapped when the drive opens, so a drive without it does
no more than before.  An actor handles a message in a task of its own, and gets
the id of the request from the envelope.  While tracing, that id is a
:class:`TracedId`, which carries the span of the ask with it, so the spans of
catalog and store, and of asks to other actors, become its children.  Between
processes the span travels in the header ``traceparent`` (W3C Trace Context).

Only requests are traced: housekeeping has no request id.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, Generic, TypeVar

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from godrive import __version__
from godrive.errors import DriveError
from godrive.runtime import Ask, Ref, request_id
from godrive.runtime.message import A

R = TypeVar("R")

BLOB_CALLS = ("put", "put_each", "get", "head", "delete", "open_file", "append", "finish", "join", "discard", "take")
CATALOG_CALLS = ("read", "write")

_propagator = TraceContextTextMapPropagator()


class TracedId(str):
    """The id of a request that carries the span in which the message was sent."""

    __slots__ = ("span",)
    span: Context

    @classmethod
    def of(cls, chosen: str, span: Context) -> TracedId:
        """Return the id with its span."""
        made = cls(chosen)
        made.span = span
        return made


def _parent() -> Context:
    """The span in which this task works: that of the message in hand, or that of the edge."""
    chosen = request_id.get()
    return chosen.span if isinstance(chosen, TracedId) else context.get_current()


class Tracing:
    """Makes the spans of one drive."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("godrive", __version__)

    @contextmanager
    def span(self, name: str, kind: SpanKind = SpanKind.INTERNAL, parent: Context | None = None) -> Iterator[Span]:
        """A span around the body.  An expected error is noted by its code, any other as an exception."""
        span = self._tracer.start_span(name, context=_parent() if parent is None else parent, kind=kind)
        try:
            yield span
        except DriveError as error:
            span.set_attribute("error.type", error.code)
            raise
        except Exception as error:
            span.record_exception(error)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()

    def watch(self, *, catalog: object, blobs: object) -> None:
        """Make spans of the calls of the stores, of those that they have."""
        self._watch(catalog, "catalog", CATALOG_CALLS)
        self._watch(blobs, "store", BLOB_CALLS)

    def _watch(self, store: object, what: str, calls: tuple[str, ...]) -> None:
        for name in calls:
            call = getattr(store, name, None)
            if iscoroutinefunction(call):
                setattr(store, name, self._traced(call, f"{what} {name}"))
            elif isasyncgenfunction(call):
                setattr(store, name, self._traced_pieces(call, f"{what} {name}"))

    def _traced(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(call)
        async def traced(*arguments: Any, **options: Any) -> Any:
            if request_id.get() is None:
                return await call(*arguments, **options)
            with self.span(name):
                return await call(*arguments, **options)

        return traced

    def _traced_pieces(self, call: Callable[..., AsyncGenerator[Any]], name: str) -> Callable[..., AsyncIterator[Any]]:
        @wraps(call)
        async def traced(*arguments: Any, **options: Any) -> AsyncGenerator[Any]:
            async with aclosing(call(*arguments, **options)) as pieces:
                if request_id.get() is None:
                    async for piece in pieces:
                        yield piece
                    return
                with self.span(name):
                    async for piece in pieces:
                        yield piece

        return traced

    def carry(self, headers: dict[str, str]) -> None:
        """Add ``traceparent`` to the headers of a message to another process."""
        _propagator.inject(headers, context=_parent())

    def receive(self, chosen: str | None, headers: Mapping[str, str]) -> str | None:
        """Return the id of a request from another process, with its span.  A header that is no span is ignored."""
        return None if chosen is None else TracedId.of(chosen, _propagator.extract(headers, context=Context()))

    @contextmanager
    def serving(self, headers: Mapping[str, str], name: str) -> Iterator[Span]:
        """The span of a request at the edge, a child of the client's if its headers have one."""
        with self.span(name, SpanKind.SERVER, _propagator.extract(headers, context=Context())) as span:
            token = context.attach(trace.set_span_in_context(span))
            try:
                yield span
            finally:
                context.detach(token)

    def ref(self, ref: Ref[A], actor: str) -> Ref[A]:
        """Return a ref that makes a span of each ask: the wait in the mailbox, and the work."""
        return TracedRef(self, ref, actor)


class TracedRef(Generic[A]):
    """A ref whose asks are spans, if they are on behalf of a request."""

    def __init__(self, tracing: Tracing, ref: Ref[A], actor: str) -> None:
        self._tracing = tracing
        self._ref = ref
        self._actor = actor

    async def ask(self, message: Ask[A, R], *, timeout: float | None = None) -> R:
        chosen = request_id.get()
        if chosen is None:
            return await self._ref.ask(message, timeout=timeout)
        with self._tracing.span(f"{self._actor} {type(message).__name__}") as span:
            token = request_id.set(TracedId.of(chosen, trace.set_span_in_context(span)))
            try:
                return await self._ref.ask(message, timeout=timeout)
            finally:
                request_id.reset(token)
