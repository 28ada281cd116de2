"""Read the configuration: a file, then the environment, then the command line, each overriding the one before.

Every mistake is a ``ConfigError`` of one sentence that names the setting, where
the value came from, and what was expected.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

from godrive import network, webhook_signature
from godrive.callbacks import callback_url
from godrive.config import S3, Actors, Config, Table, marked
from godrive.errors import ConfigError
from godrive.paths import is_file

Warn = Callable[[str], None]

PREFIX = "GODRIVE_"
CONFIG_VARIABLE = "GODRIVE_CONFIG"
"""Names the configuration file; read by the command line."""


def check(config: Config) -> None:
    """Check a configuration that did not come from :func:`load`.  Raises ``ConfigError``."""
    for path, setting in settings().items():
        setting.convert(value_of(config, path), "")
    _check(config)


def check_s3(s3: S3) -> None:
    """Check the table ``[blobs.s3]``, wherever it came from.  Raises ``ConfigError``."""
    for path, setting in settings().items():
        if path[:2] == ("blobs", "s3"):
            setting.convert(getattr(s3, path[2]), "")
    _check_url("blobs.s3.endpoint", s3.endpoint, network.url)
    _check_url("blobs.s3.public_endpoint", s3.public_endpoint, network.base_url)
    if bool(s3.access_key) != bool(s3.secret_key):
        raise ConfigError(
            "blobs.s3.secret_key and blobs.s3.access_key must be given together, or neither",
            field="blobs.s3.secret_key",
            hint="Without both, the role of the process is used.",
        )
    if s3.ca_file:
        try:
            found, reason = is_file(Path(s3.ca_file)), "there is no such file"
        except OSError as error:
            found, reason = False, error.strerror or str(error)
        if not found:
            detail = f"blobs.s3.ca_file names {s3.ca_file}, which cannot be read: {reason}"
            raise ConfigError(detail, field="blobs.s3.ca_file")


def load(
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    warn: Warn = lambda _text: None,
) -> Config:
    """The configuration: defaults, then the file at *path*, then *env*, then *overrides*.

    A variable is ``GODRIVE_<TABLE>_<KEY>``; lists are separated by commas, and
    an empty variable counts as not set.  *warn* is called for each variable
    with our prefix that is not one of ours.  *overrides* are by dotted name;
    ``None`` counts as not given.  The content of the file that ``x_file`` names
    becomes the value of ``x``, without white space at both ends.
    Raises ``ConfigError``.
    """
    values: dict[tuple[str, ...], Any] = {}
    if path is not None:
        for setting, value in _read_toml(path):
            values[setting.path] = setting.convert(value, str(path))
            if value and marked(setting.type, "path"):
                values[setting.path] = str(path.parent / value)
    for setting, text in _read_environment(env or {}, warn):
        values[setting.path] = setting.convert(setting.parse(text), setting.variable)
    for dotted, value in (overrides or {}).items():
        if value is not None:
            setting = settings()[tuple(dotted.split("."))]
            values[setting.path] = setting.convert(value, "the command line")
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


class Setting(NamedTuple):
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
        """The text of a variable as a value of this setting's type, or unchanged for :meth:`convert` to refuse."""
        bare = get_args(self.type)[0] if get_origin(self.type) is Annotated else self.type
        if get_origin(bare) is list:
            return [item.strip() for item in text.split(",") if item.strip()]
        if bare not in (int, float, bool):
            return text.rstrip("\r\n")  # each line of an env file that was edited on Windows ends in a carriage return
        try:
            return msgspec.convert(text.strip(), bare, strict=False)
        except msgspec.ValidationError:
            return text

    def convert(self, value: Any, source: str) -> Any:
        """The value, checked."""
        try:
            return msgspec.convert(value, self.type)
        except msgspec.ValidationError:
            shown = "what it is" if marked(self.type, "secret") else repr(value)
            where = f" ({source})" if source else ""
            raise ConfigError(
                f"{self.dotted} must be {_expected(self.type)}, not {shown}{where}", field=self.dotted
            ) from None


@cache
def settings() -> dict[tuple[str, ...], Setting]:
    """Every setting by its path, in the order of ``config.toml``."""

    def walk(table: type[Table], path: tuple[str, ...]) -> Iterator[Setting]:
        for item in msgspec.structs.fields(table):
            here = (*path, item.name)
            if isinstance(item.type, type) and issubclass(item.type, Table):
                yield from walk(item.type, here)
            else:
                yield Setting(here, item.type)

    return {setting.path: setting for setting in walk(Config, ())}


def value_of(config: Config, path: tuple[str, ...]) -> Any:
    """The value of the setting at *path*."""
    value: Any = config
    for name in path:
        value = getattr(value, name)
    return value


def read_text(path: Path) -> str:
    """The text of a file as editors write it: UTF-8, perhaps with a byte order mark.

    Raises ``OSError``, and ``ValueError`` when it is in another encoding.
    """
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 ({error.reason} at byte {error.start})") from None


def _read_toml(path: Path) -> Iterator[tuple[Setting, Any]]:
    try:
        tree = tomllib.loads(read_text(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # TOMLDecodeError is one
        raise ConfigError(f"{path} is not TOML: {error}") from None
    tables = {path[:depth] for path in settings() for depth in range(len(path))}

    def walk(table: Mapping[str, Any], at: tuple[str, ...]) -> Iterator[tuple[Setting, Any]]:
        for name, value in table.items():
            here = (*at, name)
            if here in settings():
                yield settings()[here], value
            elif here not in tables:
                siblings = {other[len(at)] for other in (*settings(), *tables) if other[: len(at)] == at < other}
                what = ".".join(here)
                raise ConfigError(f"{what} is not a setting ({path}){_did_you_mean(name, siblings)}", field=what)
            elif isinstance(value, dict):
                yield from walk(value, here)
            else:
                raise ConfigError(f"{'.'.join(here)} is a table: write [{'.'.join(here)}] ({path})")

    return walk(tree, ())


# What Kubernetes (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables) and the
# links of Docker make of a service whose name begins with "godrive".  Some have the name of a setting: the service
# "godrive-server" makes GODRIVE_SERVER_PORT.
_SERVICE_NAME = re.compile(r"\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?|\w+_ENV_\w+")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")
_LINK_NAME = re.compile(r"/\S+/\S+")


def _read_environment(env: Mapping[str, str], warn: Warn) -> Iterator[tuple[Setting, str]]:
    """The variables that are settings.  Variables that an orchestrator makes do not count; the rest are warned of."""
    ours = {setting.variable: setting for setting in settings().values()}
    for name, text in env.items():
        if not name.upper().startswith(PREFIX) or not text.strip() or name == CONFIG_VARIABLE:
            continue
        is_address = name.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(text)
        if name in ours and not is_address:
            yield ours[name], text
        elif name in ours:
            warn(f"{name} is ignored: {text!r} is the address of a service, set by Kubernetes or Docker.")
        elif not (is_address or _SERVICE_NAME.fullmatch(name) or (name.endswith("_NAME") and _LINK_NAME.match(text))):
            ends = [variable for variable in ours if variable.endswith(f"_{name.upper().removeprefix(PREFIX)}")]
            near = _did_you_mean(name.upper(), ends if len(ends) == 1 else ours)
            warn(f"{name} is not a setting and is ignored{near or '.'}")


def _did_you_mean(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _read_secrets(values: dict[tuple[str, ...], Any]) -> None:
    for path in [path for path in values if path[-1].endswith("_file") and values[path]]:
        target = (*path[:-1], path[-1].removesuffix("_file"))
        if target not in settings():
            continue
        dotted = settings()[path].dotted
        if values.get(target):
            raise ConfigError(f"{dotted} and {settings()[target].dotted} are both given: keep one", field=dotted)
        try:
            text = read_text(Path(values[path])).strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"{dotted} names {values[path]}, which cannot be read: {reason}", field=dotted) from None
        if not text:
            raise ConfigError(f"{dotted} names {values[path]}, which is empty", field=dotted)
        if len(text.splitlines()) > 1 or "\0" in text:
            raise ConfigError(f"{dotted} names {values[path]}, which has more than one line", field=dotted)
        values[target] = text


def _check(config: Config) -> None:
    """Check what the types cannot say: how settings depend on one another, and values that could never match."""

    def must(holds: object, dotted: str, rule: str) -> None:
        if not holds:
            raise ConfigError(f"{dotted} {rule}", field=dotted)

    server, blobs, nats = config.server, config.blobs, config.nats
    must(server.data_dir, "server.data_dir", "must not be empty")
    must(server.host, "server.host", "must not be empty")
    if (path := network.socket_path(server.host)) is not None:
        must(path.is_absolute(), "server.host", f"must name a Unix socket by its whole path, not {server.host!r}")
        must(server.public_url, "server.public_url", "must be given when server.host is a Unix socket")
        must(not server.tls_cert_file, "server.tls_cert_file", "has no use when server.host is a Unix socket")
    else:
        host_rule = f"must be an address, a host name, or '*' for every address, not {server.host!r}"
        must(_is(network.bind_addresses, server.host), "server.host", host_rule)
    rule = "and server.tls_cert_file go together"
    must(bool(server.tls_cert_file) == bool(server.tls_key_file), "server.tls_key_file", rule)
    _check_url("server.public_url", server.public_url, network.base_url)
    for allowed in server.allowed_hosts:
        rule = f"must list hosts without a scheme or a wildcard, as host or host:port, not {allowed!r}"
        must(_is(network.authority, allowed), "server.allowed_hosts", rule)
    for origin in server.cors_origins:
        rule = f"must list '*', 'null' or scheme://host[:port] without a path or a wildcard, not {origin!r}"
        must(_is(network.origin, origin), "server.cors_origins", rule)
    for proxy in server.trusted_proxies:
        must(_is(network.network, proxy), "server.trusted_proxies", f"must list addresses or networks, not {proxy!r}")
    must(config.auth.refresh_ttl >= config.auth.access_ttl, "auth.refresh_ttl", "must not be under auth.access_ttl")
    hashing = config.auth.hash_waiting + (config.auth.hash_threads or 64)
    at_once = config.actors.auth.concurrency
    rule = f"must be 0 or greater than {hashing}; otherwise queued log-ins can block authenticated requests"
    must(not at_once or at_once > hashing, "actors.auth.concurrency", rule)
    rule = "must not be over blobs.download_ttl_max"
    must(blobs.download_ttl <= blobs.download_ttl_max, "blobs.download_ttl", rule)
    if config.catalog.driver == "postgres":
        must(config.catalog.dsn, "catalog.dsn", "must be given when catalog.driver is 'postgres'")
    check_s3(blobs.s3)
    servers = [url.strip() for url in nats.url.split(",")] if nats.url else []
    must(all(map(_is_nats_url, servers)), "nats.url", "must be nats://host[:port], several separated by commas")
    must(bool(nats.tls_cert_file) == bool(nats.tls_key_file), "nats.tls_key_file", "and nats.tls_cert_file go together")
    must(config.ingest.events == "none" or nats.url, "nats.url", "must be given when ingest.events is not 'none'")
    rule = "must be the whole path of a folder, or s3://BUCKET/PREFIX"
    target = config.backup.target
    must(not target or target.startswith(("/", "s3://")), "backup.target", rule)
    if target.startswith("/"):
        config.check_backup(Path(target), "backup.target")
    webhooks = config.webhooks
    for network_ in webhooks.allow_networks:
        rule = f"must list addresses or networks, not {network_!r}"
        must(_is(network.network, network_), "webhooks.allow_networks", rule)
    rule = f"must be http(s)://host[/path][?query] without credentials, not {webhooks.url!r}"
    must(not webhooks.url or _is(callback_url, webhooks.url), "webhooks.url", rule)
    rule = "must be given with webhooks.url: whsec_ and the Base64 of 24 to 64 bytes"
    must(not webhooks.url or _is(webhook_signature.key_of, webhooks.secret), "webhooks.secret", rule)
    for name in Actors.__struct_fields__:
        if getattr(config.actors, name).location == "local":
            continue
        must(nats.url, "nats.url", f"must be given when actors.{name}.location is 'nats'")
        here = f"must be 'local' with {{}}, which only one process can use ({name} would not see the others' writes)"
        if name in ("auth", "metadata"):
            must(config.catalog.driver != "sqlite", f"actors.{name}.location", here.format("catalog.driver 'sqlite'"))
        if name == "storage":
            must(blobs.driver == "s3", f"actors.{name}.location", here.format(f"blobs.driver {blobs.driver!r}"))


def _check_url(dotted: str, url: str, parse: Callable[[str], object]) -> None:
    """Raises ``ConfigError`` unless *url* is empty, a URL to begin others with, and understood by *parse*."""
    if url and not _is(network.url, url):
        raise ConfigError(f"{dotted} must be http(s)://host[/path] without a query, not {url!r}", field=dotted)
    if url and not _is(parse, url):
        raise ConfigError(f"{dotted} must name a host that clients can reach, not {url!r}", field=dotted)


def _is(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _is_nats_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _expected(type_: Any) -> str:
    """What the value of a setting must be, in words."""
    bare, metas = (get_args(type_)[0], type_.__metadata__) if get_origin(type_) is Annotated else (type_, ())
    if get_origin(bare) is list and get_origin(get_args(bare)[0]) is Literal:
        return f"a list of {_expected(get_args(bare)[0])}"
    if get_origin(bare) is Literal:
        *most, last = (repr(choice) for choice in get_args(bare))
        return f"{', '.join(most)} or {last}"
    for meta in metas:
        if meta.description:
            return str(meta.description)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
    limits = [
        f"{word} {limit}"
        for meta in metas
        for word, limit in (
            ("over", meta.gt),
            ("of at least", meta.ge),
            ("at most", meta.le),
        )
        if limit is not None
    ]
    return " ".join([words.get(bare, "a list of strings"), " and ".join(limits)]).strip()
