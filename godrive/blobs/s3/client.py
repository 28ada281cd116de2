"""The connection to the store: two ways to call it, bounded retries, and a circuit breaker.

What requests wait for goes over :mod:`godrive.blobs.s3.transport`, the rest over the SDK.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import anyio
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, NoCredentialsError, ParamValidationError
from botocore.httpsession import get_cert_path

from godrive.backoff import Backoff
from godrive.blobs.s3.breaker import Breaker
from godrive.blobs.s3.faults import FAULTS, as_config_error, code_of, is_outage, is_passing, translate
from godrive.blobs.s3.operations import OPERATIONS
from godrive.blobs.s3.sdk import client_config, end_redirections, make_session, trusted
from godrive.blobs.s3.signing import UNSIGNED, Credentials, presign
from godrive.blobs.s3.transport import Redirected, Transport
from godrive.clock import Clock
from godrive.config import S3
from godrive.configfile import check_s3
from godrive.errors import ConfigError, StoreUnavailable
from godrive.network import DEFAULT_PORTS

T = TypeVar("T")

ATTEMPTS = 3
_BACKOFF = Backoff(0.05, 1.0, factor=4.0)
"""Attempts of one request, all within its deadline."""

DEADLINE = 10.0
"""Time limit in seconds of a request without a body, retries included.  An ask waits longer, so it gets the reason."""

_MAKINGS = 6
"""Times that a bucket is asked for, each for a deadline.

After a gateway of Ceph was killed, the other ones take up to half a minute to make a bucket.
"""

BODY_DEADLINE = 120.0
"""Time limit in seconds of a request that sends a part, or that makes the store move bytes."""


class S3Client:
    """Calls the internal endpoint, and signs URLs for the public one."""

    def __init__(self, settings: S3, clock: Clock, *, deadline: float = DEADLINE) -> None:
        check_s3(settings)
        self.bucket = settings.bucket
        self._settings = settings
        self._clock = clock
        self.deadline = deadline
        self._breaker = Breaker(clock)
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._transport: Transport | None = None
        self._credentials: Any = None
        self._lead_to(settings.endpoint or f"https://s3.{settings.region}.amazonaws.com")

    def _lead_to(self, endpoint: str) -> None:
        settings = self._settings
        self._internal = _bucket_url(endpoint, settings.bucket, settings.path_style)
        self._public = _bucket_url(settings.public_endpoint or endpoint, settings.bucket, settings.path_style)

    async def open(self) -> None:
        """Make the client, and make or check the bucket.  Idempotent.  Raises ``ConfigError``, ``StoreUnavailable``.

        Succeeds although any one request stays without an answer.
        """
        if self.is_open:
            return
        settings = self._settings
        session = make_session(from_environment=not settings.access_key)
        config = client_config(settings, read_timeout=BODY_DEADLINE)
        verify = settings.ca_file or (True if settings.access_key else trusted(session))
        try:
            self._client = await self._stack.enter_async_context(
                session.create_client(
                    "s3",
                    region_name=settings.region,
                    endpoint_url=settings.endpoint or None,
                    aws_access_key_id=settings.access_key or None,
                    aws_secret_access_key=settings.secret_key or None,
                    verify=verify,
                    config=config,
                )
            )
            end_redirections(self._client)
            if not settings.access_key:
                # The client has asked for them too: two questions, because a lost answer looks like no role at all.
                self._credentials = await session.get_credentials()
            self._lead_to(settings.endpoint or self._client.meta.endpoint_url)
            self._transport = Transport(
                self._internal,
                region=settings.region,
                credentials=self.credentials,
                verify=verify,
                read_timeout=BODY_DEADLINE,
            )
            self._stack.push_async_callback(self._transport.close)
        except CredentialRetrievalError as error:
            raise translate(error) from error
        except (BotoCoreError, ValueError, OSError) as error:
            raise ConfigError(f"The S3 client cannot be made: {error}", field="blobs.s3") from error
        with self.refusals_are_mistakes():
            await self._make_or_check_bucket()

    async def close(self) -> None:
        """Close the connections."""
        await self._stack.aclose()
        self._client = self._transport = None

    async def _make_or_check_bucket(self) -> None:
        if await self._has_bucket():
            return
        if not self._settings.create_bucket:
            raise ConfigError(
                f"There is no bucket {self.bucket!r} in the store: make it, or set blobs.s3.create_bucket.",
                field="blobs.s3.bucket",
            )
        for attempt in range(1, _MAKINGS + 1):
            try:
                await self._create_bucket()
                return
            except StoreUnavailable as error:
                if attempt == _MAKINGS or error.__cause__ is not None:
                    raise
            if await self._has_bucket():  # only the answer was lost, or is late
                return

    async def _create_bucket(self) -> None:
        options: dict[str, Any] = {}
        if self._settings.region != "us-east-1":  # the one region that must not be named here
            options["CreateBucketConfiguration"] = {"LocationConstraint": self._settings.region}
        try:
            await self.call("create_bucket", **options)
        except StoreUnavailable as error:
            # An earlier attempt, or another process that starts at the same time, was first.
            if code_of(error.__cause__) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise
            await self._has_bucket()

    async def _has_bucket(self) -> bool:
        try:
            # Unlike HEAD, its answer names the reason.
            await self.call("list_objects_v2", MaxKeys=1, repeat_after=self.deadline / 2)
        except StoreUnavailable as error:
            if code_of(error.__cause__) != "NoSuchBucket":
                raise
            return False
        return True

    async def check_bucket(self) -> None:
        """Raises ``StoreUnavailable`` if the bucket does not exist."""
        if not await self._has_bucket():
            raise StoreUnavailable(f"The bucket {self.bucket} is gone.", hint="Restore it, or make it again.")

    @property
    def is_open(self) -> bool:
        """Whether :meth:`open` has succeeded."""
        return self._client is not None

    def now(self) -> datetime:
        """The time that signatures state."""
        return self._clock.now()

    @property
    def region(self) -> str:
        """The region that signatures name."""
        return self._settings.region

    def url(self, key: str, *, internal: bool = False) -> str:
        """The unsigned URL of *key*, or of the bucket if *key* is empty."""
        return (self._internal if internal else self._public) + quote(key, safe="/-_.~")

    def session(self, *, within: float | None = None) -> aiohttp.ClientSession:
        """A plain HTTP client that trusts the system's certificate authorities and ``ca_file``."""
        trust: ssl.SSLContext | bool = True
        if any(url.startswith("https:") for url in (self._internal, self._public)):
            trust = ssl.create_default_context()
            trust.load_verify_locations(get_cert_path(self._settings.ca_file or True))
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust),
            timeout=aiohttp.ClientTimeout(total=within or self.deadline),
            auto_decompress=False,
        )

    async def call(
        self, operation: str, *, deadline: float | None = None, repeat_after: float | None = None, **arguments: Any
    ) -> Any:
        """Execute *operation* on the bucket.

        Retries passing failures within *deadline* seconds (by default that of
        the client), and also what was not answered for *repeat_after* seconds.
        Raises the ``DriveError`` that :func:`translate` returns.
        """
        self._breaker.check()
        seconds = self.deadline if deadline is None else deadline
        try:
            with anyio.move_on_after(seconds):
                answer = await _insist(lambda: self._send(operation, arguments), repeat_after)
                self._breaker.succeeded()
                return answer
        except ParamValidationError:
            raise  # a bug of ours
        except FAULTS as error:
            if is_outage(error):
                self._breaker.failed()
            else:
                self._breaker.succeeded()
            raise translate(error) from error
        self._breaker.failed()
        raise StoreUnavailable(f"The store does not answer within {seconds:g} seconds.")

    async def _send(self, operation: str, arguments: dict[str, Any]) -> Any:
        if self._transport is None:
            raise StoreUnavailable("The store is not open.")
        if lean := OPERATIONS.get(operation):
            with suppress(Redirected):
                return await self._transport.send(lean, **arguments)
        await self.credentials()  # the SDK would renew them too, but raise other errors
        return await getattr(self._client, operation)(Bucket=self.bucket, **arguments)

    async def pages(self, operation: str, result: str, tokens: dict[str, str], **arguments: Any) -> AsyncIterator[Any]:
        """Every entry of a paged list.

        *result* names the answer's list.  *tokens* maps a field of an answer to
        the argument of the next call that takes its value.  Raises
        ``StoreUnavailable`` if an answer does not say where the next page begins.
        """
        while True:
            answer = await self.call(operation, **arguments)
            for entry in answer.get(result, ()):
                yield entry
            if not answer.get("IsTruncated"):
                return
            following = {argument: answer[field] for field, argument in tokens.items() if answer.get(field)}
            if following.items() <= arguments.items():
                raise StoreUnavailable(f"The store begins the next page of {operation} where it began this one.")
            arguments |= following

    async def presign(
        self,
        method: str,
        key: str,
        *,
        expires_at: datetime,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        payload: str = UNSIGNED,
        internal: bool = False,
        now: datetime | None = None,
    ) -> str:
        """A URL that allows *method* on *key* of the bucket and nothing else.

        It leads to the public endpoint, or to the *internal* one for our own use.
        """
        return presign(
            method,
            (self._internal if internal else self._public) + key,
            credentials=await self.credentials(),
            region=self._settings.region,
            now=now or self._clock.now(),
            expires_at=expires_at,
            headers=headers,
            query=query,
            payload=payload,
        )

    async def credentials(self) -> Credentials:
        """The access key that requests are signed with now."""
        if self._settings.access_key:
            return Credentials(self._settings.access_key, self._settings.secret_key)
        try:
            if self._credentials is None:
                raise NoCredentialsError
            frozen = await self._credentials.get_frozen_credentials()  # renews them before they expire
        except FAULTS as error:
            raise translate(error) from error
        except RuntimeError as error:
            # So botocore says that new credentials have expired too: one of the clocks is wrong.
            raise translate(CredentialRetrievalError(provider="the role", error_msg=str(error))) from error
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def refusals_are_mistakes(self) -> _RefusalsAreMistakes:
        """A context in which a refusal that only the operator can change raises ``ConfigError``."""
        return _RefusalsAreMistakes()


class _RefusalsAreMistakes:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StoreUnavailable) and (mistake := as_config_error(error)):
            raise mistake from error


async def all_of(*calls: Awaitable[T]) -> list[T]:
    """Await all, to the end even if one fails, then raise the first error.

    Cancelling a call does not stop the store from executing it, so cleaning up
    after cancelled calls would race with them.
    """
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def _insist(request: Any, repeat_after: float | None) -> Any:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with anyio.move_on_after(repeat_after if attempt < ATTEMPTS else None):
                return await request()
            continue
        except FAULTS as error:
            if attempt == ATTEMPTS or not is_passing(error):
                raise
        await anyio.sleep(_BACKOFF.jittered(attempt))
    raise AssertionError("unreachable")


def _bucket_url(endpoint: str, bucket: str, path_style: bool) -> str:
    """The URL of the bucket, as the SDK makes it.

    An address has no subdomains, and a certificate for all of a host's subdomains is for none of theirs.
    """
    parts = urlsplit(endpoint)
    host = parts.netloc.removesuffix(f":{DEFAULT_PORTS.get(parts.scheme)}")  # clients leave it out of what is signed
    path = parts.path.rstrip("/")
    if path_style or _is_address(parts.hostname or "") or (parts.scheme == "https" and "." in bucket):
        return f"{parts.scheme}://{host}{path}/{bucket}/"
    return f"{parts.scheme}://{bucket}.{host}{path}/"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
