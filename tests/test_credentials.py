"""Passwords, tokens, signed URLs and the keyring: what is ours passes, anything else does not."""

from __future__ import annotations

import hmac
import json
import os
import stat
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import bcrypt
import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from godrive.credentials import (
    Keyring,
    RefreshClaims,
    TokenSigner,
    UrlSigner,
    check_password,
    cost_of,
    dummy_hash,
    hash_password,
    needs_rehash,
)
from godrive.errors import ConfigError, Unauthenticated, UrlInvalid
from godrive.model import SessionId, UserId
from godrive.principal import UserSession
from tests.cases import each

NOW = datetime(2030, 5, 17, 12, 30, 15, 999_999, tzinfo=UTC)
KEYRING = Keyring({"k2": b"2" * 32, "k1": b"1" * 32})
PRINCIPAL = UserSession(user_id=UserId("user"), session_id=SessionId("session"))
TOKENS = TokenSigner(KEYRING, issuer="godrive", audience="drive")
URLS = UrlSigner(KEYRING, "https://files.example/drive/")
CLAIMS = {
    "iss": "godrive",
    "aud": "drive",
    "sub": "user",
    "sid": "session",
    "typ": "access",
    "iat": int(NOW.timestamp()),
    "exp": int(NOW.timestamp()) + 60,
}


def forge(header: dict[str, Any] | None = None, *, key: bytes = KEYRING.keys["k2"], **claims: Any) -> str:
    """A token with a genuine signature over whatever header and claims; ``None`` leaves a claim out."""
    payload = {name: value for name, value in (CLAIMS | claims).items() if value is not None}
    signing_input = ".".join(
        urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (header or {"alg": "HS256", "typ": "JWT", "kid": "k2"}, payload)
    )
    signature = jwt.get_algorithm_by_name("HS256").sign(signing_input.encode(), key)
    return f"{signing_input}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}"


# Keyring


def test_first_start_makes_a_private_secret_of_32_bytes_and_later_ones_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    made = Keyring.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(made.current[1]) == 32
    assert Keyring.load_or_create(path).keys == made.keys
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret.key"]


def test_secret_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Keyring.load_or_create(tmp_path / "secret.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o644, 0o666])
def test_secret_that_others_may_use_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret.key"
    Keyring.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        Keyring.load(path)
    assert caught.value.hint == f"chmod o= {path}"


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640, 0o660])
def test_secret_that_its_group_may_use_is_accepted_and_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret.key"
    made = Keyring.load_or_create(path)
    path.chmod(mode)
    assert Keyring.load(path).keys == made.keys
    Keyring.rotate(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away: run the suite as root")
def test_rotation_by_root_leaves_the_file_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    Keyring.load_or_create(path)
    os.chown(path, 1234, 2345)
    Keyring.rotate(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away: run the suite as root")
def test_secret_made_by_root_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 2345)
    Keyring.load_or_create(tmp_path / "secret.key")
    found = (tmp_path / "secret.key").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, 0o600)


def test_rotation_of_a_link_replaces_the_file_that_it_names(tmp_path: Path) -> None:
    path, link = tmp_path / "real", tmp_path / "secret.key"
    before = Keyring.load_or_create(path)
    link.symlink_to(path)
    after = Keyring.rotate(link)
    assert link.is_symlink()
    assert Keyring.load(path).keys == after.keys != before.keys


@pytest.mark.parametrize("text", ["\ufeff{}", "{}\r\n", "\r\n# note\r\n  {}  \r\n\r\n", "{}"])
def test_secret_may_have_passed_through_an_editor(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret.key"
    path.touch(mode=0o600)
    path.write_bytes(text.format(f"first:{'00' * 32}").encode())
    assert Keyring.load(path).keys == {"first": bytes(32)}


def test_a_folder_that_may_not_be_searched_is_not_one_without_a_secret(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    name = "x" * 300  # as for a folder that may not be searched, stat(2) fails with another error than ENOENT
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        Keyring.load_or_create(tmp_path / name)


def test_the_mode_of_a_secret_that_somebody_else_owns_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.key"
    made = Keyring.load_or_create(path)
    path.chmod(0o644)
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    assert Keyring.load(path).keys == made.keys


def test_secret_is_durable_whole_and_then_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, fsync = tmp_path / "secret.key", list[tuple[bool, bool]](), os.fsync

    def watch(fd: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), path.exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watch)
    Keyring.load_or_create(path)
    assert synced == [(False, False), (True, True)]


def test_of_two_processes_that_make_a_secret_the_first_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.key"

    def generate() -> Keyring:
        path.write_text(f"first:{'11' * 32}\n", encoding="ascii")
        path.chmod(0o600)
        return Keyring({"second": b"2" * 32})

    monkeypatch.setattr(Keyring, "generate", generate)
    assert list(Keyring.load_or_create(path).keys) == ["first"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret.key"]


@each("text", ["", "# nothing\n", "a:00\n", "a\n", f"a:{'00' * 31}\n", f"a:{'zz' * 32}\n", f":{'00' * 32}\n", "é"])
def test_malformed_secret_is_refused_and_never_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret.key"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        Keyring.load_or_create(path)
    assert "00" not in caught.value.detail.replace(str(path), "")  # which may end in pytest-100


def test_key_id_used_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    path.write_text(f"a:{'00' * 32}\na:{'11' * 32}\n", encoding="ascii")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="Line 2"):
        Keyring.load(path)


def test_secret_in_a_folder_that_is_missing_is_an_operator_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        Keyring.load_or_create(tmp_path / "missing" / "secret.key")


def test_rotation_signs_with_a_new_key_and_still_verifies_with_the_old(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    before = Keyring.load_or_create(path)
    token, _ = TokenSigner(before, issuer="i", audience="a").access(PRINCIPAL, now=NOW, ttl=60)
    Keyring.rotate(path)
    after = Keyring.load(path)
    assert after.current != before.current
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TokenSigner(after, issuer="i", audience="a").verify_access(token, now=NOW)[0] == PRINCIPAL


def test_rotation_that_keeps_no_key_voids_what_the_old_ones_signed(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    token, _ = TokenSigner(Keyring.load_or_create(path), issuer="i", audience="a").access(PRINCIPAL, now=NOW, ttl=60)
    Keyring.rotate(path, keep=0)
    with pytest.raises(Unauthenticated):
        TokenSigner(Keyring.load(path), issuer="i", audience="a").verify_access(token, now=NOW)


def test_keyring_does_not_show_its_keys() -> None:
    assert "111" not in repr(KEYRING)


# Passwords


@pytest.mark.parametrize("password", ["correct horse", "a" * 72, "a" * 73, "é" * 1024, "nul\0inside", "\0" * 8])
def test_password_of_any_length_and_content_checks(password: str) -> None:
    hashed = hash_password(password, 4)
    assert check_password(password, hashed)
    assert not check_password(password + "x", hashed)
    assert not check_password(password[:-1], hashed)


def test_passwords_that_differ_after_72_bytes_differ() -> None:
    assert not check_password("a" * 72 + "c", hash_password("a" * 72 + "b", 4))


def test_passwords_that_differ_after_a_nul_differ() -> None:
    assert not check_password("same\0other", hash_password("same\0first", 4))


def test_hash_made_elsewhere_checks() -> None:
    assert check_password("imported one", bcrypt.hashpw(b"imported one", bcrypt.gensalt(4)).decode())


def test_password_typed_composed_or_decomposed_is_the_same() -> None:
    assert check_password("cafe\u0301 cafe\u0301", hash_password("caf\u00e9 caf\u00e9", 4))


def test_dummy_hash_costs_what_a_real_one_does_and_matches_nothing() -> None:
    assert not needs_rehash(dummy_hash(4), 4)
    assert not check_password("password", dummy_hash(4))


def test_hash_of_another_cost_wants_rehashing() -> None:
    assert needs_rehash(hash_password("password", 4), 5)
    assert not needs_rehash(hash_password("password", 5), 5)
    assert cost_of(hash_password("password", 5)) == 5


# Tokens


def test_access_token_names_its_principal_until_it_expires() -> None:
    token, expires_at = TOKENS.access(PRINCIPAL, now=NOW, ttl=900)
    assert expires_at == NOW.replace(microsecond=0) + timedelta(seconds=900)
    assert TOKENS.verify_access(token, now=expires_at - timedelta(microseconds=1)) == (PRINCIPAL, expires_at)
    with pytest.raises(Unauthenticated, match="expired"):
        TOKENS.verify_access(token, now=expires_at)


def test_refresh_token_names_its_session_and_generation() -> None:
    claims = RefreshClaims(UserId("user"), SessionId("session"), 7)
    token = TOKENS.refresh(claims, now=NOW, expires_at=NOW + timedelta(days=30))
    assert TOKENS.verify_refresh(token, now=NOW + timedelta(days=29)) == claims
    with pytest.raises(Unauthenticated):
        TOKENS.verify_refresh(token, now=NOW + timedelta(days=30))


def test_token_of_one_kind_is_refused_as_another() -> None:
    access, _ = TOKENS.access(PRINCIPAL, now=NOW, ttl=60)
    refresh = TOKENS.refresh(RefreshClaims(UserId("u"), SessionId("s"), 0), now=NOW, expires_at=NOW + timedelta(1))
    with pytest.raises(Unauthenticated):
        TOKENS.verify_access(refresh, now=NOW)
    with pytest.raises(Unauthenticated):
        TOKENS.verify_refresh(access, now=NOW)


def test_forged_control_token_passes_so_that_the_forgeries_below_fail_for_their_own_reason() -> None:
    assert TOKENS.verify_access(forge(), now=NOW)[0] == PRINCIPAL
    assert TOKENS.verify_access(forge({"alg": "HS256", "typ": "JWT", "kid": "k1"}, key=KEYRING.keys["k1"]), now=NOW)


@each(
    "token",
    [
        forge(iss="other"),
        forge(iss=None),
        forge(aud="other"),
        forge(aud=["drive"]),
        forge(aud=None),
        forge(typ="refresh"),
        forge(typ=None),
        forge(sub=None),
        forge(exp=None),
        forge(iat=None),
        forge(exp=int(NOW.timestamp()) - 1),
        forge(key=b"1" * 32),
        forge({"alg": "HS256", "typ": "JWT"}),
        forge({"alg": "HS256", "typ": "JWT", "kid": "k3"}),
        forge({"alg": "HS256", "typ": "JWT", "kid": None}),
        forge({"alg": "HS256", "typ": "JOSE", "kid": "k2"}),
        forge({"alg": "HS512", "typ": "JWT", "kid": "k2"}),
        forge({"alg": "none", "typ": "JWT", "kid": "k2"}),
        forge({"alg": "HS256", "typ": "JWT", "kid": "k2", "crit": ["exp"], "exp": 0}),
        forge({"alg": "HS256", "typ": "JWT", "kid": "k2", "crit": []}),
        forge({"alg": "HS256", "typ": "JWT", "kid": "k2", "b64": True}),
        forge({"alg": "HS256", "typ": "JWT", "kid": "k2", "jku": "https://evil.example"}),
        jwt.encode(CLAIMS, "", algorithm="none", headers={"kid": "k2"}),
        jwt.encode(CLAIMS, "", algorithm="none", headers={"kid": "k2"}) + "AAAA",
        "",
        ".",
        "..",
        "a.b.c",
        "é.é.é",
        "\ud800",
        "[" * 5000,
        urlsafe_b64encode(b"[" * 1500).decode() + ".e30.e30",
        "eyJ" * 100_000,
    ],
)
def test_token_that_we_would_not_have_made_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        TOKENS.verify_access(token, now=NOW)


@given(st.data())
def test_token_with_any_character_altered_is_refused(data: st.DataObject) -> None:
    token, _ = TOKENS.access(PRINCIPAL, now=NOW, ttl=60)
    with pytest.raises(Unauthenticated):
        TOKENS.verify_access(altered(token, data), now=NOW)


def test_every_spelling_of_the_last_character_but_one_is_refused() -> None:
    token, _ = TOKENS.access(PRINCIPAL, now=NOW, ttl=60)
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=":
        if last != token[-1]:
            with pytest.raises(Unauthenticated):
                TOKENS.verify_access(token[:-1] + last, now=NOW)
    with pytest.raises(Unauthenticated):
        TOKENS.verify_access(token + "=", now=NOW)


# Signed URLs


def split(url: str) -> tuple[str, dict[str, str]]:
    parts = urlsplit(url)
    assert parts.netloc == "files.example"
    assert parts.path.startswith("/drive/")
    return parts.path.removeprefix("/drive"), dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))


def altered(text: str, data: st.DataObject) -> str:
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.text(max_size=2).filter(lambda new: new != text[at]))
    return text[:at] + other + text[at + 1 :]


@given(st.dictionaries(st.text(min_size=1).filter(lambda n: n not in {"expires", "key", "signature"}), st.text()))
def test_signed_url_gives_its_claims_back(claims: dict[str, str]) -> None:
    claims = {name.encode(errors="ignore").decode(): v.encode(errors="ignore").decode() for name, v in claims.items()}
    url = URLS.sign("PUT", "/v1/uploads/x/content", claims, expires_at=NOW + timedelta(seconds=60))
    assert url.isascii()
    path, query = split(url)
    assert path == "/v1/uploads/x/content"
    assert URLS.verify("PUT", path, query, now=NOW) == claims


@given(st.data())
def test_signed_url_with_anything_altered_is_refused(data: st.DataObject) -> None:
    url = URLS.sign("PUT", "/v1/x", {"size": "12", "mime": "text/plain"}, expires_at=NOW + timedelta(seconds=60))
    path, query = split(url)
    part = data.draw(st.sampled_from(["path", "method", *query]))
    method = "PUT"
    if part == "path":
        path = altered(path, data)
    elif part == "method":
        method = altered(method, data)
    else:
        query[part] = altered(query[part], data)
    with pytest.raises(UrlInvalid):
        URLS.verify(method, path, query, now=NOW)


@given(st.data())
def test_signed_url_with_a_claim_added_removed_or_renamed_is_refused(data: st.DataObject) -> None:
    url = URLS.sign("PUT", "/v1/x", {"size": "12", "mime": "text/plain"}, expires_at=NOW + timedelta(seconds=60))
    path, query = split(url)
    name = data.draw(st.sampled_from(list(query)))
    change = data.draw(st.sampled_from(["add", "remove", "rename"]))
    value = query[name] if change == "add" else query.pop(name)
    if change != "remove":
        query[data.draw(st.text().filter(lambda new: new not in query and new != name))] = value
    with pytest.raises(UrlInvalid):
        URLS.verify("PUT", path, query, now=NOW)


@pytest.mark.parametrize("name", ["size", "expires", "key", "signature"])
def test_signed_url_with_a_parameter_given_twice_is_refused(name: str) -> None:
    path, query = split(URLS.sign("PUT", "/v1/x", {"size": "12"}, expires_at=NOW + timedelta(seconds=60)))
    for order in ([(name, query[name]), *query.items()], [*query.items(), (name, "13")]):
        with pytest.raises(UrlInvalid):
            URLS.verify("PUT", path, MultiDict(order), now=NOW)


def test_claims_that_join_to_the_same_text_have_different_signatures() -> None:
    one = URLS.sign("PUT", "/v1/x", {"a": "1&b=2"}, expires_at=NOW)
    two = URLS.sign("PUT", "/v1/x", {"a": "1", "b": "2"}, expires_at=NOW)
    assert split(one)[1]["signature"] != split(two)[1]["signature"]


def test_signed_url_ends_at_its_instant() -> None:
    path, query = split(URLS.sign("GET", "/v1/x", {}, expires_at=NOW.replace(microsecond=0)))
    assert URLS.verify("GET", path, query, now=NOW - timedelta(seconds=1)) == {}
    with pytest.raises(UrlInvalid, match="expired"):
        URLS.verify("GET", path, query, now=NOW.replace(microsecond=0))


def test_signed_get_serves_head_and_nothing_else() -> None:
    path, query = split(URLS.sign("GET", "/v1/x", {}, expires_at=NOW + timedelta(seconds=60)))
    assert URLS.verify("HEAD", path, query, now=NOW) == {}
    for method in ("PUT", "POST", "DELETE", "get"):
        with pytest.raises(UrlInvalid):
            URLS.verify(method, path, query, now=NOW)


def test_signed_url_of_another_server_is_refused() -> None:
    other = UrlSigner(Keyring({"k2": b"x" * 32}), "https://files.example/drive")
    path, query = split(other.sign("GET", "/v1/x", {}, expires_at=NOW + timedelta(seconds=60)))
    with pytest.raises(UrlInvalid):
        URLS.verify("GET", path, query, now=NOW)


def test_signature_of_the_token_s_key_is_none_for_a_url() -> None:
    path, query = split(URLS.sign("GET", "/v1/x", {}, expires_at=NOW + timedelta(seconds=60)))
    signed = f"GET\n{path}\nexpires={query['expires']}&key=k2"
    for key, genuine in ((hmac.digest(b"2" * 32, b"godrive signed url", "sha256"), True), (b"2" * 32, False)):
        query["signature"] = urlsafe_b64encode(hmac.digest(key, signed.encode(), "sha256")).rstrip(b"=").decode()
        if genuine:
            assert URLS.verify("GET", path, query, now=NOW) == {}
        else:
            with pytest.raises(UrlInvalid):
                URLS.verify("GET", path, query, now=NOW)


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    path, query = split(URLS.sign("GET", "/v1/x", {}, expires_at=NOW + timedelta(seconds=60)))
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: False)
    with pytest.raises(UrlInvalid):
        URLS.verify("GET", path, query, now=NOW)


def test_url_signed_with_the_old_key_passes_after_rotation() -> None:
    old = UrlSigner(Keyring({"k1": b"1" * 32}), "https://files.example/drive")
    path, query = split(old.sign("GET", "/v1/x", {"v": "1"}, expires_at=NOW + timedelta(seconds=60)))
    assert URLS.verify("GET", path, query, now=NOW) == {"v": "1"}


def test_claim_with_a_reserved_name_is_a_bug() -> None:
    with pytest.raises(ValueError, match="reserved"):
        URLS.sign("GET", "/v1/x", {"expires": "0"}, expires_at=NOW)
