"""Where the configuration comes from: a file, the environment, the command line, each overriding the one before.

Every mistake is a ``ConfigError`` of one sentence that names the key, where
the value came from, and what was expected.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

from godrive.config import Actors, Config, Table, marked
from godrive.errors import ConfigError


def check(config: Config) -> None:
    """Check a configuration that did not come from :func:`load`.  Raises ``ConfigError``."""
    for path, key in keys().items():
        key.convert(_at(config, path), "")
    _check(config)


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
            if value and marked(key.type, "path"):
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
            shown = "what it is" if marked(self.type, "secret") else repr(value)
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
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
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

    def must(holds: object, dotted: str, rule: str) -> None:
        if not holds:
            raise ConfigError(f"{dotted} {rule}", field=dotted)

    server, blobs, nats = config.server, config.blobs, config.nats
    must(server.data_dir, "server.data_dir", "must not be empty")
    must(server.host, "server.host", "must not be empty")
    for dotted, url in (
        ("server.public_url", server.public_url),
        ("blobs.s3.endpoint", blobs.s3.endpoint),
        ("blobs.s3.public_endpoint", blobs.s3.public_endpoint),
    ):
        must(not url or _is_base_url(url), dotted, f"must be http(s)://host[/path] without a query, not {url!r}")
    for origin in server.cors_origins:
        right = origin == "*" or (_is_base_url(origin) and not urlsplit(origin).path)
        must(right, "server.cors_origins", f"must list '*' or http(s)://host without a path, not {origin!r}")
    for proxy in server.trusted_proxies:
        must(_is_network(proxy), "server.trusted_proxies", f"must list addresses or networks, not {proxy!r}")
    must(config.auth.refresh_ttl >= config.auth.access_ttl, "auth.refresh_ttl", "must not be under auth.access_ttl")
    hashing = config.auth.hash_waiting + (config.auth.hash_threads or 64)
    at_once = config.actors.auth.concurrency
    rule = f"must be 0 or over {hashing}, or those who log in (auth.hash_waiting) would keep out those who are in"
    must(not at_once or at_once > hashing, "actors.auth.concurrency", rule)
    if config.catalog.driver == "postgres":
        must(config.catalog.dsn, "catalog.dsn", "must be given when catalog.driver is 'postgres'")
    if blobs.driver == "s3":
        both = bool(blobs.s3.access_key) == bool(blobs.s3.secret_key)
        must(both, "blobs.s3.secret_key", "and blobs.s3.access_key must be given together, or neither")
    servers = [url.strip() for url in nats.url.split(",")] if nats.url else []
    must(all(map(_is_nats_url, servers)), "nats.url", "must be nats://host[:port], several separated by commas")
    must(bool(nats.tls_cert_file) == bool(nats.tls_key_file), "nats.tls_key_file", "and nats.tls_cert_file go together")
    must(config.ingest.events == "none" or nats.url, "nats.url", "must be given when ingest.events is not 'none'")
    for name in Actors.__struct_fields__:
        if getattr(config.actors, name).location == "local":
            continue
        must(nats.url, "nats.url", f"must be given when actors.{name}.location is 'nats'")
        here = f"must be 'local' with {{}}, which one process has ({name} could not see what the others write)"
        if name in ("auth", "metadata"):
            must(config.catalog.driver != "sqlite", f"actors.{name}.location", here.format("catalog.driver 'sqlite'"))
        if name == "storage":
            must(blobs.driver == "s3", f"actors.{name}.location", here.format(f"blobs.driver {blobs.driver!r}"))


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


def _is_nats_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


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
