"""Configuration: one frozen struct per table of ``config.toml``.

Sizes are bytes and durations seconds.  An empty string means "the default
place" or "not used", as the comment in ``config.toml`` says.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the tables: keys we do not know are refused, never ignored."""


class Server(Table, frozen=True):
    data_dir: str = "data"
    host: str = "127.0.0.1"
    port: int = 8080
    public_url: str = ""
    trusted_proxies: list[str] = []
    cors_origins: list[str] = []
    max_body_bytes: int = 1_048_576
    body_timeout: float = 30.0
    shutdown: float = 10.0


class Auth(Table, frozen=True):
    signup: Literal["open", "invite", "closed"] = "open"
    bcrypt_cost: int = 12
    hash_threads: int = 0
    hash_waiting: int = 32
    access_ttl: float = 900.0
    refresh_ttl: float = 2_592_000.0
    secret_file: str = ""
    issuer: str = "godrive"
    audience: str = "godrive"
    attempts_per_address: int = 30
    attempts_per_account: int = 10
    attempts_window: float = 60.0
    default_quota_bytes: int = 0


class Catalog(Table, frozen=True):
    driver: Literal["sqlite", "postgres"] = "sqlite"
    path: str = ""
    allow_network_fs: bool = False
    dsn: str = ""
    dsn_file: str = ""
    pool_size: int = 10


class S3(Table, frozen=True):
    endpoint: str = ""
    public_endpoint: str = ""
    region: str = "us-east-1"
    bucket: str = "godrive"
    create_bucket: bool = True
    path_style: bool = True
    access_key: str = ""
    access_key_file: str = ""
    secret_key: str = ""
    secret_key_file: str = ""


class Blobs(Table, frozen=True):
    driver: Literal["disk", "memory", "s3"] = "disk"
    path: str = ""
    min_free_bytes: int = 67_108_864
    max_upload_bytes: int = 5_497_558_138_880
    upload_ttl: float = 3600.0
    download_ttl: float = 900.0
    s3: S3 = S3()


class Ingest(Table, frozen=True):
    reconcile_every: float = 5.0
    reconcile_after: float = 10.0
    batch: int = 200
    events: Literal["none", "jetstream", "nats"] = "none"
    stream: str = "GODRIVE_UPLOADS"
    subject: str = "godrive.uploaded"
    consumer: str = "godrive-ingest"
    max_deliver: int = 8
    webhook_token: str = ""
    webhook_token_file: str = ""


class Janitor(Table, frozen=True):
    sweep_every: float = 60.0
    trash_grace: float = 2_592_000.0
    upload_retention: float = 86_400.0
    orphan_age: float = 86_400.0
    batch: int = 500


class Nats(Table, frozen=True):
    url: str = ""
    namespace: str = "godrive"
    user: str = ""
    password: str = ""
    password_file: str = ""
    token: str = ""
    token_file: str = ""
    nkey_file: str = ""
    creds_file: str = ""
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""


class Log(Table, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"
    requests: bool = True


class ActorTable(Table, frozen=True):
    location: Literal["local", "nats"] = "local"
    concurrency: int = 0
    capacity: int = 1024


class Actors(Table, frozen=True):
    auth: ActorTable = ActorTable()
    metadata: ActorTable = ActorTable()
    storage: ActorTable = ActorTable()
    ingest: ActorTable = ActorTable()
    janitor: ActorTable = ActorTable()


class Config(Table, frozen=True):
    """The whole of ``config.toml``."""

    server: Server = Server()
    auth: Auth = Auth()
    catalog: Catalog = Catalog()
    blobs: Blobs = Blobs()
    ingest: Ingest = Ingest()
    janitor: Janitor = Janitor()
    nats: Nats = Nats()
    log: Log = Log()
    actors: Actors = Actors()
