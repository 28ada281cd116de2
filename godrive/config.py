"""Configuration: one frozen struct per table of ``config.toml``.

Sizes are bytes and durations seconds.  An empty string means the default
location or "not used", as the comment in ``config.toml`` says.

The types constrain the values.  :mod:`godrive.configfile` checks them when it
reads a configuration.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from godrive import network
from godrive.errors import ConfigError


def marked(type_: Any, mark: str) -> bool:
    """Whether the type has the mark ``secret`` or ``path``."""
    return any((meta.extra or {}).get(mark) for meta in getattr(type_, "__metadata__", ()))


Secret = Annotated[str, Meta(extra={"secret": True})]
"""A value that is never displayed."""
FilePath = Annotated[str, Meta(extra={"path": True})]
"""A path, relative to the folder of the configuration file, or elsewhere to the working directory."""
Port = Annotated[int, Meta(ge=0, le=65_535)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
LARGEST_BATCH = 1000
"""The most items in one message, because the size of a message is limited."""
Batch = Annotated[int, Meta(ge=1, le=LARGEST_BATCH)]
CountOrAuto = Annotated[int, Meta(ge=0, le=4096)]
Size = Annotated[int, Meta(ge=0, le=2**62)]
Seconds = Annotated[float, Meta(gt=0, le=315_360_000)]
# The description of a string is the text of the error: what the value must be.
Word = Annotated[str, Meta(min_length=1, description="a string that is not empty")]
Bucket = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_.-]{3,63}\Z", description="3 to 63 letters, digits, '.', '-' and '_'")
]
Prefix = Annotated[str, Meta(pattern=r"^([^/]+/)*\Z", description="empty, or end in '/' and not begin with one")]
Subject = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z",
        description="words of letters, digits, '_' and '-', with dots between them",
    ),
]

EventSubject = Annotated[
    str, Meta(pattern=r"^[^\s.]+(\.[^\s.]+)*\Z", description="words without spaces, with dots between them")
]
StreamName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-]{1,200}\Z", description="1 to 200 letters, digits, '_' and '-'")
]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base class of the tables.  Unknown keys are refused, and ``repr`` hides secrets."""

    def __repr__(self) -> str:
        values = ((item.name, item.type, getattr(self, item.name)) for item in msgspec.structs.fields(self))
        shown = (
            f"{name}={'***' if value and marked(type_, 'secret') else repr(value)}" for name, type_, value in values
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Server(Table, frozen=True):
    data_dir: FilePath = "data"
    host: str = "127.0.0.1"
    port: Port = 8080
    tls_cert_file: FilePath = ""
    tls_key_file: FilePath = ""
    public_url: str = ""
    allowed_hosts: list[str] = []
    trusted_proxies: list[str] = []
    cors_origins: list[str] = []
    max_body_bytes: Annotated[int, Meta(ge=1024, le=2**30)] = 1_048_576
    memory_bytes: Annotated[int, Meta(ge=4 * 2**20, le=2**40)] = 67_108_864
    body_timeout: Seconds = 30.0
    keepalive_timeout: Seconds = 150.0
    metrics_token: Secret = ""
    metrics_token_file: FilePath = ""
    shutdown: Seconds = 10.0
    max_waiting: Annotated[int, Meta(ge=1, le=100_000)] = 8_192
    max_waiting_per_user: Annotated[int, Meta(ge=1, le=100_000)] = 32

    @property
    def base_url(self) -> str:
        """The start of every absolute URL, without a slash at the end."""
        if self.public_url:
            return network.base_url(self.public_url)
        return network.local_url(self.host, self.port, "https" if self.tls_cert_file else "http")

    @property
    def origins(self) -> frozenset[str]:
        """``cors_origins`` as browsers send them."""
        return frozenset(map(network.origin, self.cors_origins))


class Auth(Table, frozen=True):
    signup: Literal["open", "invite", "closed"] = "open"
    unicode_emails: bool = False
    bcrypt_cost: Annotated[int, Meta(ge=4, le=16)] = 12
    hash_threads: Annotated[int, Meta(ge=0, le=64)] = 0
    hash_waiting: Annotated[int, Meta(ge=0, le=128)] = 32
    access_ttl: Annotated[float, Meta(ge=1, le=900)] = 900.0
    refresh_ttl: Annotated[float, Meta(ge=1, le=315_360_000)] = 2_592_000.0
    secret_file: FilePath = ""
    issuer: Word = "godrive"
    audience: Word = "godrive"
    attempts_per_address: Count = 30
    attempts_per_account: Count = 10
    attempts_window: Seconds = 60.0
    default_quota_bytes: Size = 0
    max_entries: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1_000_000
    max_pending_uploads: Count = 10_000
    max_versions: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1_000_000


class Catalog(Table, frozen=True):
    driver: Literal["sqlite", "postgres"] = "sqlite"
    path: FilePath = ""
    allow_network_fs: bool = False
    dsn: Secret = ""
    dsn_file: FilePath = ""
    pool_size: Annotated[int, Meta(ge=1, le=1000)] = 10


StoreFault = Literal[
    "unsigned-writes",
    "unsigned-deletes",
    "unsigned-reads",
    "loose-signatures",
    "copies",
    "public-acls",
    "ignored-overrides",
]
"""What a faulty S3 store allows without permission; see docs/operations.md."""


class S3(Table, frozen=True):
    endpoint: str = ""
    public_endpoint: str = ""
    region: Word = "us-east-1"
    bucket: Bucket = "godrive"
    prefix: Prefix = ""
    create_bucket: bool = True
    path_style: bool = True
    access_key: Secret = ""
    access_key_file: FilePath = ""
    secret_key: Secret = ""
    secret_key_file: FilePath = ""
    ca_file: FilePath = ""
    multipart_threshold: Annotated[int, Meta(ge=0, le=5 * 2**30)] = 104_857_600
    part_size: Annotated[int, Meta(ge=5 * 2**20, le=5 * 2**30)] = 16_777_216
    accept_faults: list[StoreFault] = []


class Blobs(Table, frozen=True):
    driver: Literal["disk", "memory", "s3"] = "disk"
    path: FilePath = ""
    min_free_bytes: Size = 67_108_864
    pack_below: Annotated[int, Meta(ge=0, le=1_048_576)] = 16_384
    max_upload_bytes: Annotated[int, Meta(ge=1, le=2**62)] = 5_497_558_138_880
    upload_ttl: Annotated[float, Meta(ge=1, le=604_800)] = 3600.0
    resume_ttl: Annotated[float, Meta(ge=1, le=604_800)] = 259_200.0
    download_ttl: Annotated[float, Meta(ge=1, le=604_800)] = 900.0
    download_ttl_max: Annotated[float, Meta(ge=1, le=604_800)] = 86_400.0
    s3: S3 = S3()


class Ingest(Table, frozen=True):
    reconcile_every: Seconds = 5.0
    reconcile_after: Seconds = 10.0
    batch: Batch = 200
    events: Literal["none", "jetstream", "nats"] = "none"
    stream: StreamName = "GODRIVE_UPLOADS"
    subject: EventSubject = "godrive.uploaded"
    consumer: StreamName = "godrive-ingest"
    max_deliver: Count = 8
    webhook_token: Secret = ""
    webhook_token_file: FilePath = ""


class Janitor(Table, frozen=True):
    sweep_every: Seconds = 60.0
    trash_grace: Annotated[float, Meta(ge=0, le=315_360_000)] = 2_592_000.0
    user_grace: Annotated[float, Meta(ge=0, le=315_360_000)] = 2_592_000.0
    versions_kept: Annotated[int, Meta(ge=0, le=1000)] = 10
    version_retention: Annotated[float, Meta(ge=0, le=315_360_000)] = 2_592_000.0
    upload_retention: Annotated[float, Meta(ge=0, le=315_360_000)] = 86_400.0
    orphan_age: Annotated[float, Meta(ge=0, le=315_360_000)] = 86_400.0
    change_retention: Annotated[float, Meta(ge=0, le=315_360_000)] = 2_592_000.0
    changes_per_user: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 1_000_000
    clock_step: Annotated[float, Meta(ge=60, le=315_360_000)] = 86_400.0
    batch: Batch = 500


class Scrub(Table, frozen=True):
    every: Annotated[float, Meta(ge=0, le=315_360_000)] = 2_592_000.0
    rate: Annotated[int, Meta(ge=65_536, le=2**40)] = 8_388_608
    bucket: bool = False


TimeOfDay = Annotated[str, Meta(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9])?\Z", description="HH:MM, or empty")]


class Backup(Table, frozen=True):
    target: str = ""
    every: Annotated[float, Meta(ge=60, le=315_360_000)] = 86_400.0
    at: TimeOfDay = ""
    keep_daily: Annotated[int, Meta(ge=0, le=100_000)] = 7
    keep_weekly: Annotated[int, Meta(ge=0, le=100_000)] = 5
    keep_monthly: Annotated[int, Meta(ge=0, le=100_000)] = 12
    rate: Annotated[int, Meta(ge=0, le=2**40)] = 0
    passphrase: Secret = ""
    passphrase_file: FilePath = ""


class Nats(Table, frozen=True):
    url: Secret = ""
    namespace: Subject = "godrive"
    publish_events: bool = True
    user: str = ""
    password: Secret = ""
    password_file: FilePath = ""
    token: Secret = ""
    token_file: FilePath = ""
    nkey_file: FilePath = ""
    creds_file: FilePath = ""
    tls_ca_file: FilePath = ""
    tls_cert_file: FilePath = ""
    tls_key_file: FilePath = ""


class Webhooks(Table, frozen=True):
    per_user: Annotated[int, Meta(ge=0, le=10_000)] = 10
    allow_networks: list[str] = []
    timeout: Annotated[float, Meta(ge=0.1, le=120)] = 15.0
    give_up_after: Annotated[float, Meta(ge=0, le=315_360_000)] = 259_200.0
    url: str = ""
    secret: Secret = ""
    secret_file: FilePath = ""


class Log(Table, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"
    requests: bool = True
    traces: bool = False


class ActorTable(Table, frozen=True):
    location: Literal["local", "nats"] = "local"
    concurrency: CountOrAuto = 0
    capacity: Count = 1024


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
    scrub: Scrub = Scrub()
    backup: Backup = Backup()
    nats: Nats = Nats()
    webhooks: Webhooks = Webhooks()
    log: Log = Log()
    actors: Actors = Actors()

    @classmethod
    def embedded(cls, data_dir: str | os.PathLike[str]) -> Config:
        """Return the defaults, with all data below *data_dir*.  Reads no file and no environment."""
        return cls(server=Server(data_dir=os.fspath(data_dir)))

    @property
    def data_dir(self) -> Path:
        """The folder for all data, unless a key moves a part elsewhere."""
        return Path(self.server.data_dir)

    @property
    def layout_path(self) -> Path:
        """The file with the layout number of the data folder."""
        return self.data_dir / "LAYOUT"

    @property
    def lock_path(self) -> Path:
        """The lock file of the data folder."""
        return self.data_dir / "lock"

    @property
    def secret_path(self) -> Path:
        """The keyring."""
        return Path(self.auth.secret_file or self.data_dir / "secret.key")

    @property
    def catalog_path(self) -> Path:
        """The SQLite database."""
        return Path(self.catalog.path or self.data_dir / "godrive.db")

    @property
    def blobs_path(self) -> Path:
        """The folder of the disk store."""
        return Path(self.blobs.path or self.data_dir / "blobs")

    @property
    def blobs_lock_path(self) -> Path:
        """The lock file of the disk store; its name differs from that of a data folder in the same place."""
        return self.blobs_path / "blobs.lock"

    def check_backup(self, target: Path, field: str | None = None) -> None:
        """Raise ``ConfigError`` if the folder *target* of a backup is in the drive or around it, also by a link."""
        place = Path(os.path.realpath(target))
        for own in (self.data_dir, self.blobs_path):
            real = Path(os.path.realpath(own))
            if place.is_relative_to(real) or real.is_relative_to(place):
                relation = "is" if place == real else "is inside" if place.is_relative_to(real) else "contains"
                raise ConfigError(
                    f"The folder of the backup, {target}, {relation} {own}, which is a folder of the drive.",
                    field=field,
                    hint="Choose one beside it, on another disk: what destroys the drive must not destroy its backup.",
                )
