"""Our JetStream streams: created if absent, otherwise not changed."""

from __future__ import annotations

from typing import Any

from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError, NotFoundError

from godrive.errors import ConfigError

_NAME_IN_USE = 10058
_SUBJECTS_OVERLAP = 10065


async def ensure_stream(
    js: JetStreamContext, name: str, subject: str, *, max_age: float, max_msgs: int, **options: Any
) -> None:
    """Create the stream *name* for *subject* if absent.

    *max_age* is in seconds.  Raises ``ConfigError`` if a stream of that name has
    other subjects, or another stream has this one; errors of the NATS client if
    the server does not answer.
    """
    if not await has_stream(js, name, subject):
        await _make(js, name, subject, max_age=max_age, max_msgs=max_msgs, **options)


async def has_stream(js: JetStreamContext, name: str, subject: str) -> bool:
    """Whether there is a stream of that name.  Raises ``ConfigError`` if it has other subjects."""
    try:
        info = await js.stream_info(name)
    except NotFoundError:
        return False
    subjects = info.config.subjects or []
    if not any(covers(pattern, subject) for pattern in subjects):
        raise ConfigError(
            f"The JetStream stream {name} keeps {', '.join(subjects) or 'no subject'} and not {subject}.",
            hint=f"Add the subject: nats stream edit {name} --subjects {subject}",
        )
    return True


async def _make(js: JetStreamContext, name: str, subject: str, **options: Any) -> None:
    config = StreamConfig(
        name=name,
        subjects=[subject],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        **options,
    )
    try:
        await js.add_stream(config)
    except BadRequestError as error:
        if error.err_code == _NAME_IN_USE:
            return  # another process created it meanwhile
        if error.err_code == _SUBJECTS_OVERLAP:
            raise ConfigError(
                f"Another JetStream stream keeps {subject}, so {name} cannot.",
                hint="nats stream find --subject, then change ingest.stream or the other stream's subjects.",
            ) from None
        raise


def covers(pattern: str, subject: str) -> bool:
    """Whether *pattern* matches every subject that *subject*, which may have wildcards too, matches."""
    wanted = subject.split(".")
    offered = pattern.split(".")
    for position, word in enumerate(offered):
        if word == ">":
            return len(wanted) > position
        if position == len(wanted) or wanted[position] == ">" or word not in ("*", wanted[position]):
            return False
    return len(offered) == len(wanted)
