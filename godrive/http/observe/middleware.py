"""What every request goes through: an id, errors as problems, CORS, numbers, one line of log.

One middleware, because each costs every request; and one hook on the start of
a response, because an answer that streams has sent its headers before the
middleware sees it again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
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
    ENDED,
    STATUS,
    USER,
    Answered,
    LogRequest,
    logger,
)
from godrive.http.wire.addresses import TrustedProxies
from godrive.runtime import request_id

REQUEST_ID = istr("X-Request-Id")
_OPTIONS = istr("X-Content-Type-Options")

_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_EXPOSED = (
    "ETag, Location, Retry-After, WWW-Authenticate, X-Request-Id, Idempotency-Replayed, "
    "Content-Disposition, Content-Range, Accept-Ranges"
)
_HEADER_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+([ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_PREFLIGHT_AGE = "7200"
_NO_ANSWER = 499
"""The status in the log, as nginx writes it, when the client left before there was an answer."""

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
Hook = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def edge(metrics: Metrics, log_request: LogRequest | None, proxies: TrustedProxies) -> Middleware:
    """The middleware of an application."""
    outages = OutageLog()

    @web.middleware
    async def serve(request: web.Request, handler: Next) -> web.StreamResponse:
        started = time.perf_counter()
        chosen = identify(request)
        response: web.StreamResponse | None
        try:
            response = await handler(request)
        except DriveError as error:
            outages.note(error)
            if has_begun(request):
                logger().error("answer_cut", method=request.method, route=metrics.route(request), error=repr(error))
            response = _refuse(request, error)
        except web.HTTPException as exception:
            response = _translate(request, exception)
        except ConnectionError:
            request[ENDED] = CLIENT_LEFT
            response = None
        except Exception as error:
            logger().error("request_failed", method=request.method, route=metrics.route(request), exc_info=error)
            response = _refuse(request, Internal("The server failed."))
        seconds = time.perf_counter() - started
        ended = request.get(ENDED)
        status = request.get(STATUS, _NO_ANSWER) if response is None else response.status
        metrics.observe(request, status, seconds, ended)
        if log_request is not None:
            with suppress(OSError):  # a full disk must not refuse reads through their log
                log_request(
                    Answered(
                        method=request.method,
                        path=_path(request),
                        status=status,
                        seconds=round(seconds, 6),
                        request_id=chosen,
                        address=proxies.address(request),
                        user=request.get(USER),
                        ended=ended,
                    )
                )
        if response is None:
            raise ConnectionResetError("The answer is not whole.")
        return response

    return serve


def has_begun(request: web.BaseRequest) -> bool:
    """Whether a part of the answer has been sent."""
    return request.writer.output_size > 0


def identify(request: web.BaseRequest) -> str:
    """Keep the client's id of the request when it is sane, make one otherwise, and set it for all that follows."""
    chosen = request.headers.get(REQUEST_ID)
    if chosen is None or _SANE_ID.fullmatch(chosen) is None:
        chosen = f"{getrandbits(128):032x}"  # to be told apart, not to be kept secret
    request_id.set(chosen)
    return chosen


async def meet_expectation(request: web.Request) -> web.Response | None:
    """Ask for the body of a client that waits to be asked (RFC 9110, section 10.1.1); refuse other expectations."""
    if request.version < HttpVersion11:
        return None
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        return problem(ExpectationFailed(EXPECTATION), identify(request))
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # what tells whether the answer has begun
    return None


def on_prepare(origins: Collection[str]) -> Hook:
    """The hook that gives every response its common headers, and those of CORS for an allowed origin.

    *origins* are spelt as browsers send them; ``*`` allows any.  Only origins
    that are listed may send credentials (cookies, HTTP authentication).
    """
    allowed = frozenset(origins)

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers[REQUEST_ID] = request_id.get() or identify(request)
        headers[_OPTIONS] = "nosniff"
        headers[hdrs.SERVER] = "godrive"
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
    """Allow what was asked for: which headers a request may have is for its route to judge, not for CORS."""
    headers.add(hdrs.VARY, f"{hdrs.ACCESS_CONTROL_REQUEST_METHOD}, {hdrs.ACCESS_CONTROL_REQUEST_HEADERS}")
    headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = headers.get(hdrs.ALLOW, _METHODS)
    headers[hdrs.ACCESS_CONTROL_MAX_AGE] = _PREFLIGHT_AGE
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    if _HEADER_NAMES.fullmatch(asked):
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked


def _path(request: web.Request) -> str:
    """The path as it came, so that no line of a log can be forged by it, and without the query, which may be secret."""
    path = request.rel_url.raw_path
    return path if path.isascii() else path.encode("ascii", "backslashreplace").decode()


def _refuse(request: web.Request, error: DriveError) -> web.Response | None:
    if has_begun(request):
        # To end the connection is the only way left to say that the answer is not whole.
        request[ENDED] = CUT
        if request.transport is not None:
            request.transport.close()
        return None
    response = problem(error, request_id.get() or "")
    if not request.content.is_eof():
        # A client that was refused may send its body or not, so nobody knows what comes next on this connection.
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
