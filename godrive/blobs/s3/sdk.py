"""The SDK, configured not to read the environment, add checksums or retry by itself."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
from botocore.loaders import Loader

from godrive.config import S3

CONNECTIONS = 256
"""The most connections.  A download through this server holds one until its client has read it."""

CONNECT_TIMEOUT = 3.0


def make_session(*, from_environment: bool) -> AioSession:
    """A session that reads the variables and files of the AWS tools only if the configuration has no keys."""
    if from_environment:
        return AioSession()
    silent = {
        name: (None, None, os.devnull if name in {"config_file", "credentials_file"} else default, convert)
        for name, (_, _, default, convert) in (
            (name, entry) for name, entry in BOTOCORE_DEFAUT_SESSION_VARIABLES.items() if isinstance(entry, tuple)
        )
    }
    session = AioSession(session_vars=silent)
    session.register_component("data_loader", _models())
    return session


def trusted(session: AioSession) -> str | bool:
    """The certificate authorities that the environment names for the SDK: a file, or ``True`` for the usual ones."""
    return session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True


@cache
def _models() -> Loader:
    """The descriptions of AWS services, parsed once: they take most of the time in which a client is made."""
    return Loader()


def client_config(settings: S3, *, read_timeout: float) -> AioConfig:
    """The configuration of the SDK's client."""
    return AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": "path" if settings.path_style else "virtual"},
        # Newer SDKs add a CRC to each request and expect one in each answer.  Many stores refuse or ignore it.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 1},  # our own retries respect the deadline
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=read_timeout,
        max_pool_connections=CONNECTIONS,
    )


def end_redirections(client: Any) -> None:
    """Let *client* follow no redirection of a HEAD of the bucket.

    When a redirection names neither a place nor the region of the bucket, aiobotocore (3.10) asks for the region with
    that HEAD.  If the store redirects it in the same way, aiobotocore asks again, until the stack overflows.
    """

    def mark(context: dict[str, Any], **_: Any) -> None:
        context["s3_redirect"]["redirected"] = True

    client.meta.events.register("before-call.s3.HeadBucket", mark)
