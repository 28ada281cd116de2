"""The templates for Coolify and YunoHost: what can be known of them without these."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from jsonschema_rs import Draft7Validator

from godrive import __version__
from godrive.configfile import load
from tests.drive_server import REPOSITORY

COOLIFY = REPOSITORY / "examples" / "coolify.yaml"
YUNOHOST = REPOSITORY / "examples" / "yunohost" / "manifest.toml"
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

TEXTS = {"type": "object", "required": ["en"], "patternProperties": {"^[a-z]{2}$": {"type": "string"}}}
SIZE = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?[kKmMgG]$"}
FLAG = {"enum": [True, False, "not_relevant"]}
QUESTION = {
    "type": "object",
    "required": ["type"],
    "additionalProperties": False,
    "properties": {
        "type": {"enum": ["string", "select", "email", "password", "boolean", "domain", "user", "group", "number"]},
        "default": {"type": ["string", "number", "boolean"]},
        "ask": TEXTS,
        "help": TEXTS,
        "choices": {"type": "array", "items": {"type": "string"}},
    },
}
MANIFEST: dict[str, Any] = {
    "type": "object",
    "required": [
        *("packaging_format", "id", "name", "description", "version", "maintainers"),
        *("upstream", "integration", "install", "resources"),
    ],
    "additionalProperties": False,
    "properties": {
        "packaging_format": {"const": 2},
        "id": {"type": "string", "pattern": "^[a-z0-9]+$"},
        "name": {"type": "string"},
        "description": TEXTS,
        "version": {"type": "string", "pattern": "^[0-9a-z]*([.+-][0-9a-z]*)*~ynh[0-9]+$"},
        "maintainers": {"type": "array", "items": {"type": "string"}},
        "upstream": {"type": "object", "required": ["license"]},
        "integration": {
            "type": "object",
            "required": ["yunohost", "architectures", "multi_instance", "ldap", "sso", "disk", "ram"],
            "additionalProperties": False,
            "properties": {
                "helpers_version": {"enum": ["2", "2.1"]},
                "yunohost": {"type": "string", "pattern": "^>= ?[0-9]{1,2}(\\.[0-9]{1,2}){0,2}$"},
                "architectures": {"type": "array", "items": {"enum": ["amd64", "i386", "armhf", "arm64"]}},
                "multi_instance": FLAG,
                "ldap": FLAG,
                "sso": FLAG,
                "disk": SIZE,
                "ram": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"build": SIZE, "runtime": SIZE},
                },
            },
        },
        "install": {"type": "object", "additionalProperties": QUESTION},
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "sources": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["url", "sha256"],
                        "additionalProperties": False,
                        "properties": {
                            "url": {"type": "string", "pattern": "^https://"},
                            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                            "extract": {"type": "boolean"},
                            "rename": {"type": "string"},
                        },
                    },
                },
                "ports": {"type": "object", "additionalProperties": {"required": ["default"]}},
                "system_user": {"type": "object"},
                "install_dir": {"type": "object"},
                "data_dir": {"type": "object"},
                "permissions": {"type": "object", "required": ["main"]},
            },
        },
    },
}
"""The parts of YunoHost's schema of manifests (format 2) that ours uses."""


def manifest() -> dict[str, Any]:
    return tomllib.loads(YUNOHOST.read_text())


def test_the_manifest_is_one_of_yunohost_and_fits_this_release() -> None:
    found = manifest()
    assert [error.message for error in Draft7Validator(MANIFEST).iter_errors(found)] == []
    assert found["version"].partition("~")[0] == __version__
    assert found["upstream"]["license"] == PROJECT["license"]
    assert found["resources"]["ports"]["main"]["default"] == 8080
    for choice in found["install"]["signup"]["choices"]:
        load(None, {"GODRIVE_AUTH_SIGNUP": choice})


@pytest.mark.parametrize(
    ("path", "value"),
    [("version", "0.1.0"), ("packaging_format", 1), ("integration", {}), ("install", {"x": {"type": "nonsense"}})],
)
def test_a_manifest_that_is_none_is_told(path: str, value: object) -> None:
    assert not Draft7Validator(MANIFEST).is_valid(manifest() | {path: value})


def test_the_template_of_coolify_starts_a_server_that_knows_its_address() -> None:
    text = COOLIFY.read_text()
    headers = dict(re.findall(r"^# (\w+): (.+)$", text, re.MULTILINE))
    assert {"documentation", "slogan", "category", "tags", "port"} <= headers.keys()
    assert (REPOSITORY / headers["documentation"]).is_file()
    service = yaml.safe_load(text)["services"]["godrive"]
    # Coolify runs `docker compose --project-directory ROOT -f ROOT/examples/coolify.yaml`.
    assert (REPOSITORY / service["build"] / "Dockerfile").is_file()
    magic, *settings = service["environment"]
    assert magic == f"SERVICE_URL_GODRIVE_{headers['port']}"
    given = dict(setting.split("=", 1) for setting in settings)
    assert given["GODRIVE_SERVER_PUBLIC_URL"] == "${SERVICE_URL_GODRIVE}", "what Coolify puts in"
    given["GODRIVE_SERVER_PUBLIC_URL"] = "https://drive.example"
    given["GODRIVE_AUTH_SIGNUP"] = re.sub(r"^\$\{\w+:-(\w+)\}$", r"\1", given["GODRIVE_AUTH_SIGNUP"])
    config = load(None, given)
    assert (config.auth.signup, config.server.public_url) == ("closed", "https://drive.example")
    assert "172.16.0.0/12" in config.server.trusted_proxies
    assert service["volumes"] == ["godrive-data:/data"]
    assert f"127.0.0.1:{headers['port']}/readyz" in service["healthcheck"]["test"][-1]
