"""The middleware: request ids, problem details, CORS, metrics, and the request log.

It is one middleware, because each middleware costs time for every request.  A
hook at the start of a response sets the headers, because a streaming answer has
sent its headers before the middleware sees it again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from random import getrandbits

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from aiohttp.typedefs import Middleware
from multidict import CIMultiDict, istr

from godrive.errors import DriveError
from godrive.http.api.problems import EXPECTATION, ExpectationFailed, Internal, of_http_exception, problem
from godrive.http.observe.metrics import Metrics
from godrive.http.observe.outages import OutageLog
from godrive.http.observe.request_log import (
    CLIENT_LEFT,
    CUT,
    Answered,
    Findings,
    LogRequest,
    findings,
    logger,
)
from godrive.http.wire.addresses import TrustedProxies
from godrive.runtime import request_id

REQUEST_ID = istr("X-Request-Id")
_OPTIONS = istr("X-Content-Type-Options")

_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_EXPOSED = (
    "ETag, Location, Content-Location, Retry-After, WWW-Authenticate, X-Request-Id, Idempotency-Replayed, "
    "Content-Disposition, Content-Range, Accept-Ranges, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, "
    "Tus-Checksum-Algorithm, Upload-Offset, Upload-Length, Upload-Defer-Length, Upload-Metadata, Upload-Concat, "
    "Upload-Expires, Upload-File-Id, Upload-Complete, Upload-Limit"
)
_HEADER_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+([ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_PREFLIGHT_AGE = "7200"
_NO_ANSWER = 499
"""The status logged if the client left before the answer, as nginx does."""

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
Hook = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def edge(metrics: Metrics, log_request: LogRequest | None, proxies: TrustedProxies) -> Middleware:
    """Return the middleware of an application."""
    outages = OutageLog()

    def told(request: web.Request, found: Findings) -> dict[str, str]:
        """The fields of each line about a request."""
        said = {"method": request.method, "route": metrics.route(request), "address": proxies.address(request)}
        return said if found.user is None else said | {"user": found.user}

    @web.middleware
    async def serve(request: web.Request, handler: Next) -> web.StreamResponse:
        started = time.perf_counter()
        chosen = identify(request)
        found = Findings()
        findings.set(found)
        response: web.StreamResponse | None
        try:
            response = await handler(request)
        except DriveError as error:
            outages.note(error)
            if has_begun(request):
                logger().error("answer_cut", **told(request, found), error=repr(error))
            response = _refuse(request, error)
            drop_tracebacks(error)
        except web.HTTPException as exception:
            response = _translate(request, exception)
        except ConnectionError as error:
            found.ended = CLIENT_LEFT
            response = None
            drop_tracebacks(error)
        except Exception as error:
            logger().error("request_failed", **told(request, found), exc_info=error)
            response = _refuse(request, Internal("The server failed."))
            drop_tracebacks(error)
        seconds = time.perf_counter() - started
        status = (found.status or _NO_ANSWER) if response is None else response.status
        metrics.observe(request, status, seconds, found.ended)
        if log_request is not None:
            try:  # noqa: SIM105 - suppress() costs three calls for each request
                log_request(
                    Answered(
                        method=request.method,
                        path=_path(request),
                        status=status,
                        seconds=round(seconds, 6),
                        request_id=chosen,
                        address=proxies.address(request),
                        user=found.user,
                        ended=found.ended,
                    )
                )
            except OSError:
                pass  # the log may be on the full disk, and must not fail requests
        if response is None:
            raise ConnectionResetError("The answer is incomplete.")
        return response

    return serve


def drop_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of an error that has been answered, and of those that led to it.

    A frame that waited for a task refers to it, the task to its error, and the error to the frame by its traceback.
    Such a cycle would hold all that its frames hold, bytes of a body too, until the garbage collector runs, which a
    server does seldom.
    """
    errors: list[BaseException | None] = [error]
    while errors:
        each = errors.pop()
        if each is not None and each.__traceback__ is not None:
            each.__traceback__ = None
            errors += each.__cause__, each.__context__


def has_begun(request: web.BaseRequest) -> bool:
    """Whether part of the answer has been sent."""
    return request.writer.output_size > 0


def identify(request: web.BaseRequest) -> str:
    """Set the request id: the client's if it is valid, otherwise a new one.  Returns it."""
    chosen = request.headers.get(REQUEST_ID)
    if chosen is None or _SANE_ID.fullmatch(chosen) is None:
        chosen = f"{getrandbits(128):032x}"  # unique, not secret
    request_id.set(chosen)
    return chosen


async def expect_later(request: web.Request) -> web.Response | None:
    """Leave ``Expect: 100-continue`` to the handler, which first checks everything else.  Refuse other expectations."""
    if request.version >= HttpVersion11 and request.headers[hdrs.EXPECT].lower() != "100-continue":
        return problem(ExpectationFailed(EXPECTATION), identify(request))
    return None


async def meet_expectation(request: web.Request) -> web.Response | None:
    """Answer ``Expect: 100-continue`` (RFC 9110, section 10.1.1).  Refuse other expectations."""
    if request.version < HttpVersion11:
        return None
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        return problem(ExpectationFailed(EXPECTATION), identify(request))
    try:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    finally:  # aiohttp counts it also if the client has left
        request.writer.output_size = 0  # has_begun() must not count the interim answer
    return None


def on_prepare(origins: Collection[str], always: Mapping[web.AbstractResource, Mapping[str, str]]) -> Hook:
    """Return the hook that sets the common headers of every response, and the CORS headers for an allowed origin.

    *origins* are spelled as browsers send them; ``*`` allows any origin.  Only
    listed origins may send credentials (cookies, HTTP authentication).
    *always* are headers of every response to the path of a resource and to paths
    below it, including those that the router makes.
    """
    allowed = frozenset(origins)

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers[REQUEST_ID] = request_id.get() or identify(request)
        headers[_OPTIONS] = "nosniff"
        headers[hdrs.SERVER] = "godrive"
        for resource, said in always.items():
            path, top = request.rel_url.path_safe, resource.canonical  # with the prefix of a mount
            if path.startswith(top) and path[len(top) : len(top) + 1] in ("", "/"):
                headers.update(said)
        if not allowed:
            return
        headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or not (origin in allowed or "*" in allowed):
            return
        headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED
        if origin in allowed:
            headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
            _answer_preflight(request, headers)

    return prepare


def _answer_preflight(request: web.Request, headers: CIMultiDict[str]) -> None:
    """Allow every requested header: routes validate headers, CORS does not need to."""
    headers.add(hdrs.VARY, f"{hdrs.ACCESS_CONTROL_REQUEST_METHOD}, {hdrs.ACCESS_CONTROL_REQUEST_HEADERS}")
    headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = headers.get(hdrs.ALLOW, _METHODS)
    headers[hdrs.ACCESS_CONTROL_MAX_AGE] = _PREFLIGHT_AGE
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    if _HEADER_NAMES.fullmatch(asked):
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked


def _path(request: web.Request) -> str:
    """Return the raw path, so that it cannot forge log lines, without the query, which may contain secrets."""
    path = request.rel_url.raw_path
    return path if path.isascii() else path.encode("ascii", "backslashreplace").decode()


def _refuse(request: web.Request, error: DriveError) -> web.Response | None:
    if has_begun(request):
        # Closing the connection is the only way left to signal an incomplete answer.
        findings.get().ended = CUT
        if request.transport is not None:
            request.transport.close()
        return None
    response = problem(error, request_id.get() or "")
    if (headers := findings.get().headers) is not None:
        response.headers.update(headers)
    if not request.content.is_eof():
        # The client may or may not send its body now, so the next request on this connection could not be found.
        response.force_close()
    return response


def _translate(request: web.Request, exception: web.HTTPException) -> web.StreamResponse | None:
    if exception.status < 400:
        return exception
    error, headers = of_http_exception(exception)
    allow = headers.get(hdrs.ALLOW)
    if request.method == hdrs.METH_OPTIONS and allow is not None:
        return web.Response(status=204, headers={hdrs.ALLOW: f"{allow},{hdrs.METH_OPTIONS}"})
    response = _refuse(request, error)
    if response is not None:
        response.headers.update(headers)
    return response
