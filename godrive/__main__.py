"""``python -m godrive``."""

from __future__ import annotations

import sys

from godrive.cli import main

if __name__ == "__main__":
    sys.exit(main())
