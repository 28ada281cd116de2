"""The SDK, kept from what it does unasked: reading the environment, adding checksums, retrying on its own."""

from __future__ import annotations

import os

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

from godrive.config import S3

CONNECTIONS = 256
"""At most; a download that goes through us holds one for as long as its client likes."""

CONNECT_TIMEOUT = 3.0


def make_session(*, from_environment: bool) -> AioSession:
    """A session that reads variables and files of the AWS tools only when the configuration holds no keys."""
    if from_environment:
        return AioSession()
    silent = {
        name: (None, None, os.devnull if name in {"config_file", "credentials_file"} else default, convert)
        for name, (_, _, default, convert) in (
            (name, entry) for name, entry in BOTOCORE_DEFAUT_SESSION_VARIABLES.items() if isinstance(entry, tuple)
        )
    }
    return AioSession(session_vars=silent)


def client_config(settings: S3, *, read_timeout: float) -> AioConfig:
    """How requests are signed, addressed and sent."""
    return AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": "path" if settings.path_style else "virtual"},
        # Newer SDKs add a CRC to each request and want one in each answer; many stores refuse or ignore it.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 1},  # ours know the deadline
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=read_timeout,
        max_pool_connections=CONNECTIONS,
    )
