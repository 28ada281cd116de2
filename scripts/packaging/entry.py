"""The start of the executable: what a Python installation would have set up, then ``godrive.cli``."""

from __future__ import annotations

import os
import sys

# Debian 12 has SQLite 3.40, whose WAL can lose a transaction when it is reset (mended in 3.51.3).
import pysqlite3

sys.modules["sqlite3"] = pysqlite3
sys.modules["sqlite3.dbapi2"] = pysqlite3.dbapi2

# The OpenSSL inside looks for certificates where Debian keeps them; other systems keep them elsewhere.
CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def find_certificates() -> str:
    """Return the system's file of certificate authorities, or the one in the executable."""
    for path in CERTIFICATES:
        if os.access(path, os.R_OK):
            return path
    import certifi  # noqa: PLC0415 - read only if it is needed

    return certifi.where()


if "SSL_CERT_FILE" not in os.environ and "SSL_CERT_DIR" not in os.environ:
    os.environ["SSL_CERT_FILE"] = find_certificates()

from godrive.cli import main  # noqa: E402 - after sqlite3 has been replaced

if __name__ == "__main__":
    sys.exit(main())
