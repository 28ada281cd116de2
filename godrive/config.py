"""Configuration: one frozen struct per table of ``config.toml``.

Sizes are bytes and durations seconds.  An empty string means "the default
place" or "not used", as the comment in ``config.toml`` says.

:func:`load` reads the file, the environment and the command line, each
overriding the one before.  Every mistake is a ``ConfigError`` of one sentence
that names the key, where the value came from, and what was expected.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from godrive.errors import ConfigError

Secret = Annotated[str, Meta(extra={"secret": True})]
"""A value that is never shown."""
FilePath = Annotated[str, Meta(extra={"path": True})]
"""A path; in a file it counts from that file's folder, elsewhere from the working directory."""
Port = Annotated[int, Meta(ge=0, le=65_535)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
CountOrAuto = Annotated[int, Meta(ge=0, le=4096)]
Size = Annotated[int, Meta(ge=0, le=2**62)]
Seconds = Annotated[float, Meta(gt=0, le=315_360_000)]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the tables: keys we do not know are refused, never ignored; secrets are not shown."""

    def __repr__(self) -> str:
        values = ((item.name, item.type, getattr(self, item.name)) for item in msgspec.structs.fields(self))
        shown = (
            f"{name}={'***' if value and _marked(type_, 'secret') else repr(value)}" for name, type_, value in values
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Server(Table, frozen=True):
    data_dir: FilePath = "data"
    host: str = "127.0.0.1"
    port: Port = 8080
    public_url: str = ""
    trusted_proxies: list[str] = []
    cors_origins: list[str] = []
    max_body_bytes: Annotated[int, Meta(ge=1024, le=2**30)] = 1_048_576
    body_timeout: Seconds = 30.0
    shutdown: Seconds = 10.0


class Auth(Table, frozen=True):
    signup: Literal["open", "invite", "closed"] = "open"
    bcrypt_cost: Annotated[int, Meta(ge=4, le=16)] = 12
    hash_threads: CountOrAuto = 0
    hash_waiting: Annotated[int, Meta(ge=0, le=100_000)] = 32
    access_ttl: Annotated[float, Meta(ge=1, le=900)] = 900.0
    refresh_ttl: Annotated[float, Meta(ge=1, le=315_360_000)] = 2_592_000.0
    secret_file: FilePath = ""
    issuer: Annotated[str, Meta(min_length=1)] = "godrive"
    audience: Annotated[str, Meta(min_length=1)] = "godrive"
    attempts_per_address: Count = 30
    attempts_per_account: Count = 10
    attempts_window: Seconds = 60.0
    default_quota_bytes: Size = 0


class Catalog(Table, frozen=True):
    driver: Literal["sqlite", "postgres"] = "sqlite"
    path: FilePath = ""
    allow_network_fs: bool = False
    dsn: Secret = ""
    dsn_file: FilePath = ""
    pool_size: Annotated[int, Meta(ge=1, le=1000)] = 10


class S3(Table, frozen=True):
    endpoint: str = ""
    public_endpoint: str = ""
    region: Annotated[str, Meta(min_length=1)] = "us-east-1"
    bucket: Annotated[str, Meta(min_length=3, max_length=63)] = "godrive"
    create_bucket: bool = True
    path_style: bool = True
    access_key: Secret = ""
    access_key_file: FilePath = ""
    secret_key: Secret = ""
    secret_key_file: FilePath = ""


class Blobs(Table, frozen=True):
    driver: Literal["disk", "memory", "s3"] = "disk"
    path: FilePath = ""
    min_free_bytes: Size = 67_108_864
    max_upload_bytes: Annotated[int, Meta(ge=1, le=2**62)] = 5_497_558_138_880
    upload_ttl: Annotated[float, Meta(ge=1, le=604_800)] = 3600.0
    download_ttl: Annotated[float, Meta(ge=1, le=604_800)] = 900.0
    s3: S3 = S3()


class Ingest(Table, frozen=True):
    reconcile_every: Seconds = 5.0
    reconcile_after: Seconds = 10.0
    batch: Count = 200
    events: Literal["none", "jetstream", "nats"] = "none"
    stream: Annotated[str, Meta(min_length=1)] = "GODRIVE_UPLOADS"
    subject: Annotated[str, Meta(min_length=1)] = "godrive.uploaded"
    consumer: Annotated[str, Meta(min_length=1)] = "godrive-ingest"
    max_deliver: Count = 8
    webhook_token: Secret = ""
    webhook_token_file: FilePath = ""


class Janitor(Table, frozen=True):
    sweep_every: Seconds = 60.0
    trash_grace: Annotated[float, Meta(ge=0, le=315_360_000)] = 2_592_000.0
    upload_retention: Annotated[float, Meta(ge=0, le=315_360_000)] = 86_400.0
    orphan_age: Annotated[float, Meta(ge=0, le=315_360_000)] = 86_400.0
    batch: Count = 500


class Nats(Table, frozen=True):
    url: Secret = ""
    namespace: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")] = "godrive"
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


class Log(Table, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"
    requests: bool = True


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
    nats: Nats = Nats()
    log: Log = Log()
    actors: Actors = Actors()

    @classmethod
    def embedded(cls, data_dir: str | os.PathLike[str]) -> Config:
        """The defaults, with everything that is kept below *data_dir*.  Reads no file and no environment."""
        return cls(server=Server(data_dir=os.fspath(data_dir)))

    @property
    def data_dir(self) -> Path:
        """The folder that holds all there is, unless a key puts a part of it elsewhere."""
        return Path(self.server.data_dir)

    @property
    def layout_path(self) -> Path:
        """The stamp that says which layout the data folder has."""
        return self.data_dir / "LAYOUT"

    @property
    def lock_path(self) -> Path:
        """The file that the one server of the data folder holds locked."""
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

    def validate(self) -> None:
        """Check every value and how they go together.  Raises ``ConfigError``."""
        for path, key in keys().items():
            key.convert(_at(self, path), "")
        _check(self)


def load(
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """The configuration: defaults, then the file at *path*, then *env*, then *overrides*.

    A variable is ``GODRIVE_<TABLE>_<KEY>``; lists are separated by commas, and
    an empty one counts as not set.  *overrides* are by dotted key; ``None``
    counts as not given.  ``x_file`` is read into ``x``, less white space at
    both ends.  Raises ``ConfigError``.
    """
    values: dict[tuple[str, ...], Any] = {}
    if path is not None:
        for key, value in _read_toml(path):
            values[key.path] = key.convert(value, str(path))
            if value and _marked(key.type, "path"):
                values[key.path] = str(path.parent / value)
    for name, text in (env or {}).items():
        if name.startswith("GODRIVE_") and text and not _FOREIGN_VARIABLE.fullmatch(name):
            key = _variable(name)
            values[key.path] = key.convert(key.parse(text), name)
    for dotted, value in (overrides or {}).items():
        if value is not None:
            key = keys()[tuple(dotted.split("."))]
            values[key.path] = key.convert(value, "the command line")
    _read_secrets(values)
    tree: dict[str, Any] = {}
    for (*tables, name), value in values.items():
        table = tree
        for part in tables:
            table = table.setdefault(part, {})
        table[name] = value
    config = msgspec.convert(tree, Config)
    _check(config)
    return config


# Where a Kubernetes service is called "godrive", every pod gets variables of these names.
_FOREIGN_VARIABLE = re.compile(r"GODRIVE_CONFIG|GODRIVE_SERVICE_(HOST|PORT)\w*|GODRIVE_PORT(_\d+_(TCP|UDP)\w*)?")


class Key(NamedTuple):
    """One key of one table."""

    path: tuple[str, ...]
    type: Any

    @property
    def dotted(self) -> str:
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        return "_".join(("godrive", *self.path)).upper()

    def parse(self, text: str) -> Any:
        """The text of a variable as a value of this key's type; as it is when it is not one."""
        bare = get_args(self.type)[0] if get_origin(self.type) is Annotated else self.type
        if get_origin(bare) is list:
            return [item.strip() for item in text.split(",") if item.strip()]
        try:
            return msgspec.convert(text.strip(), bare, strict=False) if bare in (int, float, bool) else text
        except msgspec.ValidationError:
            return text

    def convert(self, value: Any, source: str) -> Any:
        """The value, checked."""
        try:
            return msgspec.convert(value, self.type)
        except msgspec.ValidationError:
            shown = "what it is" if _marked(self.type, "secret") else repr(value)
            where = f" ({source})" if source else ""
            raise ConfigError(
                f"{self.dotted} must be {_expected(self.type)}, not {shown}{where}", field=self.dotted
            ) from None


@cache
def keys() -> dict[tuple[str, ...], Key]:
    """Every key there is, by its path, in the order of ``config.toml``."""

    def walk(table: type[Table], path: tuple[str, ...]) -> Iterator[Key]:
        for item in msgspec.structs.fields(table):
            here = (*path, item.name)
            if isinstance(item.type, type) and issubclass(item.type, Table):
                yield from walk(item.type, here)
            else:
                yield Key(here, item.type)

    return {key.path: key for key in walk(Config, ())}


def _read_toml(path: Path) -> Iterator[tuple[Key, Any]]:
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    tables = {key[:depth] for key in keys() for depth in range(len(key))}

    def walk(table: Mapping[str, Any], at: tuple[str, ...]) -> Iterator[tuple[Key, Any]]:
        for name, value in table.items():
            here = (*at, name)
            if here in keys():
                yield keys()[here], value
            elif here not in tables:
                siblings = {other[len(at)] for other in (*keys(), *tables) if other[: len(at)] == at < other}
                raise _unknown(".".join(here), name, siblings, str(path))
            elif isinstance(value, dict):
                yield from walk(value, here)
            else:
                raise ConfigError(f"{'.'.join(here)} is a table: write [{'.'.join(here)}] ({path})")

    return walk(tree, ())


def _variable(name: str) -> Key:
    by_name = {key.variable: key for key in keys().values()}
    if name not in by_name:
        raise _unknown(name, name, by_name, "the environment")
    return by_name[name]


def _unknown(what: str, name: str, known: Any, source: str) -> ConfigError:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    question = f"; did you mean {near[0]}?" if near else ""
    return ConfigError(f"{what} is not a setting ({source}){question}", field=what)


def _read_secrets(values: dict[tuple[str, ...], Any]) -> None:
    for path in [path for path in values if path[-1].endswith("_file") and values[path]]:
        target = (*path[:-1], path[-1].removesuffix("_file"))
        if target not in keys():
            continue
        dotted = keys()[path].dotted
        if values.get(target):
            raise ConfigError(f"{dotted} and {keys()[target].dotted} are both given: keep one", field=dotted)
        try:
            values[target] = Path(values[path]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"{dotted} names {values[path]}, which cannot be read: {reason}", field=dotted) from None
        if not values[target]:
            raise ConfigError(f"{dotted} names {values[path]}, which is empty", field=dotted)


def _check(config: Config) -> None:
    """What the keys must be together, or beyond what their types can say."""

    def must(holds: object, dotted: str, rule: str, hint: str | None = None) -> None:
        if not holds:
            raise ConfigError(f"{dotted} {rule}", field=dotted, hint=hint)

    server, catalog, s3, nats, actors = config.server, config.catalog, config.blobs.s3, config.nats, config.actors
    must(server.data_dir, "server.data_dir", "must not be empty")
    must(server.host, "server.host", "must not be empty")
    for dotted, url in (
        ("server.public_url", server.public_url),
        ("blobs.s3.endpoint", s3.endpoint),
        ("blobs.s3.public_endpoint", s3.public_endpoint),
    ):
        must(not url or _is_base_url(url), dotted, f"must be http(s)://host[/path] without a query, not {url!r}")
    for origin in server.cors_origins:
        right = origin == "*" or (_is_base_url(origin) and not urlsplit(origin).path)
        must(right, "server.cors_origins", f"must list '*' or http(s)://host without a path, not {origin!r}")
    for proxy in server.trusted_proxies:
        must(_is_network(proxy), "server.trusted_proxies", f"must list addresses or networks, not {proxy!r}")
    must(config.auth.refresh_ttl >= config.auth.access_ttl, "auth.refresh_ttl", "must not be under auth.access_ttl")
    must(catalog.driver != "postgres" or catalog.dsn, "catalog.dsn", "must be given when catalog.driver is 'postgres'")
    if config.blobs.driver == "s3":
        must(bool(s3.access_key) == bool(s3.secret_key), "blobs.s3.secret_key", "and blobs.s3.access_key go together")
        must(
            s3.access_key or not s3.endpoint,
            "blobs.s3.access_key",
            "and blobs.s3.secret_key must be given when blobs.s3.endpoint is",
            "Only on AWS, without an endpoint, are they found by themselves.",
        )
    must(bool(nats.tls_cert_file) == bool(nats.tls_key_file), "nats.tls_key_file", "and nats.tls_cert_file go together")
    must(config.ingest.events == "none" or nats.url, "nats.url", "must be given when ingest.events is not 'none'")
    away = [name for name in Actors.__struct_fields__ if getattr(actors, name).location == "nats"]
    must(not away or nats.url, "nats.url", f"must be given when actors.{away[:1] and away[0]}.location is 'nats'")
    if catalog.driver == "sqlite":
        for name in {"auth", "metadata"} & set(away):
            must(
                False,
                f"actors.{name}.location",
                "must be 'local' when catalog.driver is 'sqlite', which one process has",
            )
    if config.blobs.driver != "s3":
        rule = f"must be 'local' when blobs.driver is {config.blobs.driver!r}, which one process has"
        must("storage" not in away, "actors.storage.location", rule)


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and parts.username is None
            and not re.search(r"[?#\s]", url)
        )
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _marked(type_: Any, mark: str) -> bool:
    return any((meta.extra or {}).get(mark) for meta in getattr(type_, "__metadata__", ()))


def _at(table: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        table = getattr(table, name)
    return table


def _expected(type_: Any) -> str:
    """The values of a key in words."""
    bare, metas = (get_args(type_)[0], type_.__metadata__) if get_origin(type_) is Annotated else (type_, ())
    if get_origin(bare) is Literal:
        *most, last = (repr(choice) for choice in get_args(bare))
        return f"{', '.join(most)} or {last}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
    limits = [
        f"{word} {limit}"
        for meta in metas
        for word, limit in (
            ("over", meta.gt),
            ("of at least", meta.ge),
            ("at most", meta.le),
            ("of at least this many characters:", meta.min_length),
            ("of at most this many characters:", meta.max_length),
            ("of the form", meta.pattern),
        )
        if limit is not None
    ]
    return " ".join([words.get(bare, "a list of strings"), " and ".join(limits)]).strip()
