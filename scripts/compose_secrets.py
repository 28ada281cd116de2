#!/usr/bin/env python3
"""Create the secrets of compose.yaml once, in a separate folder for each container.

Runs in a container before all others.  Existing files are never changed, so the
next start finds the same passwords.
"""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path

BUCKET = "godrive"
WEBHOOK = "http://gateway:8080/v1/events/bucket"


def write(path: Path, text: str) -> None:
    """Write a file with mode 0444, because each image runs as another user.  Only the folder protects it."""
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    draft.chmod(0o444)
    draft.replace(path)


def keep(path: Path, text: str) -> str:
    """Return the content of the file.  Creates it with *text* if it does not exist."""
    if not path.exists():
        write(path, text)
    return path.read_text(encoding="utf-8")


def make(root: Path) -> None:
    """Create missing files below *root*.  All secrets are hexadecimal, so they need no escaping."""
    for name in ("godrive", "postgres", "nats", "store"):
        (root / name).mkdir(mode=0o755, exist_ok=True)
    ours = root / "godrive"
    password = keep(root / "postgres" / "password", secrets.token_hex(24))
    keep(ours / "dsn", f"postgresql://godrive:{password}@postgres:5432/godrive")
    token = keep(ours / "nats-token", secrets.token_hex(24))
    keep(
        root / "nats" / "nats.conf",
        f'http: 8222\njetstream {{ store_dir: /data }}\nauthorization {{ token: "{token}" }}\n',
    )
    access_key = keep(ours / "s3-access-key", secrets.token_hex(10))
    secret_key = keep(ours / "s3-secret-key", secrets.token_hex(24))
    actions = [f"{right}:{BUCKET}" for right in ("Admin", "Read", "Write", "List", "Tagging")]
    identity = {
        "name": "godrive",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": actions,
    }
    keep(root / "store" / "s3.json", json.dumps({"identities": [identity]}, indent=2))
    webhook_token = keep(ours / "webhook-token", secrets.token_hex(24))
    keep(
        root / "store" / "notification.toml",
        f'[notification.webhook]\nenabled = true\nendpoint = "{WEBHOOK}"\nbearer_token = "{webhook_token}"\n'
        'event_types = ["create", "update"]\n'
        f'path_prefixes = ["/buckets/{BUCKET}/objects", "/buckets/{BUCKET}/incoming"]\n',
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
